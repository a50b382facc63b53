"""Mutated rows and files through the readers and the families' chat templates: refused in words, or right.

``SOTUNE_FUZZ=200000 pytest tests/fuzzing/test_fuzz.py`` tries as many rows, and a hundredth of that in files.
"""

import contextlib
import copy
import gzip
import io
import json
import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz_rows import KEYS, OPTIONS, ROWS, TEXTS, VALUES, check_record

from chat_families import FAMILIES, build_family_tokenizer
from sotune.errors import ConfigError, DataError
from sotune.records import Record, content_hash
from sotune.rendering import Renderer
from sotune.sources import load_set
from sotune.sources.columns import choose_layout, read_conversation
from sotune.sources.rows import RowFault, check_row

N = int(os.environ.get("SOTUNE_FUZZ", "2000"))


def places(value, place=()):
    """Yields the place of each value below one, as the keys that lead there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def find(value, place):
    for key in place:
        value = value[key]
    return value


def mutate(rng, row):
    """Returns a row with up to three values changed, dropped, moved, wrapped or written as JSON."""
    row = copy.deepcopy(row)
    for _ in range(rng.randint(0, 3)):
        all_places = list(places(row))
        if not all_places:
            break
        *above, key = rng.choice(all_places)
        holder = find(row, above)
        old = holder[key]
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(KEYS)] = copy.deepcopy(rng.choice([*VALUES, old]))
        elif kind == 2 and isinstance(old, str):
            at = rng.randint(0, len(old))
            holder[key] = old[:at] + rng.choice(TEXTS) + old[at:]
        elif kind == 3:
            holder[key] = [old] if rng.random() < 0.5 else json.dumps(old)
        elif kind == 4:
            holder[key] = copy.deepcopy(find(row, rng.choice(all_places)))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return row


def read_row(rng, row):
    """Returns the record of a row, or None where it is refused in words."""
    options = rng.choice(OPTIONS)
    try:
        row, _ = check_row(row, max_bytes=1 << 22)
        layout = choose_layout([row], options, place="a.jsonl:1")
        messages, tools = read_conversation(row, layout, learn_turns=options.learn_turns)
    except (RowFault, DataError):
        return None
    return Record(content_hash(messages, tools), messages, tools)


def render_record(renderer, record):
    try:
        text = renderer.text(record)
        tokens = renderer.tokens(record)
        cue = renderer.prompt_tokens(record.prompt, record.tools)
    except DataError:
        return
    assert len(text.learned) == len(record.learned)
    assert all(0 <= start <= end <= len(text.full) for start, end in text.learned)
    assert tokens.learned
    assert len(tokens.input_ids) <= renderer.max_length
    assert cue


def test_no_row_breaks_reading_or_rendering():
    rng = random.Random(0)
    renderers = [Renderer(build_family_tokenizer(name), "chat", 256) for name in FAMILIES]
    renderers.append(Renderer(build_family_tokenizer("llama3"), "paper", 256))
    n_read = 0
    for number in range(N):
        row = mutate(rng, rng.choice(ROWS))
        shown = json.dumps(row, default=str)[:2000]
        try:
            record = read_row(rng, row)
            if record is not None:
                n_read += 1
                check_record(record)
                render_record(renderers[number % len(renderers)], record)
        except Exception as error:
            error.add_note(f"row {number}: {shown}")
            raise
    assert n_read > N // 10


def files(tmp_path):
    """Writes the rows as files of every kind; returns their paths."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    rows = [{"prompt": f"q {i}", "completion": f"a {i}", "score": i / 2} for i in range(8)]
    lines = "".join(json.dumps(row) + "\n" for row in [*rows, *ROWS])
    table = "prompt,completion,score\n" + "".join(f'"q {i}","a {i}",{i}\n' for i in range(8))
    contents = {
        "a.jsonl": lines.encode(),
        "a.json": json.dumps({"data": rows}).encode(),
        "a.csv": table.encode(),
        "a.tsv": table.replace(",", "\t").encode(),
        "a.jsonl.gz": gzip.compress(lines.encode()),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    feather.write_feather(arrow.Table.from_pylist(rows), tmp_path / "a.arrow", compression="uncompressed")
    return sorted(tmp_path.iterdir())


def spoil(rng, content):
    """Returns bytes of which a few are changed, cut out or doubled."""
    spoilt = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(spoilt)) if spoilt else 0
        kind = rng.randrange(4)
        if kind == 0:
            spoilt[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del spoilt[at : at + rng.randint(1, 40)]
        elif kind == 2:
            spoilt[at:at] = rng.choice(TEXTS).encode() + rng.choice([b"\n", b"\r", b'"', b"\xff", b"\0"])
        else:
            spoilt[at:at] = spoilt[at : at + rng.randint(1, 40)]
    return bytes(spoilt)


def test_no_bytes_break_a_reader(tmp_path):
    rng = random.Random(1)
    (tmp_path / "good").mkdir()
    good = [(path.name, path.read_bytes()) for path in files(tmp_path / "good")]
    for number in range(max(N // 100, 7 * 6)):
        name, content = good[number % len(good)]
        path = tmp_path / name
        path.write_bytes(spoil(rng, content))
        try:
            with contextlib.suppress(DataError, ConfigError):
                load_set(path, set_name="downstream", max_quarantine_fraction=1.0)
        except Exception as error:
            error.add_note(f"file {number}, {name}: {path.read_bytes()[:2000]!r}")
            raise


def test_no_flipped_bit_of_a_parquet_footer_ends_the_process(tmp_path):
    """PyArrow aborts where it is asked for damaged figures of a column: the test would end with it."""
    whole = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a", "b"], "completion": ["c", "d"], "score": [0.5, 1.0]}), whole)
    content = whole.getvalue()
    path, footer = tmp_path / "a.parquet", int.from_bytes(content[-8:-4], "little")
    for place in range(len(content) - 8 - footer, len(content) - 8):
        spoiled = bytearray(content)
        spoiled[place] ^= 4
        path.write_bytes(spoiled)
        with contextlib.suppress(DataError):
            load_set(path, set_name="downstream", max_quarantine_fraction=1.0)
