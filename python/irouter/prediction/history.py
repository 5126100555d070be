"""The predictor that needs no text: what finished requests of the same kind produced."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter import _core
from irouter._core import IrouterError
from irouter.prediction.distribution import LengthDistribution
from irouter.prediction.requests import Requests, application_number, estimated_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from irouter.prediction.card import Card
    from irouter.prediction.log import RequestLog

_FILE: Final = "history.json"
_FIELDS: Final = ("application", "prompt_tokens", "output_tokens", "cut")
# Rows that a folder keeps: far more than the windows hold of any kind of request.
_MOST_ROWS: Final = 65_536


class HistoryPredictor:
    """Running quantiles per application (or task) and size of the prompt, learned from requests that end.

    Needs no text but its size, no extra and no training. Memory is bounded. Safe to call from several threads.

    Example:
        >>> predictor = HistoryPredictor()
        >>> for _ in range(100):
        ...     predictor.observe("Translate this.", 20, app="translator")
        >>> round(predictor.predict(["Translate that."], apps=["translator"]).median[0])
        20
    """

    def __init__(self) -> None:
        self._model = _core.LengthHistory()

    def predict(
        self,
        prompts: Sequence[str],
        tasks: Sequence[str | None] | None = None,
        apps: Sequence[str | None] | None = None,
    ) -> LengthDistribution:
        """As :meth:`irouter.prediction.LengthPredictor.predict`."""
        return self.predict_requests(Requests.check(prompts, tasks, apps))

    def predict_requests(self, requests: Requests) -> LengthDistribution:
        """The same for requests that are checked."""
        tokens = np.array([estimated_tokens(prompt) for prompt in requests.prompts], dtype=np.int64)
        numbers = [
            application_number(app, task) for app, task in zip(requests.apps, requests.tasks, strict=True)
        ]
        return LengthDistribution(self._model.predict(np.array(numbers, dtype=np.int64), tokens))

    def observe(
        self,
        prompt: str,
        output_tokens: int,
        *,
        task: str | None = None,
        app: str | None = None,
        cut: bool = False,
    ) -> None:
        """As :meth:`irouter.prediction.LearningPredictor.observe`."""
        number, tokens = application_number(app, task), estimated_tokens(prompt)
        self._model.observe(number, tokens, output_tokens, cut=cut)

    @classmethod
    def from_log(cls, log: RequestLog) -> HistoryPredictor:
        """Learns a log, in its order."""
        predictor = cls()
        predictor._learn(_columns(log))
        return predictor

    @classmethod
    def load(cls, folder: Path, card: Card) -> HistoryPredictor:
        """Learns again what a folder keeps.

        Raises:
            IrouterError: For a file that does not have what it should.
        """
        del card
        path = folder / _FILE
        try:
            columns = json.loads(path.read_text(encoding="utf-8"))
            rows = {len(columns[field]) for field in _FIELDS}
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise IrouterError(f"{path}: {reason}; expected the columns {', '.join(_FIELDS)}") from error
        if len(rows) != 1:
            raise IrouterError(f"{path}: columns of {sorted(rows)} rows, expected as many in each")
        predictor = cls()
        predictor._learn(columns)
        return predictor

    @staticmethod
    def save(log: RequestLog, folder: Path) -> None:
        """Keeps the newest rows of a log, without their texts."""
        (folder / _FILE).write_text(json.dumps(_columns(log)) + "\n", encoding="utf-8")

    def _learn(self, columns: dict[str, Any]) -> None:
        for application, prompt_tokens, output_tokens, cut in zip(
            *(columns[field] for field in _FIELDS), strict=True
        ):
            self._model.observe(application, prompt_tokens, output_tokens, cut=bool(cut))


def _columns(log: RequestLog) -> dict[str, list[int]]:
    first = max(0, len(log) - _MOST_ROWS)
    requests = log.requests
    names = zip(requests.apps[first:], requests.tasks[first:], strict=True)
    return {
        "application": [application_number(app, task) for app, task in names],
        "prompt_tokens": [estimated_tokens(prompt) for prompt in requests.prompts[first:]],
        "output_tokens": log.output_tokens[first:].tolist(),
        "cut": log.cut[first:].astype(int).tolist(),
    }
