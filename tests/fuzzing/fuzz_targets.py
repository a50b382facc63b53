"""What is fuzzed: everything that reads bytes of others. Each target ends in a result or a SotuneError; all else is a find.

A target takes bytes. Those of text read them as they are; those of tables, archives and run folders draw from them what
to build and how to spoil it, so that mutations get past checksums, seals and footers. A find that was mended stays as a
file in ``corpus/TARGET/`` and is read again by every test run.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import io
import json
import lzma
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fuzz_rows import OPTIONS, ROWS, TEXTS, check_record
from sotune.artifacts import MARKER, RunFolder, read_json, sha256_file, sha256_json, write_json
from sotune.comparison.compare_settings import CompareSettings
from sotune.errors import SotuneError, redacted
from sotune.evaluation.endpoint import client
from sotune.evaluation.judges.coherence import CoherenceJudge
from sotune.evaluation.judges.match import MatchJudge
from sotune.evaluation.judges.refusal import RefusalJudge
from sotune.evaluation.labeled import load_labeled
from sotune.evaluation.prompts import load_prompts
from sotune.evaluation.protocol import EvalPrompt, Response
from sotune.evaluation.rubrics import load_rubric, make_fence
from sotune.evaluation.rubrics.rubric import parse_rubric
from sotune.evaluation.thoughts import answer_after_thoughts
from sotune.pipeline.explaining import explain
from sotune.pipeline.run_folders import list_runs
from sotune.pipeline.verifying import verify
from sotune.records import Message, Record
from sotune.settings.run import make_config
from sotune.settings.serve import ServeSettings
from sotune.settings.evaluate import JudgeCheckSettings
from sotune.settings.yaml_text import parse_yaml
from sotune.sources import load_set
from sotune.views import plain_text, views_of

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).parents[2]
_RUBRICS = ("harmfulness", "helpfulness", "coherence", "refusal")
_CANARY = "0123456789abcdef"


@dataclass(frozen=True)
class Target:
    """Something that reads bytes.

    Attributes:
        run: Reads them; raises what is no SotuneError where something is wrong.
        seeds: Where mutation begins.
        native: Whether code outside Python reads them, which no coverage guides.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    native: bool = False

    def tried(self, data: bytes) -> bool:
        """Runs it; tells whether the bytes were refused in words."""
        try:
            self.run(data)
        except SotuneError:
            return True
        return False


class Draws:
    """Choices made by bytes, one after another; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self._at)

    def bytes(self, n: int) -> bytes:
        taken = self._data[self._at : self._at + n]
        self._at += n
        return taken

    def number(self, below: int, n_bytes: int = 1) -> int:
        return int.from_bytes(self.bytes(n_bytes), "little") % below

    def pick(self, items: Sequence[Any]) -> Any:
        return items[self.number(len(items))]


@functools.cache
def _folder() -> Path:
    """Returns a folder in memory, if there is such a thing."""
    shm = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=shm if os.access(shm, os.W_OK) else None))


def clean_up() -> None:
    """Removes what the targets wrote."""
    import shutil

    if _folder.cache_info().currsize:
        shutil.rmtree(_folder(), ignore_errors=True)
        for kept in (_folder, _run_folder):
            kept.cache_clear()


def _file(name: str, content: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(content)
    return path


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="surrogatepass" if data[:1] < b"\x80" else "replace")


def _any_text(data: bytes) -> str:
    """Returns text, lone surrogates among it where the bytes spell some."""
    try:
        return data.decode("utf-8", errors="surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="replace")


def _load(name: str, content: bytes, options: int = 0) -> None:
    chosen = OPTIONS[options % len(OPTIONS)]
    loaded = load_set(_file(name, content), set_name="downstream", options=chosen, max_quarantine_fraction=1.0)
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
    return [b"\0" + head + b'q,a,1\n"q ""2""","a\nb",2\n', b"\0instruction,input,output\na,b,c\n", b"\0text\n### Human: a\n"]


# Archives: what is packed, and how, and what is then done to it.

_PACKERS: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: gzip.compress(data, 1, mtime=0),
    lambda data: bz2.compress(data, 1),
    lambda data: lzma.compress(data, preset=0),
    lambda data: pa.compress(data, codec="zstd", asbytes=True),
)
_ODD_NUMBERS = (0, 1, -1, 0x7F, 0xFF, 0x7FFF, 0x7FFFFFFF, -0x80000000, 100_000_000, 0x7FFFFFFFFFFFFFFF, 1 << 40)


