"""Any trace that can be written is read back as it was, whatever the format."""

from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from irouter.evaluation.traces import HASH_BLOCK_TOKENS, read_trace

COUNTS = st.integers(min_value=1, max_value=131_072)
GAPS = st.floats(min_value=0.0, max_value=1e6, allow_nan=False)


@st.composite
def traces(draw: st.DrawFn) -> dict[str, list[object]]:
    rows = draw(st.integers(min_value=1, max_value=20))
    prompts = draw(st.lists(COUNTS, min_size=rows, max_size=rows))
    gaps = draw(st.lists(GAPS, min_size=rows, max_size=rows))
    return {
        "arrival_s": np.cumsum(gaps).tolist(),
        "input_tokens": list(prompts),
        "output_tokens": list(draw(st.lists(COUNTS, min_size=rows, max_size=rows))),
        "session": draw(st.lists(st.sampled_from("abc"), min_size=rows, max_size=rows)),
        "hash_ids": [list(range(prompt // HASH_BLOCK_TOKENS)) for prompt in prompts],
    }


@given(rows=traces())
def test_parquet_and_jsonl_and_csv_give_back_what_was_written(
    rows: dict[str, list[object]], tmp_path: Path
) -> None:
    frame = pl.DataFrame(rows, schema_overrides={"hash_ids": pl.List(pl.Int64)})
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_ndjson(tmp_path / "t.jsonl")
    frame.drop("hash_ids").write_csv(tmp_path / "t.csv")
    for name in ("t.parquet", "t.jsonl", "t.csv"):
        trace = read_trace(tmp_path / name)
        assert trace.arrival_s.tolist() == rows["arrival_s"]
        assert trace.input_tokens.tolist() == rows["input_tokens"]
        assert trace.output_tokens.tolist() == rows["output_tokens"]
        assert trace.session is not None
        first_seen = {session: code for code, session in enumerate(dict.fromkeys(rows["session"]))}
        assert trace.session.tolist() == [first_seen[session] for session in rows["session"]]
        if name != "t.csv":
            assert trace.block_offsets is not None
            assert np.diff(trace.block_offsets).tolist() == [len(hashes) for hashes in frame["hash_ids"]]
        assert len(trace.workload()) == frame.height
