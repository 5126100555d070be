"""Predictors as folders: loaded, exported and judged."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from irouter._core import IrouterError
from irouter._names import unknown
from irouter.prediction.calibration import Calibration
from irouter.prediction.card import Card, read_card
from irouter.prediction.distribution import LengthDistribution
from irouter.prediction.metrics import Outcomes
from irouter.prediction.requests import Requests
from irouter.prediction.tasks import TaskClassifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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

    Args:
        backend: See above.
        card: See above.
        classifier: Names the task of requests that name none.
    """

    def __init__(self, backend: Any, card: Card, classifier: TaskClassifier | None = None) -> None:
        self.card = card
        self.backend = backend
        self._classifier = classifier
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
        """The same for requests that are checked. The buckets are the card's five.

        Requests without a task get the likeliest, where the folder has a classifier of tasks.
        """
        # Libraries do not all take a batch of nothing.
        lengths = LengthDistribution.concatenate([])
        if len(requests):
            if self._classifier is not None:
                requests = self._classifier.named(requests)
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
    return TrainedPredictor(
        backend_class(card.backend).load(folder, card, **options), card, load_tasks(folder, card)
    )


def load_tasks(folder: Path, card: Card) -> TaskClassifier | None:
    """The classifier of tasks of a predictor's folder, where it has one."""
    return TaskClassifier.load(folder, card.tasks["names"]) if card.tasks else None


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
    need_empty(target)
    target.mkdir(exist_ok=True)
    left_out = {file for name, file in encoder.PRECISIONS.items() if name != precision}
    for name in card.files.keys() - left_out:
        shutil.copyfile(folder / name, target / name)
    dataclasses.replace(card, options={**card.options, "precision": precision}).write(target)


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


def need_empty(folder: Path) -> None:
    """Refuses a folder that cannot be written without losing what is there.

    Raises:
        IrouterError: For one that has files, or has no parent.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IrouterError(f"{folder} exists, expected an empty folder or none")
    if not folder.parent.is_dir():
        raise IrouterError(f"no folder {folder.parent} for {folder.name}")


def backend_class(name: str) -> Any:
    """The class of a back-end.

    Raises:
        IrouterError: For a name that is none.
    """
    if name not in BACKENDS:
        raise unknown("back-end", name, BACKENDS, f"known are {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
