"""What a prompt asks for, where nobody says so: the classifier of tasks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import IrouterError
from irouter._extras import require
from irouter.prediction.terms import TermWeights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from irouter.prediction.log import RequestLog
    from irouter.prediction.requests import Requests

_PURPOSE: Final = "the classifier of tasks"
_PREFIX: Final = "tasks-"
_TERMS: Final = 20_000
# Inverse strength of the penalty, as for lengths.
_INVERSE_PENALTY: Final = 4.0
_MOST_ITERATIONS: Final = 200


class TaskClassifier:
    """Names the task of requests that name none, so that predictors can be told it (Jain et al., appendix A.7).

    Term frequencies with a multinomial regression. The paper fine-tunes a second encoder for this; words alone do it
    as well at a thousandth of the cost. Made by :meth:`train` or :meth:`load`. Safe to call from several threads.

    Attributes:
        names: The tasks that it tells apart.
    """

    def __init__(self, names: Sequence[str], terms: TermWeights) -> None:
        self.names = tuple(names)
        self._terms = terms

    @classmethod
    def train(cls, log: RequestLog) -> TaskClassifier:
        """Trains on the rows of a log that name their task.

        Raises:
            IrouterError: For a log that names fewer than two tasks, or without the extra `[predict]`.
        """
        linear = require("sklearn.linear_model", extra="predict", purpose=_PURPOSE)
        tasks = log.requests.tasks
        rows = [row for row, task in enumerate(tasks) if task is not None]
        named = [task for task in tasks if task is not None]
        names = sorted({*named})
        if len(names) < 2:  # noqa: PLR2004 - nothing to tell apart
            found = f"only `{names[0]}`" if names else "none"
            raise IrouterError(
                f"{log.name}: the tasks of the rows to train on are {found}, expected at least two"
            )
        terms, idf, frequencies = TermWeights.fit(
            (log.requests.prompts[row] for row in rows), most_terms=_TERMS, where=log.name, purpose=_PURPOSE
        )
        regression = linear.LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MOST_ITERATIONS)
        regression.fit(frequencies, np.searchsorted(names, named))
        coefficients, intercept = regression.coef_.T, regression.intercept_
        if len(names) == 2:  # noqa: PLR2004 - of two classes a regression knows the odds of the second
            coefficients = np.concatenate([-coefficients / 2, coefficients / 2], axis=1)
            intercept = np.array([-intercept[0] / 2, intercept[0] / 2])
        weights = {
            "idf": idf,
            "term_weights": coefficients.astype(np.float32),
            "intercept": intercept.astype(np.float32),
        }
        return cls(names, TermWeights(terms, weights, purpose=_PURPOSE))

    def tasks_of(self, prompts: Sequence[str]) -> list[str]:
        """The likeliest task of each prompt."""
        if not prompts:
            return []
        scores = self._terms.scores(prompts) + self._terms.weights["intercept"]
        return [self.names[number] for number in scores.argmax(axis=1)]

    def named(self, requests: Requests) -> Requests:
        """The requests, those without a task with the likeliest."""
        unnamed = [row for row, task in enumerate(requests.tasks) if task is None]
        found = self.tasks_of([requests.prompts[row] for row in unnamed])
        tasks = list(requests.tasks)
        for row, task in zip(unnamed, found, strict=True):
            tasks[row] = task
        return dataclasses.replace(requests, tasks=tuple(tasks))

    def judged(self, log: RequestLog) -> dict[str, Any]:
        """What a card says of it, from rows that name their task and that it never saw.

        `accuracy` and `majority` (that of always guessing the most frequent) are `None` without such rows; `counts` are
        requests by task that was named, then by task that was found, in the order of `names`.
        """
        number = {name: place for place, name in enumerate(self.names)}
        rows = [row for row, task in enumerate(log.requests.tasks) if task in number]
        actual = np.array([number[str(log.requests.tasks[row])] for row in rows], dtype=np.int64)
        found = self.tasks_of([log.requests.prompts[row] for row in rows])
        counts = np.zeros((len(self.names), len(self.names)), dtype=np.int64)
        np.add.at(counts, (actual, np.array([number[name] for name in found], dtype=np.int64)), 1)
        return {
            "names": list(self.names),
            "rows": len(rows),
            "accuracy": float(np.trace(counts) / len(rows)) if rows else None,
            "majority": float(counts.sum(axis=1).max() / len(rows)) if rows else None,
            "counts": counts.tolist(),
        }

    def save(self, folder: Path) -> None:
        """Writes its files beside those of a predictor."""
        self._terms.save(folder, prefix=_PREFIX)

    @classmethod
    def load(cls, folder: Path, names: Sequence[str]) -> TaskClassifier:
        """Loads what :meth:`save` wrote.

        Args:
            folder: The predictor's folder.
            names: The tasks, which its card has.

        Raises:
            IrouterError: For files that do not fit together, or without the extra `[predict]`.
        """
        terms = TermWeights.load(folder, prefix=_PREFIX, purpose=_PURPOSE)
        columns = terms.weights["term_weights"].shape[1]
        if columns != len(names):
            raise IrouterError(
                f"{folder}: weights for {columns} tasks, expected {len(names)} as its card names"
            )
        return cls(names, terms)