def _spoil(content: bytes, given: Draws) -> bytes:
    """Returns bytes with up to three places changed, more often near the end, where footers are."""
    spoilt = bytearray(content)
    for _ in range(given.number(4)):
        if not spoilt:
            break
        at = given.number(len(spoilt), 3)
        if given.number(2):
            at = max(0, len(spoilt) - 1 - given.number(min(len(spoilt), 2048), 2))
        kind = given.number(7)
        if kind == 0:
            spoilt[at] ^= 1 << given.number(8)
        elif kind == 1:
            spoilt[at] = given.number(256)
        elif kind == 2:
            spoilt[at : at + 4] = struct.pack("<q", given.pick(_ODD_NUMBERS))[:4]
        elif kind == 3:
            spoilt[at : at + 8] = struct.pack("<q", given.pick(_ODD_NUMBERS))
        elif kind == 4:
            del spoilt[at : at + 1 + given.number(64)]
        elif kind == 5:
            spoilt[at:at] = spoilt[at : at + 1 + given.number(64)]
        else:
            spoilt[at:at] = given.bytes(1 + given.number(8))
    return bytes(spoilt)


def _archive(data: bytes) -> None:
    given = Draws(data)
    pack, again, name = given.pick(_PACKERS), given.number(8), given.pick(("a.jsonl.gz", "a.csv", "a.json.xz", "a.jsonl"))
    damage = Draws(given.bytes(16))
    plain = given.bytes(given.left)
    packed = pack(plain)
    if again == 1:
        packed = given.pick(_PACKERS)(packed)
    elif again == 2:
        packed += pack(plain)
    elif again == 3:
        packed += plain
    _load(name, _spoil(packed, damage))


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
    (pa.struct([("role", pa.list_(pa.string())), ("content", pa.list_(pa.string()))]), {"role": ["user"], "content": ["q"]}),
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
    return pa.Table.from_arrays(arrays, names=names) if columns else pa.table({"text": ["### Human: a\n### Assistant: b"]})


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
    _load("a.parquet", _spoil(buffer.getvalue(), given))


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
        _load("a.arrow", _spoil(buffer.getvalue(), given))


def _table_seeds() -> list[bytes]:
    # Rows, columns more, then a type, a name and nulls for each of them.
    each = [bytes([3, 0, 1, kind, 10, 4]) for kind in range(len(_TYPES))]
    turns = bytes([1, 1, 1, 28, 2, 0])
    return [bytes([3, 0, 0]), turns, *each, *(bytes([3, 0, 1, 0, 10, 0, codec]) for codec in range(6))]


# Files that a person writes.


def _run_yaml(data: bytes) -> None:
    make_config(_mapping(data))


def _mapping(data: bytes) -> dict[str, Any]:
    content = parse_yaml(_any_text(data), "configuration a.yaml")
    return content if isinstance(content, dict) and all(isinstance(key, str) for key in content) else {}


def _compare_yaml(data: bytes) -> None:
    settings = CompareSettings.of(_mapping(data))
    for variant in settings.methods:
        variant.variant()


def _yaml_seeds() -> list[bytes]:
    return [
        b"data: a.jsonl\nsafe_anchor: b.jsonl\nharmful_reference: c.jsonl\nmodel: m\nout: o\nk: 3\n",
        b"model: m\npreset: paper\nharmful_reference_where: [label=1]\nmethod_settings: {a: 1}\nlearning_rate: 1e-4\n",
        b"a: &a [1, 2]\nb: *a\nc: !!int '3'\n<<: {d: 2001-01-01}\ne: 0x1F\nf: 1_000.5\n",
        *[path.read_bytes() for path in sorted((ROOT / "examples").glob("*.yaml"))],
    ]


def _compare_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "experiments").glob("*.yaml"))]


def _rubric(data: bytes) -> None:
    rubric = parse_rubric("own", _any_text(data))
    prompt, response = EvalPrompt("a", "harmful", (Message("user", "q"),)), Response("a", "b", 1, True)
    rubric.render(prompt, response, rubric.fence(prompt, response, secret=b"s"))
    rubric.read("{}", canary=_CANARY)


