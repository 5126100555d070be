"""Predictors as folders: trained, written, loaded and judged."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from irouter._core import IrouterError
from irouter._names import unknown
from irouter.prediction.calibration import Calibration
from irouter.prediction.card import Card, read_card
from irouter.prediction.distribution import LengthDistribution
from irouter.prediction.history import HistoryPredictor
from irouter.prediction.metrics import Outcomes, quantile_edges
from irouter.prediction.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from irouter.prediction.encoder_training import EncoderOptions
    from irouter.prediction.log import RequestLog

BACKENDS: Final = {
    "encoder": "irouter.prediction.encoder:EncoderPredictor",
    "history": "irouter.prediction.history:HistoryPredictor",
    "tfidf": "irouter.prediction.tfidf:TfidfPredictor",
}
"""Class of each back-end, which is imported when it is used."""

# Requests per call when a log is predicted: memory stays bounded, progress is seen.
_CHUNK: Final = 256


class TrainedPredictor:
    """A predictor from its folder: its back-end, calibrated. Safe to call from several threads.

    Attributes:
        card: What its folder says of it.
        backend: The predictor below the calibration.
    """

    def __init__(self, backend: Any, card: Card) -> None:
        self.card = card
        self.backend = backend
        self._calibration = Calibration(card.calibration)

    def predict(
        self,
        prompts: Sequence[str],
        tasks: Sequence[str | None] | None = None,
        apps: Sequence[str | None] | None = None,
    ) -> LengthDistribution:
        """As :meth:`irouter.prediction.LengthPredictor.predict`."""
        return self.predict_requests(Requests.check(prompts, tasks, apps))

    def predict_requests(self, requests: Requests) -> LengthDistribution:
        """The same for requests that are checked. The buckets are the card's five."""
        # Libraries do not all take a batch of nothing.
        lengths = LengthDistribution.concatenate([])
        if len(requests):
            lengths = self._calibration.apply(self.backend.predict_requests(requests))
        return dataclasses.replace(lengths, edges=self.card.bucket_edges)


def load(folder: str | Path, **options: Any) -> TrainedPredictor:
    """Loads a predictor from its folder. Nothing is unpickled.

    Args:
        folder: A folder that `irouter predictor train` wrote.
        options: For an `encoder`: `precision` (`fp32` or `int8`) and `threads`.

    Raises:
        IrouterError: For a folder that is no predictor's or of another version, or without the extra `[predict]`.
    """
    folder = Path(folder)
    card = read_card(folder)
    return TrainedPredictor(_backend(card.backend).load(folder, card, **options), card)


