"""Regenerates the shipped latency profiles from the data folder.

    python tools/fit_profiles.py [--data ../shared/data] [--out python/irouter/profiles]

Three sources: the `aic` fits of `latency_fits.json` (form C as fitted there), the paper's constants for a V100
(form A), and the kernel tables of two workstation cards, composed to steps and fitted here. Same data, same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl

from irouter import _core
from kernel_tables import KernelTables, fit_kernel_tables

AIC_SOURCE = (
    "aiconfigurator-core 0.12.0 kernel timings (NVIDIA, Apache-2.0; vLLM backend, bf16), "
    "composed per layer and fitted"
)
TABLE_SOURCE = (
    "LLMServingSim 2 kernel timings (CASYS group, KAIST, MIT; vLLM 0.19, bf16), composed per layer and fitted"
)
PAPER_SOURCE = "constants printed in arXiv 2408.13510 (Llama-2-7B on a V100, eager mode); not measured"

# What the driver reports for one accelerator, in GiB.
MEMORY_GIB = {
    "v100-32": 32.0,
    "a100-80": 80.0,
    "h100-80": 80.0,
    "h200-141": 139.8,
    "rtx4090-24": 23.517,
    "rtxpro6000-96": 94.97,
}

# Profile name up to the accelerator: model, its name in the fits, context, tensor parallelism.
AIC_MODELS = {
    "llama-2-7b": ("llama-2-7b", "llama-2-7b", 4096, 1),
    "llama-3.1-8b": ("llama-3.1-8b", "llama-3-8b", 131072, 1),
    "llama-2-70b-tp4": ("llama-2-70b", "llama-2-70b", 4096, 4),
    "llama-2-70b-tp8": ("llama-2-70b", "llama-2-70b", 4096, 8),
    "llama-3.1-70b-tp4": ("llama-3.1-70b", "llama-3-70b", 131072, 4),
    "llama-3.1-70b-tp8": ("llama-3.1-70b", "llama-3-70b", 131072, 8),
}
AIC_ACCELERATORS = {"a100": "a100-80", "h100": "h100-80", "h200": "h200-141"}

# vLLM refuses a context that its KV cache cannot hold, so the 24 GB card serves less than the model's 131,072.
TABLE_CARDS = {"rtx4090": ("rtx4090-24", 256, 40960), "rtxpro6000": ("rtxpro6000-96", 128, 131072)}


def v1_scheduler(max_num_seqs: int) -> dict[str, Any]:
    """The current scheduler of vLLM with its defaults."""
    return {
        "mode": "vllm-v1",
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": 2048,
        "reserve_full_input": True,
        "watermark": 0.0,
    }


def profile(
    name: str,
    model: str,
    accelerator: str,
    tensor_parallel: int,
    max_model_len: int,
    scheduler: dict[str, Any],
    step_time: dict[str, Any],
    source: dict[str, Any],
) -> dict[str, Any]:
    """A profile in the order of the schema, its KV blocks from the capacity function."""
    blocks = _core.kv_capacity_blocks(model, MEMORY_GIB[accelerator], tensor_parallel, 16)
    prefix_cache = scheduler["mode"] == "vllm-v1"
    return {
        "name": name,
        "model": model,
        "accelerator": accelerator,
        "tensor_parallel": tensor_parallel,
        "max_model_len": max_model_len,
        "scheduler": scheduler,
        "kv": {"block_tokens": 16, "blocks": blocks, "prefix_cache": prefix_cache},
        "step_time": step_time,
        "source": source,
    }


def significant(value: float) -> float:
    """Six significant digits: far below the error of any measurement here."""
    return float(f"{value:.6g}")


def aic_profiles(data: Path) -> list[dict[str, Any]]:
    """Form C with knots, as fitted in `latency_fits.json` from the `aic` tables."""
    fits = json.loads((data / "profiles/latency_fits.json").read_text())
    decode = pl.read_csv(data / "profiles/layer_attn_decode_ms.csv")
    profiles = []
    for stem, (model, key, context, parallel) in AIC_MODELS.items():
        for short, accelerator in AIC_ACCELERATORS.items():
            form = fits[f"{key}|{short}|tp{parallel}|aic"]["C"]
            coefficients = {name: significant(value) for name, value in form["coef"].items()}
            table = decode.filter(model=key, gpu=short, tp=parallel)
            step_time = {
                "form": {
                    "kind": "C",
                    "dense_ms": form["G_knots"],
                    "per_sequence_ms": form["h_knots"],
                    "prefill_sequence_ms": coefficients["cq"],
                    "decode_ms": coefficients["c1"],
                },
                "prefill_token_ms": coefficients["cP"],
                "prefill_attention_ms": coefficients["cS"],
                "decode_sequence_ms": coefficients["cD"],
                "decode_context_token_ms": coefficients["cK"],
            }
            source = {
                "data": AIC_SOURCE,
                "fitted_tokens": form["G_knots"][-1][0],
                "fitted_sequences": min(form["h_knots"][-1][0], int(table["batch_size"].to_numpy().max())),
                "fitted_context_tokens": int(table["context"].to_numpy().max()),
                "held_out_error_percent": form["mape_with_knots"]["all"],
            }
            name = f"{stem}@{short}"
            profiles.append(
                profile(name, model, accelerator, parallel, context, v1_scheduler(256), step_time, source)
            )
    return profiles


def paper_profile(data: Path) -> dict[str, Any]:
    """Form A from the constants that the paper prints, with the batching of the vLLM of its time."""
    constants = json.loads((data / "profiles/v100_llama2_7b_from_paper.json").read_text())["coef"]
    scheduler = {
        "mode": "vllm-v0",
        "max_num_seqs": 128,
        "max_num_batched_tokens": 4096,
        "reserve_full_input": False,
        "watermark": 0.01,
    }
    step_time = {
        "form": {"kind": "A", "constant_ms": constants["c0"]},
        "prefill_token_ms": constants["cP"],
        "prefill_attention_ms": constants["cS"],
        "decode_sequence_ms": constants["cD"],
        "decode_context_token_ms": constants["cK"],
    }
    source = {
        "data": PAPER_SOURCE,
        "fitted_tokens": 4096,
        "fitted_sequences": 128,
        "fitted_context_tokens": 4096,
        "held_out_error_percent": None,
    }
    return profile("llama-2-7b@v100-paper", "llama-2-7b", "v100-32", 1, 4096, scheduler, step_time, source)


def table_profiles(data: Path) -> list[dict[str, Any]]:
    """Form C with mixed-step factors from the kernel tables of the workstation cards."""
    profiles = []
    for card, (accelerator, max_num_seqs, context) in TABLE_CARDS.items():
        blocks = _core.kv_capacity_blocks("llama-3.1-8b", MEMORY_GIB[accelerator], 1, 16)
        tables = KernelTables.read(data / "profiles", f"llama3.1-8b_{card}", layers=32)
        step_time, source = fit_kernel_tables(tables, kv_tokens=16 * blocks, seed=0)
        profiles.append(
            profile(
                f"llama-3.1-8b@{card}",
                "llama-3.1-8b",
                accelerator,
                1,
                context,
                v1_scheduler(max_num_seqs),
                step_time,
                {"data": TABLE_SOURCE, **source},
            )
        )
    return profiles


def main() -> None:
    """Writes every profile."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=root.parent / "shared/data", help="data folder")
    parser.add_argument(
        "--out", type=Path, default=root / "python/irouter/profiles", help="where the files go"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for entry in [
        *aic_profiles(arguments.data),
        paper_profile(arguments.data),
        *table_profiles(arguments.data),
    ]:
        path = arguments.out / f"{entry['name']}.json"
        path.write_text(dump(entry) + "\n")
        print(f"{path.name}: held-out error {entry['source']['held_out_error_percent']} %")


def dump(entry: dict[str, Any]) -> str:
    """JSON with one knot pair per place, eight to a line, so that a curve can be read."""
    curves: list[str] = []

    def shorten(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shorten(item) for key, item in value.items()}
        if isinstance(value, list):
            pairs = [json.dumps(pair) for pair in value]
            lines = [", ".join(pairs[start : start + 8]) for start in range(0, len(pairs), 8)]
            curves.append("[\n        " + ",\n        ".join(lines) + "\n      ]")
            return f"curve {len(curves) - 1}"
        return value

    text = json.dumps(shorten(entry), indent=2)
    for index, curve in enumerate(curves):
        text = text.replace(f'"curve {index}"', curve)
    return text


if __name__ == "__main__":
    main()
