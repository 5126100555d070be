"""Traces: every format is read, and every bad row is named."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from irouter._core import IrouterError
from irouter.evaluation.traces import Trace, read_trace

PLAIN = "arrival_s,input_tokens,output_tokens\n0.5,10,3\n1.25,20,4\n"


def read(folder: Path, name: str, text: str, *, drop_empty: bool = False) -> Trace:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_trace(path, drop_empty=drop_empty)


def error(folder: Path, name: str, text: str) -> str:
    with pytest.raises(IrouterError) as raised:
        read(folder, name, text)
    return str(raised.value)


def columns(trace: Trace) -> tuple[list[float], list[int], list[int]]:
    return trace.arrival_s.tolist(), trace.input_tokens.tolist(), trace.output_tokens.tolist()


def test_plain_csv_keeps_its_times(tmp_path: Path) -> None:
    trace = read(tmp_path, "mine.csv", PLAIN)
    assert columns(trace) == ([0.5, 1.25], [10, 20], [3, 4])
    assert (trace.name, trace.format, len(trace), len(trace.workload())) == ("mine", "irouter", 2, 2)


def test_azure_dates_count_from_the_first(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n"
    )
    trace = read(tmp_path, "azure.csv", text)
    assert columns(trace) == ([0.0, 4.314579], [374, 396], [44, 109])
    assert trace.format == "azure"


def test_azure_dates_may_carry_a_zone(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,2162,5\n"
        "2024-05-10 00:00:01.259930+00:00,2399,6\n"
    )
    assert columns(read(tmp_path, "azure.csv", text))[0] == [0.0, 1.25]


def test_mooncake_milliseconds_become_seconds_and_hashes_become_blocks(tmp_path: Path) -> None:
    text = (
        '{"timestamp": 0, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]}\n'
        '{"timestamp": 3000, "input_length": 511, "output_length": 26, "hash_ids": []}\n'
        '{"timestamp": 3000, "input_length": 513, "output_length": 7, "hash_ids": [46, 2353]}\n'
    )
    trace = read(tmp_path, "mooncake.jsonl", text)
    assert columns(trace) == ([0.0, 3.0, 3.0], [600, 511, 513], [52, 26, 7])
    assert trace.block_offsets is not None
    assert trace.block_hashes is not None
    assert trace.block_offsets.tolist() == [0, 2, 2, 4]
    assert trace.block_hashes.tolist() == [46, 47, 46, 2353]


def test_burstgpt_models_are_applications(tmp_path: Path) -> None:
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n"
        "45,GPT-4,1087,230,1317,Conversation log\n"
        "118,ChatGPT,417,276,693,API log\n"
    )
    trace = read(tmp_path, "BurstGPT_1.csv", text)
    assert columns(trace) == ([5.0, 45.0, 118.0], [472, 1087, 417], [18, 230, 276])
    assert trace.application is not None
    assert (trace.application.tolist(), trace.application_names) == ([0, 1, 0], ("ChatGPT", "GPT-4"))


def test_servegen_clients_are_applications(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens,client_id\n0.0185,1503,73,39\n0.0211,226,37,35\n"
    trace = read(tmp_path, "servegen.csv", text)
    assert (trace.format, trace.application_names) == ("servegen", ("39", "35"))


def test_plain_jsonl_and_parquet_read_alike_with_every_optional_column(tmp_path: Path) -> None:
    rows = {
        "arrival_s": [0.0, 0.5],
        "input_tokens": [512, 1024],
        "output_tokens": [4, 5],
        "max_tokens": [16, 32],
        "application": ["chat", "code"],
        "tenant": ["b", "a"],
        "session": [77, 77],
        "priority": [-1, 2],
        "hash_ids": [[1], [1, 2]],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "trace.parquet")
    pl.DataFrame(rows).write_ndjson(tmp_path / "trace.jsonl")
    parquet, jsonl = read_trace(tmp_path / "trace.parquet"), read_trace(tmp_path / "trace.jsonl")
    for field in Trace.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(parquet, field), getattr(jsonl, field))
    assert parquet.tenant_names == ("b", "a")
    for column, expected in (
        (parquet.max_tokens, [16, 32]),
        (parquet.application, [0, 1]),
        (parquet.tenant, [0, 1]),
        (parquet.session, [0, 0]),
        (parquet.priority, [-1, 2]),
        (parquet.block_hashes, [1, 1, 2]),
    ):
        assert column is not None
        assert column.tolist() == expected


def test_requests_without_output_are_named_or_dropped_and_counted(tmp_path: Path) -> None:
    text = "Timestamp,Model,Request tokens,Response tokens\n5,GPT-4,472,18\n45,GPT-4,1087,0\n50,ChatGPT,9,1\n"
    assert error(tmp_path, "b.csv", text) == (
        "b.csv: row 2: `Response tokens` is '0', expected a whole number of tokens of at least 1"
    )
    trace = read(tmp_path, "b.csv", text, drop_empty=True)
    assert (columns(trace), trace.dropped_empty) == (([5.0, 50.0], [472, 9], [18, 1]), 1)
    assert trace.application is not None
    assert trace.application.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("1.0,-5,7", "`input_tokens` is '-5', expected a whole number of tokens of at least 1"),
        ("1.0,5.5,7", "`input_tokens` is '5.5', expected a whole number of tokens of at least 1"),
        ("1.0,5,NaN", "`output_tokens` is 'NaN', expected a whole number of tokens of at least 1"),
        ("1.0,5,many", "`output_tokens` is 'many', expected a whole number of tokens of at least 1"),
        ("1.0,,7", "`input_tokens` is empty, expected a whole number of tokens of at least 1"),
        ("1.0,5", "`output_tokens` is empty, expected a whole number of tokens of at least 1"),
        ("nan,5,7", "`arrival_s` is 'nan', expected a number of seconds, zero or more"),
        ("inf,5,7", "`arrival_s` is 'inf', expected a number of seconds, zero or more"),
        ("-1.0,5,7", "`arrival_s` is '-1.0', expected a number of seconds, zero or more"),
        ("0.25,5,7", "`arrival_s` is '0.25', expected at or after row 1, '0.5': sort the file by arrival"),
        ("1.0,5,7,9", "4 fields, expected 3 as in the header"),
    ],
)
def test_a_bad_row_is_named_with_its_field(tmp_path: Path, row: str, complaint: str) -> None:
    text = f"arrival_s,input_tokens,output_tokens\n0.5,10,3\n{row}\n2.0,10,3\n"
    assert error(tmp_path, "bad.csv", text) == f"bad.csv: row 2: {complaint}"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "{not json}",
            "Expecting property name enclosed in double quotes: line 1 column 2 (char 1): '{not json}'",
        ),
        ("[1, 2, 3]", "expected a JSON object, found '[1, 2, 3]'"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 7}', "NaN is not JSON: "),
        ('{"timestamp": 9, "input_length": null, "output_length": 7}', "`input_length` is empty, expected "),
        ('{"timestamp": 9, "input_length": -5, "output_length": 7}', "`input_length` is -5, expected "),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    text = f'{{"timestamp": 0, "input_length": 5, "output_length": 7}}\n{line}\n'
    assert error(tmp_path, "bad.jsonl", text).startswith(f"bad.jsonl: row 2: {complaint}")


def test_a_bad_date_is_named(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\nyesterday,396,109\n"
    assert error(tmp_path, "a.csv", text) == (
        "a.csv: row 2: `TIMESTAMP` is 'yesterday', expected a date and time such as 2023-11-16 18:15:46.68"
    )


def test_a_bad_hash_list_is_named(tmp_path: Path) -> None:
    rows = {
        "arrival_s": [0.0, 0.5],
        "input_tokens": [512, 512],
        "output_tokens": [4, 5],
        "hash_ids": [[1], None],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "trace.parquet")
    with pytest.raises(
        IrouterError, match=r"^trace\.parquet: row 2: `hash_ids` is empty, expected a list of whole"
    ):
        read_trace(tmp_path / "trace.parquet")


def test_a_missing_column_suggests_the_nearest(tmp_path: Path) -> None:
    assert error(tmp_path, "t.csv", PLAIN.replace("output_tokens", "output_token")) == (
        "t.csv: no column `output_tokens` of the format `irouter`; did you mean `output_token`?"
    )
    assert error(tmp_path, "t.csv", PLAIN.replace("output_tokens", "zzz")) == (
        "t.csv: no column `output_tokens` of the format `irouter`; the file has arrival_s, input_tokens, zzz"
    )


def test_a_file_of_no_known_format_lists_the_formats(tmp_path: Path) -> None:
    message = error(tmp_path, "t.csv", "a,b\n1,2\n")
    assert message.startswith(
        "t.csv: no known trace format has the columns a, b; expected irouter: arrival_s, "
    )
    assert "azure: TIMESTAMP, ContextTokens, GeneratedTokens" in message


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("t.csv", "", "t.csv: the file is empty"),
        ("t.jsonl", "", "t.jsonl: the file is empty"),
        ("t.csv", "arrival_s,input_tokens,output_tokens\n", "t.csv: the trace has no requests"),
        ("t.txt", "hello", "t.txt: expected a file that ends in .parquet, .csv, .jsonl, .ndjson"),
    ],
)
def test_an_empty_or_unknown_file_is_refused(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    assert error(tmp_path, name, text) == complaint


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    assert error(tmp_path, "t.parquet", PLAIN).startswith("t.parquet: not Parquet: ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IrouterError, match=r"^no file .*nowhere\.csv$"):
        read_trace(tmp_path / "nowhere.csv")


def test_the_part_of_a_trace_since_a_time_begins_at_zero_and_keeps_its_prefixes(tmp_path: Path) -> None:
    rows = [
        '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}',
        '{"timestamp": 3000, "input_length": 500, "output_length": 6, "hash_ids": [7]}',
        '{"timestamp": 4000, "input_length": 700, "output_length": 7, "hash_ids": [7, 8]}',
    ]
    trace = read(tmp_path, "mooncake.jsonl", "\n".join(rows)).since(3.0)
    assert columns(trace) == ([0.0, 1.0], [500, 700], [6, 7])
    assert trace.block_offsets is not None
    assert trace.block_hashes is not None
    assert (trace.block_offsets.tolist(), trace.block_hashes.tolist()) == ([0, 1, 3], [7, 7, 8])
    assert len(trace.workload()) == 2
    with pytest.raises(IrouterError, match=r"^the trace `mooncake` has no request at or after 2 s$"):
        trace.since(2.0)