def train(
    log: RequestLog,
    folder: str | Path,
    *,
    backend: str,
    encoder: EncoderOptions | None = None,
    licence: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainedPredictor:
    """Trains a predictor on a log's `train` rows, calibrates it on `val`, judges it on `test` and writes its folder.

    Args:
        log: The log.
        folder: Where to write; it must not exist, or be empty.
        backend: `history`, `tfidf` or `encoder`.
        encoder: How an encoder is fine-tuned.
        licence: Licence under which the weights may be used, in place of the encoder's own.
        progress: Called as `progress(done, total)`.

    Raises:
        IrouterError: For a log without rows for a split, a folder that has files, or without the extra that it takes.
    """
    folder = Path(folder)
    _need_empty(folder)
    parts = {split: log.part(split) for split in ("train", "val", "test")}
    # A folder that is there is whole: it moves to its place when it is written.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        written = Path(temporary) / "predictor"
        written.mkdir()
        options, own_licence = _train_backend(backend, parts, written, encoder, progress)
        write_card(written, parts, backend=backend, options=options, licence=licence or own_licence)
        if folder.exists():
            folder.rmdir()
        shutil.move(written, folder)
    return load(folder)


def export(folder: str | Path, target: str | Path, *, precision: str) -> None:
    """Copies an encoder with weights of one precision alone.

    Args:
        folder: Folder of the encoder.
        target: Where to write; it must not exist, or be empty.
        precision: `fp32` or `int8`.

    Raises:
        IrouterError: For a predictor that is no encoder, or does not have the precision.
    """
    folder, target = Path(folder), Path(target)
    card = read_card(folder)
    if card.backend != "encoder":
        raise IrouterError(f"{folder}: back-end `{card.backend}`, expected an `encoder`")
    encoder = importlib.import_module("irouter.prediction.encoder")
    # Loads it, so that what is written is known to work.
    encoder.EncoderPredictor.load(folder, card, precision=precision)
    _need_empty(target)
    target.mkdir(exist_ok=True)
    for name in (encoder.TOKENIZER, encoder.PRECISIONS[precision]):
        shutil.copyfile(folder / name, target / name)
    dataclasses.replace(card, options={**card.options, "precision": precision}).write(target)


def write_card(
    folder: Path,
    parts: dict[str, RequestLog],
    *,
    backend: str,
    options: dict[str, Any],
    licence: str | None,
) -> None:
    """Calibrates and judges what a back-end has written, and writes its card.

    Args:
        folder: Folder with the back-end's files.
        parts: The rows by split.
        backend: Name of the back-end.
        options: What it wants of the card.
        licence: Licence of the weights.
    """
    edges = quantile_edges(parts["train"].output_tokens, parts["train"].cut)
    names = {split: len(part) for split, part in parts.items()}
    rows = sum(names.values())
    card = Card(
        backend=backend,
        data={
            "name": parts["train"].name,
            "rows": rows,
            "cut": int(sum(part.cut.sum() for part in parts.values())),
            "splits": names,
        },
        licence=licence,
        bucket_edges=edges,
        calibration=Calibration().levels,
        metrics={},
        confusion={},
        options=options,
    )
    predictor = TrainedPredictor(_backend(backend).load(folder, card), card)
    validation = outcomes(predictor, parts["val"])
    levels = validation.lengths.levels_of(validation.tokens.astype(float))
    card = dataclasses.replace(card, calibration=Calibration.fit(levels, validation.cut).levels)
    judged = outcomes(TrainedPredictor(predictor.backend, card), parts["test"])
    confusion = {"edges": list(edges), "counts": judged.confusion(edges).tolist()}
    dataclasses.replace(card, metrics=judged.metrics().to_data(), confusion=confusion).write(folder)


def outcomes(
    predictor: TrainedPredictor,
    log: RequestLog,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Outcomes:
    """Predicts a log, beside the lengths that came."""
    parts = []
    for start in range(0, len(log), _CHUNK):
        requests = log.requests[start : start + _CHUNK]
        parts.append(predictor.predict_requests(requests))
        if progress is not None:
            progress(min(start + _CHUNK, len(log)), len(log))
    lengths = LengthDistribution.concatenate(parts)
    return Outcomes(lengths, log.output_tokens, log.cut, predictor.card.bucket_edges)


def _need_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IrouterError(f"{folder} exists, expected an empty folder or none")
    if not folder.parent.is_dir():
        raise IrouterError(f"no folder {folder.parent} for {folder.name}")


def _train_backend(
    backend: str,
    parts: dict[str, RequestLog],
    folder: Path,
    encoder: EncoderOptions | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Any], str | None]:
    """Trains a back-end and writes its files; what it wants of the card, and the licence that it inherits."""
    if backend == "history":
        HistoryPredictor.save(parts["train"], folder)
        return {}, None
    if backend == "tfidf":
        from irouter.prediction.tfidf import TfidfPredictor  # noqa: PLC0415 - needs the extra [predict]

        return TfidfPredictor.train(parts["train"]).save(folder), None
    if backend == "encoder":
        from irouter.prediction import encoder_export, encoder_training  # noqa: PLC0415 - need the extra [train]

        options = encoder or encoder_training.EncoderOptions()
        trained = encoder_training.fine_tune(parts["train"], parts["val"], options, progress=progress)
        exported = encoder_export.export(trained, parts["val"], folder)
        training = dataclasses.asdict(options) | {"model": Path(options.model).name}
        return {**exported, "training": training, "losses": list(trained.history)}, trained.licence
    raise unknown("back-end", backend, BACKENDS, f"known are {', '.join(BACKENDS)}")


def _backend(name: str) -> Any:
    if name not in BACKENDS:
        raise unknown("back-end", name, BACKENDS, f"known are {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
