"""Composes engine steps from kernel timings of one model on one card, and fits step-time form C to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from scipy.optimize import nnls

if TYPE_CHECKING:
    from pathlib import Path

Array = NDArray[np.float64]

# How often each kernel runs in a transformer layer; the rest of the dense table runs once a step.
PER_LAYER = {
    "layernorm": 2,
    "qkv_proj": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
PER_STEP = ("embedding", "final_layernorm")
# The shortest chunk and context in the attention table; below, its time no longer falls.
SMALLEST = 16
# A factor on a coefficient of zero is zero, so decode coefficients keep one part of a thousand of a small one.
LEAST = {"decode_sequence": 1e-5, "decode_context": 1e-8}
STEPS = 12_000
HELD_OUT = 0.25
# Knots that a straight line through their neighbours meets within this share are left out.
THINNING = 0.005


@dataclass(frozen=True)
class Step:
    """One engine step: prefill chunks as (tokens, past tokens), decodes, and the context of each decode."""

    chunks: tuple[tuple[int, int], ...]
    decodes: int
    context: float

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return sum(chunk for chunk, _ in self.chunks) + self.decodes

    @property
    def sequences(self) -> int:
        """Sequences in the batch."""
        return len(self.chunks) + self.decodes

    def features(self) -> list[float]:
        """The quantities that form C multiplies, decode-only and mixed steps apart."""
        context = self.decodes * self.context
        mixed = bool(self.chunks) and self.decodes > 0
        return [
            len(self.chunks),
            sum(chunk for chunk, _ in self.chunks),
            sum(chunk * (past + chunk / 2) for chunk, past in self.chunks),
            float(self.decodes > 0),
            0.0 if mixed else self.decodes,
            0.0 if mixed else context,
            self.decodes if mixed else 0.0,
            context if mixed else 0.0,
        ]


@dataclass(frozen=True)
class KernelTables:
    """Kernel timings in milliseconds a step: curves over tokens and sequences, and attention over four quantities."""

    tokens: Array
    dense_ms: Array
    sequences: Array
    per_sequence_ms: Array
    decode: RegularGridInterpolator
    prefill: RegularGridInterpolator
    mixed: RegularGridInterpolator
    longest_context: int
    most_mixed_decodes: int

    @classmethod
    def read(cls, folder: Path, stem: str, layers: int) -> KernelTables:
        """Reads `{stem}_{dense,per_sequence,attention}_us.csv` of a model with so many transformer layers."""
        dense = pl.read_csv(folder / f"{stem}_dense_us.csv").pivot(on="layer", index="tokens").sort("tokens")
        in_layers = pl.sum_horizontal(layers * count * pl.col(kernel) for kernel, count in PER_LAYER.items())
        dense_us = dense.select(in_layers + pl.sum_horizontal(PER_STEP)).to_series()
        heads = pl.read_csv(folder / f"{stem}_per_sequence_us.csv").pivot(on="layer", index="sequences")
        heads = heads.sort("sequences")
        attention = pl.read_csv(folder / f"{stem}_attention_us.csv").with_columns(
            pl.col("time_us") * layers / 1e3
        )
        has_prefill, has_decode = pl.col("prefill_chunk") > 0, pl.col("n_decode") > 0
        mixed = attention.filter(has_prefill & has_decode)
        return cls(
            tokens=dense["tokens"].to_numpy().astype(float),
            dense_ms=dense_us.to_numpy() / 1e3,
            sequences=heads["sequences"].to_numpy().astype(float),
            per_sequence_ms=(heads["lm_head"] + heads["sampler"]).to_numpy() / 1e3,
            decode=grid(attention.filter(~has_prefill & has_decode), ["n_decode", "kv_decode"]),
            prefill=grid(attention.filter(has_prefill & ~has_decode), ["prefill_chunk", "kv_prefill"]),
            mixed=grid(mixed, ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"]),
            longest_context=int(attention["kv_decode"].to_numpy().max()),
            most_mixed_decodes=int(mixed["n_decode"].to_numpy().max()),
        )

    def curves_ms(self, step: Step) -> float:
        """Everything but attention."""
        dense = np.interp(step.tokens, self.tokens, self.dense_ms)
        return float(dense + np.interp(step.sequences, self.sequences, self.per_sequence_ms))

    def attention_ms(self, step: Step) -> float:
        """Attention of a step.

        The table holds one chunk beside the decodes. Each further chunk adds what it takes on its own beyond the
        shortest kernel, as all chunks share one launch.
        """
        if not step.chunks:
            return float(self.decode((step.decodes, step.context)))
        chunks = [(max(chunk, SMALLEST), past) for chunk, past in step.chunks]
        alone = [float(self.prefill(chunk)) for chunk in chunks]
        launch = float(self.prefill((SMALLEST, 0)))
        longest = int(np.argmax(alone))
        first = alone[longest]
        if step.decodes:
            first = float(self.mixed((*chunks[longest], step.decodes, step.context)))
        return first + sum(max(time - launch, 0.0) for index, time in enumerate(alone) if index != longest)


def grid(table: pl.DataFrame, axes: list[str]) -> RegularGridInterpolator:
    """Multilinear interpolation over powers of two and zero, the grid that the tables have in full."""
    full = table.filter(pl.all_horizontal((pl.col(axis) & (pl.col(axis) - 1)) == 0 for axis in axes))
    points = [full[axis].unique().sort().to_numpy() for axis in axes]
    values = np.full([len(axis) for axis in points], np.nan)
    values[tuple(np.searchsorted(axis, full[name]) for axis, name in zip(points, axes, strict=True))] = full[
        "time_us"
    ]
    if np.isnan(values).any():
        raise ValueError(
            f"attention table: {np.isnan(values).sum()} of {values.size} points of {axes} are missing"
        )
    return RegularGridInterpolator([axis.astype(float) for axis in points], values)


def random_steps(tables: KernelTables, kv_tokens: int, seed: int) -> list[Step]:
    """Steps of three kinds in turn (decode-only, prefill-only, mixed) whose contexts fit the KV cache."""
    generator = np.random.default_rng(seed)
    budget, shortest = int(tables.tokens[-1]), SMALLEST

    def between(low: float, high: float) -> float:
        return float(np.exp(generator.uniform(np.log(low), np.log(high))))

    steps: list[Step] = []
    while len(steps) < STEPS:
        kind = len(steps) % 3
        decodes, context = 0, 0.0
        if kind != 1:
            most = tables.most_mixed_decodes if kind == 2 else int(tables.sequences[-1])
            decodes, context = round(between(1, most)), between(shortest, tables.longest_context)
            if decodes * context > kv_tokens:
                continue
        chunks: list[tuple[int, int]] = []
        if kind != 0:
            total = int(min(between(shortest, budget), budget - decodes))
            pieces = 1 if generator.random() < 0.6 else int(generator.integers(2, 5))
            cuts = np.sort(generator.integers(0, total, pieces - 1))
            sizes = np.diff([0, *cuts, total])
            # A request that is continued comes first; those behind it start.
            past = 0 if generator.random() < 0.5 else int(generator.integers(0, tables.longest_context // 2))
            chunks = [(int(size), past if index == 0 else 0) for index, size in enumerate(sizes) if size > 0]
        steps.append(Step(tuple(chunks), decodes, context))
    return steps


def fit_kernel_tables(
    tables: KernelTables, kv_tokens: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Form C by relative least squares with coefficients of at least zero.

    The curves are the tables' own; the coefficients carry attention. A quarter of the steps is held out.

    Returns:
        The `step_time` and the figures of `source` of a profile.
    """
    steps = random_steps(tables, kv_tokens, seed)
    dense = thin(tables.tokens, tables.dense_ms)
    heads = thin(tables.sequences, tables.per_sequence_ms)
    features = np.array([step.features() for step in steps])
    curves = np.array([np.interp(step.tokens, *dense) + np.interp(step.sequences, *heads) for step in steps])
    times = np.array([tables.curves_ms(step) + tables.attention_ms(step) for step in steps])
    held_out = np.random.default_rng(seed + 1).random(len(steps)) < HELD_OUT
    least = np.array([0, 0, 0, 0, LEAST["decode_sequence"], LEAST["decode_context"], 0, 0])
    weighted = features / times[:, None]
    target = (times - curves - features @ least) / times
    scale = np.abs(weighted).max(axis=0)
    solution, _ = nnls((weighted / scale)[~held_out], target[~held_out])
    coefficients = least + solution / scale
    error = np.abs((curves + features @ coefficients) / times - 1)[held_out].mean()
    per_chunk, per_token, per_pair, decode, alone, alone_context, mixed, mixed_context = (
        float(f"{value:.6g}") for value in coefficients
    )
    step_time = {
        "form": {
            "kind": "C",
            "dense_ms": knots(dense),
            "per_sequence_ms": knots(heads),
            "prefill_sequence_ms": per_chunk,
            "decode_ms": decode,
        },
        "prefill_token_ms": per_token,
        "prefill_attention_ms": per_pair,
        "decode_sequence_ms": alone,
        "decode_context_token_ms": alone_context,
        "mixed_decode_sequence": round(mixed / alone, 4),
        "mixed_decode_context": round(mixed_context / alone_context, 4),
    }
    source = {
        "fitted_tokens": int(tables.tokens[-1]),
        "fitted_sequences": int(tables.sequences[-1]),
        "fitted_context_tokens": tables.longest_context,
        "held_out_error_percent": round(100 * float(error), 2),
    }
    return step_time, source


def thin(positions: Array, times: Array) -> tuple[Array, Array]:
    """Leaves out knots as long as the curve through the rest meets every one within `THINNING` of its value."""
    kept = [0, len(positions) - 1]
    while True:
        error = np.abs(np.interp(positions, positions[kept], times[kept]) / times - 1)
        worst = int(error.argmax())
        if error[worst] <= THINNING:
            return positions[kept], times[kept]
        kept = sorted([*kept, worst])


def knots(curve: tuple[Array, Array]) -> list[tuple[int, float]]:
    """A curve as a profile writes it."""
    return [(int(position), float(f"{time:.6g}")) for position, time in zip(*curve, strict=True)]
