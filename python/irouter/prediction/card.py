"""A predictor's folder and the card in it, which says what it is and how good it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from irouter import _core
from irouter._core import IrouterError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CARD: Final = "card.json"
"""Name of the card in a predictor's folder."""

FORMAT_VERSION: Final = 1
"""Version of the folder. Another one is refused."""

_KIND: Final = "irouter-predictor"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a predictor's folder says of itself.

    Attributes:
        backend: `history`, `tfidf` or `encoder`.
        data: What it was trained on: `name`, `rows`, `cut`, and rows per split.
        licence: Licence of the weights, where it is known.
        bucket_edges: Where each of five equally frequent buckets but the first begins, in tokens.
        calibration: Level of the predictor for each of `LENGTH_LEVELS`.
        metrics: Figures on rows that it never saw.
        confusion: Requests by bucket that came, then by likeliest bucket, on the same rows, with the buckets' `edges`.
        options: How it was trained, and what its back-end needs to be loaded.
        tasks: Of a classifier of tasks in the folder: `names`, `rows` that it was judged on, `accuracy`, `majority`
            and `counts` (:meth:`irouter.prediction.TaskClassifier.judged`). Empty without one.
        files: SHA-256 of every other file of the folder, by name.
        irouter_version: Version of the package that wrote it.
    """

    backend: str
    data: Mapping[str, Any]
    licence: str | None
    bucket_edges: tuple[int, ...]
    calibration: tuple[float, ...]
    metrics: Mapping[str, Any]
    confusion: Mapping[str, Any]
    options: Mapping[str, Any]
    tasks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    irouter_version: str = _core.VERSION

    def write(self, folder: Path) -> None:
        """Writes the card beside the files that are there, with their digests."""
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != CARD)
        files = {name: _sha256(folder / name) for name in names}
        content = {
            "kind": _KIND,
            "format_version": FORMAT_VERSION,
            **dataclasses.asdict(self),
            "files": files,
        }
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
        (folder / CARD).write_text(text + "\n", encoding="utf-8")


def read_card(folder: Path) -> Card:
    """Reads the card of a folder, and checks the folder against it.

    Raises:
        IrouterError: For a folder that is no predictor's or of another version, or a file that has changed.
    """
    path = folder / CARD
    if not path.is_file():
        raise IrouterError(f"{folder}: no predictor, expected a folder with {CARD}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IrouterError(f"{path}: {error}") from error
    if not isinstance(content, dict) or content.pop("kind", None) != _KIND:
        raise IrouterError(f"{path}: not the card of a predictor, expected `kind` to be `{_KIND}`")
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise IrouterError(
            f"{path}: `format_version` is {version!r}, expected {FORMAT_VERSION}: train it anew with this version"
        )
    try:
        card = Card(**content)
    except TypeError as error:
        raise IrouterError(f"{path}: {str(error).partition('__init__() ')[2]}") from error
    for name, digest in card.files.items():
        file = folder / name
        if not file.is_file():
            raise IrouterError(f"{folder}: no file {name}, which its card names")
        if _sha256(file) != digest:
            raise IrouterError(f"{file}: changed since the predictor was written, expected SHA-256 {digest}")
    return dataclasses.replace(
        card, bucket_edges=tuple(card.bucket_edges), calibration=tuple(card.calibration)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
