"""The predictor of words and word pairs: trains in seconds, runs in a fraction of a millisecond."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import IrouterError
from irouter._extras import require
from irouter.prediction.bins import Bins
from irouter.prediction.requests import Requests
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
# Prompts that a term must be in.
_FEWEST_PROMPTS: Final = 2
# Inverse strength of the penalty: the best of 1 and 4 on the validation rows of three sets.
_INVERSE_PENALTY: Final = 4.0
_MOST_ITERATIONS: Final = 200
# The form's figures beside terms whose weights are below 1.
_FORM_WEIGHT: Final = 0.3
# Rounds in which cut lengths are put where the model so far expects them.
_ROUNDS: Final = 2
# Characters that are read of a long prompt, of each end: words beyond add nothing but time.
_SHOWN: Final = 4000
_VOCABULARY: Final = "vocabulary.json"
_WEIGHTS: Final = "weights.npz"


class TfidfPredictor:
    """Term frequencies and the prompt's form, with a multinomial regression over bins of lengths.

    Made by :meth:`train` or :meth:`load`. Safe to call from several threads.
    """

    def __init__(self, vocabulary: Sequence[str], weights: dict[str, NDArray[Any]], bins: Bins) -> None:
        self._terms = tuple(vocabulary)
        self._weights = weights
        self._bins = bins
        self._vectorizer = _vectorizer(vocabulary={term: number for number, term in enumerate(vocabulary)})
        self._vectorizer.idf_ = weights["idf"]

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
        form = (form_features(requests.prompts) - self._weights["form_mean"]) / self._weights["form_scale"]
        logits = (
            self._vectorizer.transform(_texts(requests)) @ self._weights["term_weights"]
            + _FORM_WEIGHT * form @ self._weights["form_weights"]
            + self._weights["intercept"]
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
        linear = require("sklearn.linear_model", extra="predict", purpose="the predictor `tfidf`")
        sparse = require("scipy.sparse", extra="predict", purpose="the predictor `tfidf`")
        bins = Bins.fit(log.output_tokens, log.cut, count=_BINS)
        if len(np.unique(bins.index(log.output_tokens))) < 2:  # noqa: PLR2004 - nothing to tell apart
            raise IrouterError(f"{log.name}: all lengths lie in one bin, expected lengths that differ")
        vectorizer = _vectorizer(max_features=_TERMS, min_df=_FEWEST_PROMPTS)
        try:
            terms = vectorizer.fit_transform(_texts(log.requests))
        except ValueError as error:
            raise IrouterError(
                f"{log.name}: no word is in {_FEWEST_PROMPTS} prompts to train on, expected words in common"
            ) from error
        form = form_features(log.requests.prompts)
        mean, scale = form.mean(axis=0), np.maximum(form.std(axis=0), 1e-3)
        features = sparse.hstack(
            [terms, sparse.csr_matrix(_FORM_WEIGHT * (form - mean) / scale)], format="csr"
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
            "idf": vectorizer.idf_.astype(np.float32),
            "term_weights": coefficients[: terms.shape[1]].astype(np.float32),
            "form_weights": coefficients[terms.shape[1] :].astype(np.float32),
            "intercept": intercept.astype(np.float32),
            "form_mean": mean.astype(np.float32),
            "form_scale": scale.astype(np.float32),
        }
        return cls(vectorizer.get_feature_names_out().tolist(), weights, bins)

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes terms and weights, and returns what :meth:`load` wants of the card."""
        text = json.dumps(self._terms, ensure_ascii=False)
        (folder / _VOCABULARY).write_text(text + "\n", encoding="utf-8")
        np.savez_compressed(folder / _WEIGHTS, allow_pickle=False, **self._weights)
        return {"bins": self._bins.to_data()}

    @classmethod
    def load(cls, folder: Path, card: Card) -> TfidfPredictor:
        """Loads what :meth:`save` wrote. Nothing is unpickled.

        Raises:
            IrouterError: For files that do not fit together, or without the extra `[predict]`.
        """
        try:
            terms = json.loads((folder / _VOCABULARY).read_text(encoding="utf-8"))
            with np.load(folder / _WEIGHTS, allow_pickle=False) as archive:
                weights = {name: archive[name] for name in archive.files}
            shapes = len(terms), len(weights["idf"]), len(weights["term_weights"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise IrouterError(f"{folder}: not the files of a `tfidf` predictor: {reason}") from error
        if len(set(shapes)) != 1:
            raise IrouterError(
                f"{folder}: terms, idf and weights have {shapes} rows, expected as many of each"
            )
        return cls(terms, weights, Bins.from_data(card.options.get("bins", {})))


def _vectorizer(**options: Any) -> Any:
    text = require("sklearn.feature_extraction.text", extra="predict", purpose="the predictor `tfidf`")
    return text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32, **options)


def _texts(requests: Requests) -> list[str]:
    return [
        text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} {text[-_SHOWN:]}"
        for text in requests.with_hints()
    ]


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
