"""What the `/metrics` pages of engines say, under the names that they have had."""

from __future__ import annotations

import re
from typing import Final, TypedDict

from irouter._core import IrouterError

# Of each figure, newest name first. Gateways that relay metrics write `_` for `:`, and so does this table.
_NAMES: Final = {
    "waiting": ("vllm_num_requests_waiting", "sglang_num_queue_reqs"),
    "running": ("vllm_num_requests_running", "sglang_num_running_reqs"),
    # `gpu_` is vLLM before its version 1 engine; both are shares from 0 to 1, whatever `perc` says.
    "kv_usage": ("vllm_kv_cache_usage_perc", "vllm_gpu_cache_usage_perc", "sglang_token_usage"),
}
_LINE: Final = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# Engines of one server that have requests of their own; other labels are of parts that work on the same requests.
_ENGINES: Final = ("engine", "dp_rank", "model_name")


class EngineFigures(TypedDict):
    """What `irouter.Router.report` takes.

    Attributes:
        waiting: Requests in the engine's own queue.
        running: Requests in its batch.
        kv_usage: Share of its KV cache in use, 0 to 1.
    """

    waiting: int
    running: int
    kv_usage: float


def read_engine_metrics(page: str) -> EngineFigures:
    """Reads a page of vLLM or SGLang, of one engine or of data-parallel ones.

    Requests are summed over engines, the KV cache is averaged; of the ranks that share an engine's requests, the
    largest figure counts.

    Raises:
        IrouterError: For a page that lacks a figure, naming what was looked for.
    """
    found: dict[str, dict[tuple[str, ...], float]] = {}
    wanted = {name for names in _NAMES.values() for name in names}
    for line in page.splitlines():
        match = _LINE.match(line)
        if match is None or (name := match[1].replace(":", "_")) not in wanted:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        labels = dict(_LABEL.findall(match[2] or ""))
        engine = tuple(labels.get(label, "") for label in _ENGINES)
        series = found.setdefault(name, {})
        series[engine] = max(value, series.get(engine, 0.0))
    values = {}
    for figure, names in _NAMES.items():
        present = [name for name in names if name in found]
        if not present:
            raise IrouterError(f"the page has no {figure}, expected one of: {', '.join(names)}")
        values[figure] = list(found[present[0]].values())
    usage = sum(values["kv_usage"]) / len(values["kv_usage"])
    return EngineFigures(
        waiting=round(sum(values["waiting"])),
        running=round(sum(values["running"])),
        kv_usage=min(1.0, max(0.0, usage)),
    )
