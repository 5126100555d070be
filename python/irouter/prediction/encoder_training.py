"""Fine-tuning an encoder on a request log."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import IrouterError
from irouter._extras import require
from irouter.prediction.bins import Bins
from irouter.prediction.encoder_examples import Examples
from irouter.prediction.encoder_inputs import EncoderInputs
from irouter.prediction.pretrained import load_encoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from irouter.prediction.log import RequestLog

DEFAULT_ENCODER: Final = "distilbert-base-uncased"
"""The paper's encoder, for people who reach the Hugging Face hub."""

_WARM_UP: Final = 0.1
_GRADIENT_NORM: Final = 1.0
_WEIGHT_DECAY: Final = 0.01
# The head begins with random weights and has further to go.
_HEAD_RATE: Final = 10


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
        averaging: Share of the weights' running mean that each step keeps. The mean is what is judged and exported; 0
            makes it the last weights.
        bfloat16: Multiplies matrices in 16 bits: twice as fast where the processor can (AVX512-BF16, AMX, GPUs since
            Ampere), far slower where it cannot.
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
    averaging: float = 0.99
    bfloat16: bool = False
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.averaging < 1.0:
            raise IrouterError(f"`averaging` is {self.averaging}, expected at least 0 and below 1")


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
    encoder, tokenizer_file, licence = load_encoder(options.model)
    bins = Bins.fit(train.output_tokens, train.cut, count=options.bins)
    inputs = EncoderInputs(tokenizer_file, max_tokens=options.max_tokens)
    examples, validated = (Examples.of(log, inputs, bins) for log in (train, validation))
    form = torch.from_numpy(examples.form)
    scale = form.std(dim=0).clamp(min=1e-3)
    network = LengthNetwork(encoder, bins.count, form.mean(dim=0), scale).to(device)
    averaged = copy.deepcopy(network).eval()
    groups = [
        {"params": network.encoder.parameters(), "lr": options.learning_rate},
        {"params": network.head.parameters(), "lr": _HEAD_RATE * options.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY, fused=True)
    steps = options.epochs * math.ceil(len(train) / options.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))

    def loss_of(model: Any, some: Examples, rows: Any, ranked: float) -> Any:
        arguments, possible = some.tensors(torch, rows, device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=options.bfloat16):
            logits = model(*arguments)
        return censored_loss(logits.float(), possible, ranked=ranked)

    generator = np.random.default_rng(options.seed)
    best: tuple[float, Any] | None = None
    history, done, step = [], 0, 0
    network.train()
    for epoch in range(options.epochs):
        total = 0.0
        for rows in examples.shuffled(options.batch, generator):
            loss = loss_of(network, examples, rows, options.ranked)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), _GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            step += 1
            with torch.no_grad():
                for mean, weights in zip(averaged.parameters(), network.parameters(), strict=True):
                    mean.lerp_(weights, 1.0 - _kept(step, options.averaging))
            total += float(loss.detach()) * len(rows)
            done += len(rows)
            if progress is not None:
                progress(done, options.epochs * len(train))
        with torch.no_grad():
            unseen = sum(
                float(loss_of(averaged, validated, rows, 0.0)) * len(rows)
                for rows in validated.in_order(options.batch)
            )
        losses = {"train": total / len(train), "validation": unseen / len(validation)}
        history.append({"epoch": float(epoch + 1), **losses})
        if best is None or losses["validation"] < best[0]:
            best = (losses["validation"], copy.deepcopy(averaged.state_dict()))
    if best is not None:
        averaged.load_state_dict(best[1])
    return TrainedEncoder(averaged.cpu(), tokenizer_file, bins, options, tuple(history), licence)


def _kept(step: int, averaging: float) -> float:
    """Share of the mean that a step keeps: less at first, when the mean is of weights that knew nothing."""
    return min(averaging, (1 + step) / (10 + step))


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: up over the first tenth, then down to nothing, both linearly."""
    warm_up = max(1, round(_WARM_UP * steps))
    return min((step + 1) / warm_up, max(0.0, (steps - step) / max(1, steps - warm_up)))
