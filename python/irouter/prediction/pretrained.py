"""Encoders as others have trained them: by name from the Hugging Face hub, or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from irouter._core import IrouterError
from irouter._extras import require

_PURPOSE = "fine-tuning an encoder"


def load_encoder(model: str) -> tuple[Any, Path, str | None]:
    """The encoder, its tokenizer's file and its licence, where its folder says so.

    Raises:
        IrouterError: For an encoder that cannot be loaded, or without the extra `[train]`.
    """
    transformers = require("transformers", extra="train", purpose=_PURPOSE)
    try:
        encoder = transformers.AutoModel.from_pretrained(model)
        folder = Path(model)
        if folder.is_dir():
            tokenizer_file = folder / "tokenizer.json"
        else:
            hub = require("huggingface_hub", extra="train", purpose=_PURPOSE)
            tokenizer_file = Path(hub.hf_hub_download(model, "tokenizer.json"))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise IrouterError(
            f"encoder {model!r} cannot be loaded: {reason}; expected a Hugging Face encoder by name, or its folder"
        ) from error
    if not tokenizer_file.is_file():
        raise IrouterError(f"encoder {model!r}: no file {tokenizer_file}")
    # A model that a caller may not touch stays as it is.
    return encoder, tokenizer_file, _licence(Path(model) / "README.md")


def _licence(readme: Path) -> str | None:
    """What the model card of a folder names as its licence."""
    if not readme.is_file():
        return None
    for line in readme.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"license", "licence"}:
            return value.strip()
    return None
