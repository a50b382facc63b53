"""Rows in files of every kind, prompts, and bodies of requests."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_rows import OPTIONS, ROWS, check_record
from fuzz_targets import Draws, Target, spoil, write_file

from sotune.evaluation.labeled import load_labeled
from sotune.evaluation.prompts import load_prompts
from sotune.settings.evaluate import JudgeCheckSettings
from sotune.settings.serve import ServeSettings
from sotune.sources import load_rows, load_set


def _load(name: str, content: bytes, options: int = 0) -> None:
    chosen = OPTIONS[options % len(OPTIONS)]
    loaded = load_set(write_file(name, content), set_name="downstream", options=chosen, max_quarantine_fraction=1.0)
    for record in loaded.records[:20]:
        check_record(record)
        json.dumps(record.meta, allow_nan=False)


# Rows as text. The first byte chooses the options.


def _rows_of(name: str) -> Callable[[bytes], None]:
    return lambda data: _load(name, data[1:], data[0] if data else 0)


def _lines_seeds() -> list[bytes]:
    each = [b"\0" + json.dumps(row).encode() + b"\n" for row in ROWS]
    return [*each, b"\0" + b"".join(seed[1:] for seed in each)]


def _json_seeds() -> list[bytes]:
    return [b"\0" + json.dumps(value).encode() for value in (ROWS[:1] * 2, {"data": [ROWS[1]]}, ROWS[4:5])]


def _csv_seeds() -> list[bytes]:
    head = b"prompt,completion,id\n"
    return [
        b"\0" + head + b'q,a,1\n"q ""2""","a\nb",2\n',
        b"\0instruction,input,output\na,b,c\n",
        b"\0text\n### Human: a\n",
    ]


# Archives: what is packed, and how, and what is then done to it.

_PACKERS: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: gzip.compress(data, 1, mtime=0),
    lambda data: bz2.compress(data, 1),
    lambda data: lzma.compress(data, preset=0),
    lambda data: pa.compress(data, codec="zstd", asbytes=True),
)


def _archive(data: bytes) -> None:
    given = Draws(data)
    pack, again, name = (
        given.pick(_PACKERS),
        given.number(8),
        given.pick(("a.jsonl.gz", "a.csv", "a.json.xz", "a.jsonl")),
    )
    damage = Draws(given.bytes(16))
    plain = given.bytes(given.left)
    packed = pack(plain)
    if again == 1:
        packed = given.pick(_PACKERS)(packed)
    elif again == 2:
        packed += pack(plain)
    elif again == 3:
        packed += plain
    _load(name, spoil(packed, damage))


def _archive_seeds() -> list[bytes]:
    rows = json.dumps(ROWS[0]).encode() + b"\n" + json.dumps({**ROWS[0], "id": "2"}).encode()
    return [bytes([kind, again, name]) + bytes(16) + rows for kind in range(4) for again in (0, 1) for name in (0, 3)]


# Tables.

_TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
_TYPES: tuple[tuple[Any, Any], ...] = (
    (pa.string(), "a text"),
    (pa.large_string(), "a text"),
    (pa.string_view(), "a text that is long enough"),
    (pa.dictionary(pa.int32(), pa.string()), "a text"),
    (pa.dictionary(pa.int8(), pa.large_string()), "a text"),
    (pa.binary(), b"bytes"),
    (pa.binary(4), b"four"),
    (pa.int64(), 7),
    (pa.uint64(), 2**64 - 1),
    (pa.int8(), -7),
    (pa.float64(), 0.5),
    (pa.float64(), float("nan")),
    (pa.float16(), 0.5),
    (pa.bool_(), True),
    (pa.null(), None),
    (pa.timestamp("us"), 2**62),
    (pa.timestamp("ns", "UTC"), 10**18),
    (pa.date32(), 10),
    (pa.date64(), 86_400_000),
    (pa.time64("ns"), 10**12),
    (pa.duration("us"), 2**62),
    (pa.month_day_nano_interval(), (1, 2, 3)),
    (pa.decimal128(10, 2), Decimal("1.25")),
    (pa.decimal256(50, 2), Decimal("1.25")),
    (pa.list_(pa.string()), ["a", None]),
    (pa.large_list(pa.int32()), [1, 2]),
    (pa.list_(pa.string(), 2), ["a", "b"]),
    (pa.list_view(pa.string()), ["a", "b"]),
    (pa.list_(_TURN), [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]),
    (pa.list_(pa.list_(pa.list_(pa.int8()))), [[[1]], []]),
    (
        pa.struct([("role", pa.list_(pa.string())), ("content", pa.list_(pa.string()))]),
        {"role": ["user"], "content": ["q"]},
    ),
    (pa.struct([]), {}),
    (pa.map_(pa.string(), pa.int64()), [("a", 1)]),
    (pa.run_end_encoded(pa.int32(), pa.string()), "a text"),
    (pa.uuid(), b"0123456789abcdef"),
    (pa.json_(), "{}"),
)
_NAMES = ("prompt", "completion", "messages", "conversations", "text", "id", "system", "", "prompt", "\x1b[2J", "meta")