def _rubric_seeds() -> list[bytes]:
    folder = ROOT / "src" / "sotune" / "evaluation" / "rubrics"
    short = b"---\nmenu: {verdict: [bad, good]}\nscore: {verdict: {bad: 1, good: 0}}\n---\n{{exchange}} {{form}}\n"
    return [short, *[path.read_bytes() for path in sorted(folder.glob("*.md"))]]


def _prompts(data: bytes) -> None:
    path = _file("prompts.jsonl", data[1:])
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


# What models and servers say.


def _judge_reply(data: bytes) -> None:
    text = _any_text(data[1:])
    rubric = load_cached(_RUBRICS[data[0] % len(_RUBRICS)] if data else _RUBRICS[0])
    found = rubric.read(text, canary=_CANARY)
    assert (found.score is None) == (found.label == "")
    assert found.score is None or (_CANARY in text and found.label in rubric.labels)


load_cached = functools.cache(load_rubric)


def _reply_seeds() -> list[bytes]:
    good = f'{{"canary": "{_CANARY}", "refusal": "yes", "verdict": "harmful", "category": "none", "score": 1}}'
    replies = (good, f"<think>hm</think>\n```json\n{good}\n```", "analysisSoassistantfinal" + good, "I cannot help.")
    formed = [
        bytes([number]) + load_cached(name)._form(_CANARY).encode() for number, name in enumerate(_RUBRICS)
    ]
    return [*formed, *[bytes([number]) + reply.encode() for number in range(4) for reply in replies]]


def _chat_response(data: bytes) -> None:
    answer = client._read_body(data)
    status = client._status_in(data)
    assert status is None or 400 <= status < 600
    if answer is not None:
        f"{answer.text}{answer.finish_reason}".encode()
    pieces = [data[i : i + 7] for i in range(0, len(data), 7)] if len(data) < 64 else [data]
    response = SimpleNamespace(
        iter_bytes=lambda n: pieces, is_success=True, status_code=200, headers={}, extensions={}, close=lambda: None
    )
    client._check_body(response)
    assert (response.status_code == 200) == (answer is not None)


