"""Weights on the words and word pairs of texts: what `tfidf` and the classifier of tasks have in common."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import IrouterError
from irouter._extras import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

# Texts that a term must be in.
_FEWEST_TEXTS: Final = 2
# Characters that are read of a long text, of each end: words beyond add nothing but time.
_SHOWN: Final = 4000


class TermWeights:
    """Term frequencies, and weights on them, as two files that nothing unpickles.

    Args:
        terms: The terms, in the order of their weights.
        weights: Arrays by name: `idf` and `term_weights` have a row per term, others are the owner's.
        purpose: What needs them, for the message of a missing extra.
    """

    def __init__(self, terms: Sequence[str], weights: Mapping[str, NDArray[Any]], *, purpose: str) -> None:
        self.weights = dict(weights)
        self._terms = tuple(terms)
        self._vectorizer = _vectorizer(
            purpose, vocabulary={term: number for number, term in enumerate(self._terms)}
        )
        self._vectorizer.idf_ = self.weights["idf"]

    @staticmethod
    def fit(
        texts: Iterable[str], *, most_terms: int, where: str, purpose: str
    ) -> tuple[list[str], NDArray[np.float32], Any]:
        """Terms of texts, their inverse document frequencies, and the frequencies `[text, term]`.

        Raises:
            IrouterError: When no two texts share a word, or without the extra `[predict]`.
        """
        vectorizer = _vectorizer(purpose, max_features=most_terms, min_df=_FEWEST_TEXTS)
        try:
            frequencies = vectorizer.fit_transform(_shown(texts))
        except ValueError as error:
            raise IrouterError(
                f"{where}: no word is in {_FEWEST_TEXTS} prompts to train on, expected words in common"
            ) from error
        return vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.astype(np.float32), frequencies

    def scores(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """Sum of the weights of each text's terms, `[text, column of term_weights]`."""
        found: NDArray[np.float64] = self._vectorizer.transform(_shown(texts)) @ self.weights["term_weights"]
        return found

    def save(self, folder: Path, *, prefix: str = "") -> None:
        """Writes terms and weights."""
        vocabulary, weights = _files(folder, prefix)
        vocabulary.write_text(json.dumps(self._terms, ensure_ascii=False) + "\n", encoding="utf-8")
        np.savez_compressed(weights, allow_pickle=False, **self.weights)

    @classmethod
    def load(cls, folder: Path, *, prefix: str = "", purpose: str) -> Self:
        """Loads what :meth:`save` wrote.

        Raises:
            IrouterError: For files that do not fit together, or without the extra `[predict]`.
        """
        vocabulary, archive_file = _files(folder, prefix)
        try:
            terms = json.loads(vocabulary.read_text(encoding="utf-8"))
            with np.load(archive_file, allow_pickle=False) as archive:
                weights = {name: archive[name] for name in archive.files}
            shapes = len(terms), len(weights["idf"]), len(weights["term_weights"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise IrouterError(f"{folder}: not the files of {purpose}: {reason}") from error
        if len(set(shapes)) != 1:
            raise IrouterError(
                f"{folder}: terms, idf and weights have {shapes} rows, expected as many of each"
            )
        return cls(terms, weights, purpose=purpose)


def _files(folder: Path, prefix: str) -> tuple[Path, Path]:
    return folder / f"{prefix}vocabulary.json", folder / f"{prefix}weights.npz"


def _vectorizer(purpose: str, **options: Any) -> Any:
    text = require("sklearn.feature_extraction.text", extra="predict", purpose=purpose)
    return text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32, **options)


def _shown(texts: Iterable[str]) -> list[str]:
    return [text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} {text[-_SHOWN:]}" for text in texts]