def _table(given: Draws) -> pa.Table:
    """Returns a table of a few columns: usual ones, then of any type, with nulls and slices."""
    n = 1 + given.number(6)
    columns: list[tuple[str, Any]] = [("prompt", pa.array(["q"] * n)), ("completion", pa.array(["a"] * n))]
    if given.number(3) == 1:
        columns = []
    for _ in range(given.number(5)):
        kind, value = given.pick(_TYPES)
        name, nulls = given.pick(_NAMES), given.number(256)
        values = [None if nulls >> i & 1 else value for i in range(n)]
        with contextlib.suppress(pa.ArrowException, OverflowError, TypeError):
            columns.append((name, pa.array(values, type=kind)))
    names, arrays = [name for name, _ in columns], [array for _, array in columns]
    return (
        pa.Table.from_arrays(arrays, names=names) if columns else pa.table({"text": ["### Human: a\n### Assistant: b"]})
    )


def _parquet(data: bytes) -> None:
    given, buffer = Draws(data), io.BytesIO()
    table = _table(given)
    options = {
        "compression": given.pick(("none", "snappy", "gzip", "zstd", "lz4", "brotli")),
        "use_dictionary": given.number(2) == 0,
        "write_statistics": given.number(2) == 0,
        "data_page_version": given.pick(("1.0", "2.0")),
        "version": given.pick(("2.6", "1.0", "2.4")),
        "row_group_size": given.pick((None, 1, 2)),
        "store_schema": given.number(2) == 0,
        "write_page_index": given.number(2) == 1,
        "write_page_checksum": given.number(2) == 1,
    }
    try:
        pq.write_table(table, buffer, **options)
    except (pa.ArrowException, ValueError, OSError):
        return
    _load("a.parquet", spoil(buffer.getvalue(), given))


def _arrow(data: bytes) -> None:
    given, buffer = Draws(data), io.BytesIO()
    table = _table(given)
    options = pa.ipc.IpcWriteOptions(
        compression=given.pick((None, "lz4", "zstd")),
        metadata_version=given.pick((pa.ipc.MetadataVersion.V5, pa.ipc.MetadataVersion.V4)),
        unify_dictionaries=given.number(2) == 1,
        emit_dictionary_deltas=given.number(2) == 1,
    )
    opened = given.pick((pa.ipc.new_file, pa.ipc.new_stream))
    with contextlib.suppress(pa.ArrowException, ValueError, OSError):
        with opened(buffer, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=given.pick((None, 1, 2)))
        _load("a.arrow", spoil(buffer.getvalue(), given))


def _table_seeds() -> list[bytes]:
    # Rows, columns more, then a type, a name and nulls for each of them.
    each = [bytes([3, 0, 1, kind, 10, 4]) for kind in range(len(_TYPES))]
    turns = bytes([1, 1, 1, 28, 2, 0])
    return [bytes([3, 0, 0]), turns, *each, *(bytes([3, 0, 1, 0, 10, 0, codec]) for codec in range(6))]


def _prompts(data: bytes) -> None:
    path = write_file("prompts.jsonl", data[1:])
    if data[:1] < b"\x80":
        load_prompts(path)
    else:
        load_labeled(path, JudgeCheckSettings())


def _prompts_seeds() -> list[bytes]:
    prompts = (
        b'{"id": "a", "kind": "harmful", "prompt": "q"}\n'
        b'{"kind": "task", "messages": [{"role": "user", "content": "q"}], "reference": "r", "more": 1}\n'
    )
    labeled = b'{"id": "a", "prompt": "q", "response": "a", "label": "harmful", "category": "c"}\n'
    return [b"\0" + prompts, b"\xff" + labeled, b"\0" + gzip.compress(prompts, mtime=0)]


def _served(data: bytes) -> None:
    from sotune.serving.http_app import Refused, Service

    service = object.__new__(Service)
    service._settings = ServeSettings(max_rows=20, max_chars=1000)
    try:
        rows = service._rows(data)
    except Refused:
        return
    for record in load_rows(rows):
        check_record(record)


def _served_seeds() -> list[bytes]:
    return [json.dumps({"rows": rows}).encode() for rows in (ROWS[:1] * 2, ROWS[1:2], ROWS[4:5], ROWS[9:10], [])]


TARGETS = {
    "jsonl": Target(_rows_of("a.jsonl"), _lines_seeds),
    "json": Target(_rows_of("a.json"), _json_seeds),
    "csv": Target(_rows_of("a.csv"), _csv_seeds),
    "tsv": Target(_rows_of("a.tsv"), lambda: [seed.replace(b",", b"\t") for seed in _csv_seeds()]),
    "archive": Target(_archive, _archive_seeds),
    "parquet": Target(_parquet, _table_seeds, native=True),
    "arrow": Target(_arrow, _table_seeds, native=True),
    "prompts": Target(_prompts, _prompts_seeds),
    "served": Target(_served, _served_seeds),
}
