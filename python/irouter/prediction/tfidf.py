"""The predictor of words and word pairs: trains in seconds, runs in a fraction of a millisecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import IrouterError
from irouter._extras import require
from irouter.prediction.bins import Bins
from irouter.prediction.requests import Requests
from irouter.prediction.terms import TermWeights
from irouter.prediction.text import form_features

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irouter.prediction.card import Card
    from irouter.prediction.distribution import LengthDistribution
    from irouter.prediction.log import RequestLog

_BINS: Final = 5
_TERMS: Final = 30_000
# Inverse strength of the penalty: the best of 1 and 4 on the validation rows of three sets.
_INVERSE_PENALTY: Final = 4.0
_MOST_ITERATIONS: Final = 200
# The form's figures beside terms whose weights are below 1.
_FORM_WEIGHT: Final = 0.3
# Rounds in which cut lengths are put where the model so far expects them.
_ROUNDS: Final = 2
_PURPOSE: Final = "the predictor `tfidf`"


class TfidfPredictor:
    """Term frequencies and the prompt's form, with a multinomial regression over bins of lengths.

    Made by :meth:`train` or :meth:`load`. Safe to call from several threads.
    """

    def __init__(self, terms: TermWeights, bins: Bins) -> None:
        self._terms = terms
        self._bins = bins

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
        weights = self._terms.weights
        form = (form_features(requests.prompts) - weights["form_mean"]) / weights["form_scale"]
        logits = (
            self._terms.scores(requests.with_hints())
            + _FORM_WEIGHT * form @ weights["form_weights"]
            + weights["intercept"]
        )
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return self._bins.distribution(odds / odds.sum(axis=1, keepdims=True))

    @classmethod
    def train(cls, log: RequestLog) -> TfidfPredictor:
        """Trains on a log.

        A cut length counts in every bin that it may lie in, by the model's own probabilities: two rounds of expectation
        maximisation, which begin with the log's shares.

        Raises:
            IrouterError: For a log whose lengths are all alike, or whose prompts share no word, or without the extra
                `[predict]`.
        """
        linear = require("sklearn.linear_model", extra="predict", purpose=_PURPOSE)
        sparse = require("scipy.sparse", extra="predict", purpose=_PURPOSE)
        bins = Bins.fit(log.output_tokens, log.cut, count=_BINS)
        if len(np.unique(bins.index(log.output_tokens))) < 2:  # noqa: PLR2004 - nothing to tell apart
            raise IrouterError(f"{log.name}: all lengths lie in one bin, expected lengths that differ")
        terms, idf, frequencies = TermWeights.fit(
            log.requests.with_hints(), most_terms=_TERMS, where=log.name, purpose=_PURPOSE
        )
        form = form_features(log.requests.prompts)
        mean, scale = form.mean(axis=0), np.maximum(form.std(axis=0), 1e-3)
        features = sparse.hstack(
            [frequencies, sparse.csr_matrix(_FORM_WEIGHT * (form - mean) / scale)], format="csr"
        )
        possible = bins.possible(log.output_tokens, log.cut)
        share = possible / possible.sum(axis=1, keepdims=True)
        regression = linear.LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MOST_ITERATIONS)
        for last in range(_ROUNDS if log.cut.any() else 1):
            rows, targets = np.nonzero(share)
            regression.fit(features[rows], targets, sample_weight=share[rows, targets])
            if last + 1 < _ROUNDS and log.cut.any():
                expected = possible * _all_bins(regression.classes_, regression.predict_proba(features))
                share = expected / expected.sum(axis=1, keepdims=True)
        coefficients = _all_bins(regression.classes_, np.atleast_2d(regression.coef_).T, fill=0.0)
        intercept = _all_bins(regression.classes_, regression.intercept_[None, :], fill=-30.0)[0]
        weights = {
            "idf": idf,
            "term_weights": coefficients[: len(terms)].astype(np.float32),
            "form_weights": coefficients[len(terms) :].astype(np.float32),
            "intercept": intercept.astype(np.float32),
            "form_mean": mean.astype(np.float32),
            "form_scale": scale.astype(np.float32),
        }
        return cls(TermWeights(terms, weights, purpose=_PURPOSE), bins)

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes terms and weights, and returns what :meth:`load` wants of the card."""
        self._terms.save(folder)
        return {"bins": self._bins.to_data()}

    @classmethod
    def load(cls, folder: Path, card: Card) -> TfidfPredictor:
        """Loads what :meth:`save` wrote. Nothing is unpickled.

        Raises:
            IrouterError: For files that do not fit together, or without the extra `[predict]`.
        """
        terms = TermWeights.load(folder, purpose=_PURPOSE)
        return cls(terms, Bins.from_data(card.options.get("bins", {})))


def _all_bins(
    classes: NDArray[np.int64], columns: NDArray[np.float64], *, fill: float = 0.0
) -> NDArray[np.float64]:
    """Columns of every bin, from those of the bins that training has seen."""
    if columns.shape[1] == 1:
        # Of two classes, a regression knows the odds of the second.
        columns = np.concatenate([-columns / 2, columns / 2], axis=1)
    result = np.full((len(columns), _BINS), fill)
    result[:, classes] = columns
    return result
