"""Training a predictor: its back-end, its classifier of tasks, its calibration and its card."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irouter._core import IrouterError
from irouter._names import unknown
from irouter.prediction.artefact import (
    BACKENDS,
    TrainedPredictor,
    backend_class,
    load,
    load_tasks,
    need_empty,
    outcomes,
)
from irouter.prediction.calibration import Calibration, strata_weights
from irouter.prediction.card import CARD, Card, read_card
from irouter.prediction.history import HistoryPredictor
from irouter.prediction.log import SPLITS
from irouter.prediction.metrics import quantile_edges
from irouter.prediction.tasks import TaskClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from irouter.prediction.encoder_training import EncoderOptions
    from irouter.prediction.log import RequestLog


def train(
    log: RequestLog,
    folder: str | Path,
    *,
    backend: str,
    tasks: str | Path = "log",
    encoder: EncoderOptions | None = None,
    licence: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainedPredictor:
    """Trains a predictor on a log's `train` rows, calibrates it on `val`, judges it on `test` and writes its folder.

    Args:
        log: The log.
        folder: Where to write; it must not exist, or be empty.
        backend: `history`, `tfidf` or `encoder`.
        tasks: `log`: as the log names them. `predict`: a classifier learns them from the rows that name theirs, and is
            asked from then on; calibrated and judged is as for requests that name none. A folder: the same with the
            classifier of a predictor that was trained before, for logs without tasks.
        encoder: How an encoder is fine-tuned.
        licence: Licence under which the weights may be used, in place of the encoder's own.
        progress: Called as `progress(done, total)`.

    Raises:
        IrouterError: For a log without rows for a split, a folder that has files, or without the extra that it takes.
    """
    folder = Path(folder)
    need_empty(folder)
    parts = {split: log.part(split) for split in SPLITS}
    classifier, judged = _classifier(tasks, parts)
    if classifier is not None:
        parts = {
            split: part.with_requests(
                classifier.named((part if split == "train" else part.without_tasks()).requests)
            )
            for split, part in parts.items()
        }
    # A folder that is there is whole: it moves to its place when it is written.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        written = Path(temporary) / "predictor"
        written.mkdir()
        options, own_licence = _train_backend(backend, parts, written, encoder, progress)
        if classifier is not None:
            classifier.save(written)
        _write_card(
            written, parts, backend=backend, options=options, licence=licence or own_licence, tasks=judged
        )
        if folder.exists():
            folder.rmdir()
        shutil.move(written, folder)
    return load(folder)


def _write_card(
    folder: Path,
    parts: dict[str, RequestLog],
    *,
    backend: str,
    options: dict[str, Any],
    licence: str | None,
    tasks: dict[str, Any],
) -> None:
    """Calibrates and judges what a back-end has written, and writes its card."""
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
        tasks=tasks,
    )
    predictor = TrainedPredictor(backend_class(backend).load(folder, card), card)
    validation = outcomes(predictor, parts["val"])
    levels = validation.lengths.levels_of(validation.tokens.astype(float))
    weights = strata_weights(
        validation.tokens,
        np.concatenate([parts["train"].output_tokens, validation.tokens]),
        np.concatenate([parts["train"].cut, validation.cut]),
    )
    card = dataclasses.replace(card, calibration=Calibration.fit(levels, validation.cut, weights).levels)
    judged = outcomes(TrainedPredictor(predictor.backend, card), parts["test"])
    confusion = {"edges": list(edges), "counts": judged.confusion(edges).tolist()}
    dataclasses.replace(card, metrics=judged.metrics().to_data(), confusion=confusion).write(folder)


def _classifier(
    tasks: str | Path, parts: dict[str, RequestLog]
) -> tuple[TaskClassifier | None, dict[str, Any]]:
    """The classifier that training is to use, and what a card says of it."""
    if tasks == "log":
        return None, {}
    if tasks == "predict":
        classifier = TaskClassifier.train(parts["train"])
        return classifier, classifier.judged(parts["test"])
    folder = Path(tasks)
    if not (folder / CARD).is_file():
        raise IrouterError(f"tasks `{tasks}`, expected `log`, `predict` or the folder of a predictor")
    card = read_card(folder)
    found = load_tasks(folder, card)
    if found is None:
        raise IrouterError(
            f"{folder}: no classifier of tasks, expected a predictor that was trained with `predict`"
        )
    return found, dict(card.tasks)


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
