"""Fine-tuning an encoder on a request log."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import IrouterError
from irouter._extras import require
from irouter.prediction.bins import Bins
from irouter.prediction.encoder_inputs import EncoderInputs
from irouter.prediction.text import form_features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from irouter.prediction.log import RequestLog

DEFAULT_ENCODER: Final = "distilbert-base-uncased"
"""The paper's encoder, for people who reach the Hugging Face hub."""

_WARM_UP: Final = 0.1
_GRADIENT_NORM: Final = 1.0
# Rows of a batch have about one length: so many batches are drawn together and sorted.
_POOL_BATCHES: Final = 50


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """How an encoder is fine-tuned.

    Attributes:
        model: Name of a Hugging Face encoder, or its folder.
        bins: Bins of lengths that the head tells apart.
        max_tokens: Most tokens of a prompt with its hint; of a longer one the two ends are read.
        epochs: Passes over the log. The weights of the one that does best on the validation rows are kept.
        batch: Rows per step.
        learning_rate: Of the encoder; the head's is ten times as high.
        ranked: Weight of the ranked probability score beside the likelihood.
        seed: Seed of the order of rows and of dropout.
        threads: Threads of torch; 0 leaves them to it.
    """

    model: str = DEFAULT_ENCODER
    bins: int = 10
    max_tokens: int = 128
    epochs: int = 4
    batch: int = 32
    learning_rate: float = 1e-4
    ranked: float = 0.5
    seed: int = 0
    threads: int = 0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TrainedEncoder:
    """A fine-tuned encoder, still in torch.

    Attributes:
        network: The `LengthNetwork`.
        tokenizer_file: Its tokenizer.
        bins: The bins of its head.
        options: How it was trained.
        history: Loss per epoch on the training and the validation rows.
        licence: Licence of the encoder, where its folder says so.
    """

    network: Any
    tokenizer_file: Path
    bins: Bins
    options: EncoderOptions
    history: tuple[dict[str, float], ...]
    licence: str | None


def fine_tune(
    train: RequestLog,
    validation: RequestLog,
    options: EncoderOptions,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> TrainedEncoder:
    """Fine-tunes an encoder.

    Args:
        train: Rows to learn from.
        validation: Rows that choose the epoch.
        options: How.
        progress: Called as `progress(done, total)` in rows.

    Raises:
        IrouterError: For an encoder that cannot be loaded, or without the extra `[train]`.
    """
    torch = require("torch", extra="train", purpose="fine-tuning an encoder")
    from irouter.prediction.encoder_network import LengthNetwork, censored_loss  # noqa: PLC0415 - needs torch

    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, tokenizer_file, licence = _load(options.model)
    bins = Bins.fit(train.output_tokens, train.cut, count=options.bins)
    inputs = EncoderInputs(tokenizer_file, max_tokens=options.max_tokens)
    sets = [_Examples.of(log, inputs, bins) for log in (train, validation)]
    form = torch.from_numpy(sets[0].form)
    scale = form.std(dim=0).clamp(min=1e-3)
    network = LengthNetwork(encoder, bins.count, form.mean(dim=0), scale).to(device)
    groups = [
        {"params": network.encoder.parameters(), "lr": options.learning_rate},
        {"params": network.head.parameters(), "lr": 10 * options.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = options.epochs * math.ceil(len(train) / options.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    generator = np.random.default_rng(options.seed)
    best, history, done = None, [], 0
    for epoch in range(options.epochs):
        network.train()
        total = 0.0
        for rows in _batches(sets[0].lengths, options.batch, generator):
            arguments, possible = sets[0].tensors(torch, inputs, rows, device)
            loss = censored_loss(network(*arguments), possible, ranked=options.ranked)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), _GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
            done += len(rows)
            if progress is not None:
                progress(done, options.epochs * len(train))
        network.eval()
        validated = 0.0
        with torch.no_grad():
            for rows in _in_order(sets[1].lengths, options.batch):
                arguments, possible = sets[1].tensors(torch, inputs, rows, device)
                validated += float(censored_loss(network(*arguments), possible, ranked=0.0)) * len(rows)
        losses = {"train": total / len(train), "validation": validated / len(validation)}
        history.append({"epoch": float(epoch + 1), **losses})
        if best is None or losses["validation"] < best[0]:
            best = (losses["validation"], copy.deepcopy(network.state_dict()))
    if best is not None:
        network.load_state_dict(best[1])
    return TrainedEncoder(network.cpu().eval(), tokenizer_file, bins, options, tuple(history), licence)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Examples:
    """Rows of a log as a network takes them."""

    rows: list[list[int]]
    form: NDArray[np.float32]
    possible: NDArray[np.float32]

    @classmethod
    def of(cls, log: RequestLog, inputs: EncoderInputs, bins: Bins) -> _Examples:
        possible = bins.possible(log.output_tokens, log.cut).astype(np.float32)
        return cls(inputs.rows(log.requests), form_features(log.requests.prompts), possible)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(row) for row in self.rows])

    def tensors(
        self, torch: Any, inputs: EncoderInputs, rows: NDArray[np.int64], device: str
    ) -> tuple[tuple[Any, ...], Any]:
        batch = inputs.batch([self.rows[row] for row in rows])
        arrays = (batch.input_ids, batch.attention_mask, self.form[rows], self.possible[rows])
        *arguments, possible = (torch.from_numpy(array).to(device) for array in arrays)
        return tuple(arguments), possible


def _load(model: str) -> tuple[Any, Path, str | None]:
    """The encoder, its tokenizer's file and its licence."""
    transformers = require("transformers", extra="train", purpose="fine-tuning an encoder")
    try:
        encoder = transformers.AutoModel.from_pretrained(model)
        folder = Path(model)
        if folder.is_dir():
            tokenizer_file = folder / "tokenizer.json"
        else:
            hub = require("huggingface_hub", extra="train", purpose="fine-tuning an encoder")
            tokenizer_file = Path(hub.hf_hub_download(model, "tokenizer.json"))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise IrouterError(
            f"encoder {model!r} cannot be loaded: {reason}; expected a Hugging Face encoder by name, or its folder"
        ) from error
    if not tokenizer_file.is_file():
        raise IrouterError(f"encoder {model!r}: no file {tokenizer_file}")
    # A model that a caller may not touch stays as it is.
    return encoder, tokenizer_file, _licence(Path(model) / "README.md")


def _licence(readme: Path) -> str | None:
    """What the model card of a folder names as its licence."""
    if not readme.is_file():
        return None
    for line in readme.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"license", "licence"}:
            return value.strip()
    return None


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: up over the first tenth, then down to nothing, both linearly."""
    warm_up = max(1, round(_WARM_UP * steps))
    return min((step + 1) / warm_up, max(0.0, (steps - step) / max(1, steps - warm_up)))


def _batches(
    lengths: NDArray[np.int64], size: int, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """All rows in random batches of about one length each, so that little is padded."""
    order = generator.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), size * _POOL_BATCHES):
        pool = order[start : start + size * _POOL_BATCHES]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[begin : begin + size] for begin in range(0, len(pool), size)]
    for number in generator.permutation(len(batches)):
        yield batches[number]


def _in_order(lengths: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]