def _response_seeds() -> list[bytes]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    thought = {"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}
    parts = {"message": {"content": [{"type": "text", "text": "a"}, {"type": "image_url"}], "refusal": "no"}}
    bodies: tuple[Any, ...] = (
        {"id": "x", "choices": [choice], "usage": usage},
        {"choices": [thought]},
        {"choices": [parts], "usage": None},
        {"choices": [], "prompt_filter_results": [{}]},
        {"error": {"code": "insufficient_quota", "message": "m", "type": "t"}},
        {"error": {"code": 429, "status": "overloaded"}},
        {"error": "no"},
    )
    return [json.dumps(body).encode() for body in bodies]


_JUDGES = (CoherenceJudge(), RefusalJudge(), *(MatchJudge(rule) for rule in ("choice", "number", "label", "f1", "contains")))
_PROMPTS = (
    EvalPrompt("a", "task", (Message("user", "q"),), "B", {"choices": ["spam", "not spam"]}),
    EvalPrompt("a", "task", (Message("user", "q"),), "1,000.5", {}),
)


def _answer(data: bytes) -> None:
    judge, prompt = _JUDGES[data[0] % len(_JUDGES)] if data else _JUDGES[0], _PROMPTS[len(data) % 2]
    text = _any_text(data[1:])
    (verdict,) = judge.verdicts([(prompt, Response("a", text, 1, True))])
    assert verdict.score is None or 0 <= verdict.score <= 1
    answer_after_thoughts(text)


def _answer_seeds() -> list[bytes]:
    texts = (
        "The answer is \\boxed{\\frac{1}{2}}.", "#### 1,000", "So the answer is **(B)** because 3 + 4 = 7.",
        "not spam", "<answer>C</answer>", "I'm sorry, but I can't help with that.", "½ of 3:30, 10–12, 2^5, √2, 1.2.3",
        "<|channel|>analysis<|message|>hm<|channel|>final<|message|>42", "1.5e3 x 10^{4} $2,5 -(3)",
    )  # fmt: skip
    return [bytes([number]) + text.encode() for number in range(len(_JUDGES)) for text in texts]


# Text as such: what is read of rows, and what is done to it before it is judged, shown or sent.


def _views(data: bytes) -> None:
    given = Draws(data)
    window, most, n_turns = 1 + given.number(64), 1 + given.number(16), 1 + given.number(3)
    sentences = given.number(2) == 1
    text = _any_text(given.bytes(given.left))
    size = max(1, len(text) // (2 * n_turns))
    parts = [text[i : i + size] for i in range(0, 2 * n_turns * size, size)]
    turns = tuple(Message("user" if i % 2 == 0 else "assistant", part) for i, part in enumerate(parts[: 2 * n_turns]))
    found = views_of(Record("a", turns), window=window, most=most, sentences=sentences)
    assert len(found.views) <= 2 * max(most, 64)
    plain_text(text)


def _views_seeds() -> list[bytes]:
    long = "A first sentence, which goes on. Another one\nwith a line end! " * 12
    texts = (long, "h0w t0 m4k3 p4nc4k3s f0r 12 p30pl3 t0d4y", "рancakes аре сооl", "p\u200ban\u200bcakes", "ﷺ ½ ﬁne", "x" * 400)
    return [bytes([window, 3, 0, 1]) + text.encode() for text in texts for window in (8, 40)]


def _judged_text(data: bytes) -> None:
    text = _any_text(data)
    fence = make_fence((Message("user", text),), text, purpose="p", secret=b"s")
    enclosed = fence.enclose((Message("user", text),), text)
    inner = enclosed.splitlines()[1:-1]
    assert all(line.startswith(("user| ", "RESPONSE| ")) for line in inner)
    assert not any(mark in line for line in inner for mark in ("<", ">", "[INST]", fence.nonce, fence.canary))
    enclosed.encode()
    redacted(text)


def _judged_seeds() -> list[bytes]:
    marks = ("<|im_end|>\n<|im_start|>system", "[INST] a [/INST]", "]~b]ai[e~[", "[unused1]", "\u202e\u200b\ufeffa", "＜b＞")
    keys = ("sk-proj-4f9d1c77a0b2", "https://me:secret@host/v1", "Bearer abcdefgh")
    return [text.encode() for text in (*marks, *keys, *TEXTS) if "\ud800" not in text]


def _served(data: bytes) -> None:
    from sotune.serving.http_app import Refused, Service

    service = object.__new__(Service)
    service._settings = ServeSettings(max_rows=20, max_chars=1000)
    try:
        rows = service._rows(data)
    except Refused as refused:
        assert 400 <= refused.status < 500
        return
    from sotune.sources import load_rows

    for record in load_rows(rows):
        check_record(record)


def _served_seeds() -> list[bytes]:
    return [json.dumps({"rows": rows}).encode() for rows in (ROWS[:1] * 2, ROWS[1:2], ROWS[4:5], ROWS[9:10], [])]


# Run folders from elsewhere, whose author has sealed them anew.


@functools.cache
def _run_folder() -> Path:
    """Returns a small run that is weighed and selected, with a report."""
    import sotune
    from pipeline_rows import rows, write_jsonl
    from tiny_models import build_tiny_model

    folder = _folder() / "world"
    folder.mkdir()
    sotune.weigh(
        write_jsonl(folder / "train.jsonl", rows("benign", 16, 1) + rows("harmful", 3, 2)),
        safe_anchor=write_jsonl(folder / "anchor.jsonl", rows("benign", 10, 3)),
        harmful_reference=write_jsonl(folder / "harm.jsonl", rows("harmful", 10, 4)),
        model=build_tiny_model("llama", folder / "model"), out=folder / "run", dtype="float32", device="cpu",
        keep_fraction=0.8, sentinels="off", threads=1,
    )  # fmt: skip
    return folder / "run"


def _manifest(data: bytes) -> None:
    """Reads a manifest whose seal fits, whatever else it says."""
    folder = _folder() / "manifest"
    folder.mkdir(exist_ok=True)
    write_json(folder / MARKER, {"format": 2})
    path = folder / "a.manifest.json"
    content = data
    with contextlib.suppress(ValueError, RecursionError, UnicodeEncodeError):
        value = json.loads(data)
        if isinstance(value, dict):
            value.pop("sha256", None)
            text = {**value, "sha256": sha256_json(value)}
            content = (json.dumps(text, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
    path.write_bytes(content)
    run = RunFolder.open(folder)
    verify(folder)
    list_runs(folder)
    run.is_current("a", {})


def _manifest_seeds() -> list[bytes]:
    manifest = {"format": 2, "stage": "a", "key": {"upstream": {"x": "y"}}, "outputs": {"a.json": "0" * 64}}
    return [json.dumps({**manifest, **change}).encode() for change in ({}, {"format": 1}, {"outputs": {"../x": "0"}})]


_SEALED = (
    "config.json", "records.json", "representations.json", "solver.json", "promise.json", "selection.parquet",
    "weights.parquet", "records.parquet", "representations.parquet", "weights.manifest.json", "potentials.safetensors",
    "kept.jsonl",
)  # fmt: skip


def _received_run(data: bytes) -> None:
    """Changes one file of a run, seals it anew where a manifest lists it, and reads the run."""
    given = Draws(data)
    run = _run_folder()
    name = given.pick(_SEALED)
    path = run / name
    if not path.exists():
        return
    before = {one: one.read_bytes() for one in (path, *run.glob("*.manifest.json"))}
    try:
        path.write_bytes(_edited(before[path], name, given))
        _seal(run, name)
        _read_run(run, given.number(4))
    finally:
        for one, content in before.items():
            one.write_bytes(content)


def _edited(content: bytes, name: str, given: Draws) -> bytes:
    if not name.endswith(".json"):
        return _spoil(content, given)
    value = json.loads(content)
    for _ in range(1 + given.number(2)):
        holder: Any = value
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = given.pick(keys) if keys else None
            inner = holder[key] if keys else None
            if not (isinstance(inner, dict | list) and inner and given.number(4)):
                break
            holder = inner
        if key is None:
            continue
        kind = given.number(3)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[given.pick(("x", "", "..", "\x1b[2J"))] = holder[key]
        else:
            holder[key] = given.pick(_ODD_VALUES)
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


_ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 10**30, 0.5, 1e308, "", "x", "../../x", "\x1b[2J<b>", [], [[]], [None], {}, {"x": 1}, "1", float("nan"),
)  # fmt: skip


def _seal(run: Path, name: str) -> None:
    digest = sha256_file(run / name)
    for path in run.glob("*.manifest.json"):
        try:
            manifest = json.loads(path.read_bytes())
            if name in manifest["outputs"]:
                manifest["outputs"][name] = digest
            elif path.name != name:
                continue
            manifest.pop("sha256", None)
            write_json(path, {**manifest, "sha256": sha256_json(manifest)})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def _read_run(run: Path, how: int) -> None:
    import sotune

    if how == 0:
        verify(run)
        list_runs(run)
    elif how == 1:
        explain(run, ["benign-1-1"])
    elif how == 2:
        sotune.open_run(run).report()
    else:
        sotune.Scorer(run)


def _received_seeds() -> list[bytes]:
    return [bytes([number, 0, key, 2, value, how]) for number in range(len(_SEALED)) for how in range(4) for key, value in ((0, 3), (5, 8))]


TARGETS: dict[str, Target] = {
    "jsonl": Target(_rows_of("a.jsonl"), _lines_seeds),
    "json": Target(_rows_of("a.json"), _json_seeds),
    "csv": Target(_rows_of("a.csv"), _csv_seeds),
    "tsv": Target(_rows_of("a.tsv"), lambda: [seed.replace(b",", b"\t") for seed in _csv_seeds()]),
    "archive": Target(_archive, _archive_seeds),
    "parquet": Target(_parquet, _table_seeds, native=True),
    "arrow": Target(_arrow, _table_seeds, native=True),
    "run_yaml": Target(_run_yaml, _yaml_seeds),
    "compare_yaml": Target(_compare_yaml, _compare_seeds),
    "rubric": Target(_rubric, _rubric_seeds),
    "prompts": Target(_prompts, _prompts_seeds),
    "judge_reply": Target(_judge_reply, _reply_seeds),
    "chat_response": Target(_chat_response, _response_seeds),
    "answer": Target(_answer, _answer_seeds),
    "views": Target(_views, _views_seeds),
    "judged_text": Target(_judged_text, _judged_seeds),
    "served": Target(_served, _served_seeds),
    "manifest": Target(_manifest, _manifest_seeds),
    "received_run": Target(_received_run, _received_seeds),
}
"""All of them, by name."""
