"""Run folders from elsewhere, whose author has sealed them anew."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_targets import Draws, Target, scratch, spoil

from sotune.artifacts import MARKER, RunFolder, sha256_file, sha256_json, write_json
from sotune.pipeline.run_folders import list_runs
from sotune.pipeline.verifying import verify


@functools.cache
def _runscratch() -> Path:
    """Returns a small run that is weighed and selected, with a report."""
    import sotune
    from pipeline_rows import rows, write_jsonl
    from tiny_models import build_tiny_model

    folder = scratch() / "world"
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
    folder = scratch() / "manifest"
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
    run = _runscratch()
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
        return spoil(content, given)
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
    None, True, 0, -1, 1, 10**30, 0.5, 1e308, "", "x", "../../x", "\x1b[2J<b>", [], [[]], [None], {}, {"x": 1},
    "1", float("nan"),
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
        sotune.explain(run, ["benign-1-1"])
    elif how == 2:
        sotune.open_run(run).report()
    else:
        sotune.Scorer(run)


def _received_seeds() -> list[bytes]:
    return [
        bytes([number, 0, key, 2, value, how])
        for number in range(len(_SEALED))
        for how in range(4)
        for key, value in ((0, 3), (5, 8))
    ]


@functools.cache
def _trained() -> Path:
    """Returns a small run that went the whole way, and stays as it is."""
    import sotune
    from pipeline_rows import rows, write_jsonl
    from tiny_models import build_tiny_model

    folder = scratch() / "trained"
    folder.mkdir()
    prompts = [{"id": f"p{n}", "prompt": f"How to {n}?", "kind": kind} for n, kind in enumerate(("harmful", "task"))]
    sotune.run(
        write_jsonl(folder / "train.jsonl", rows("benign", 16, 1) + rows("harmful", 3, 2)),
        safe_anchor=write_jsonl(folder / "anchor.jsonl", rows("benign", 12, 3)),
        harmful_reference=write_jsonl(folder / "harm.jsonl", rows("harmful", 20, 4)),
        safe_reference=write_jsonl(folder / "safe.jsonl", rows("benign", 12, 5)),
        eval_prompts=write_jsonl(folder / "prompts.jsonl", [{**one, "reference": "a"} for one in prompts]),
        model=build_tiny_model("llama", folder / "model"), out=folder / "run", dtype="float32", device="cpu",
        threads=1, layer=1, pooling="last", prompt_control=False, diagnostics=False, **_SHORT,
    )  # fmt: skip
    return folder


_SHORT: dict[str, Any] = {"max_steps": 1, "max_new_tokens": 2, "hold": "none", "max_length": 64}
"""What no change of a run's settings may make long; somebody who goes on with a run says so too."""


def _continued_run(data: bytes) -> None:
    """Changes one file of a finished run, seals it anew, and goes on with it: any verb that takes a run."""
    given = Draws(data)
    pristine = _trained() / "run"
    run = _trained() / "received"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(pristine, run)
    verb = given.pick(tuple(_VERBS))
    listed = [one for path in sorted(run.glob("*.manifest.json")) for one in json.loads(path.read_bytes())["outputs"]]
    name = given.pick([*sorted({*listed}), "weights.manifest.json", "training.manifest.json"])
    path = run / name
    content = path.read_bytes()
    if path.suffix == ".parquet" and given.number(8):
        _edit_table(path, given)
    elif path.suffix == ".jsonl" and given.number(8):
        lines = content.splitlines(keepends=True) or [b"{}\n"]
        place = given.number(len(lines))
        lines[place] = json.dumps(json.loads(_edited(lines[place], "x.json", given))).encode() + b"\n"
        path.write_bytes(b"".join(lines))
    else:
        path.write_bytes(_edited(content, name, given))
    if path.read_bytes() == content:
        return
    _seal(run, name)
    _VERBS[verb](run)


def _edit_table(path: Path, given: Draws) -> None:
    """Changes cells or rows of a table, which stays one of the same columns where the value allows it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    rows = table.to_pylist()
    for _ in range(1 + given.number(2)):
        kind = given.number(6)
        if not rows or kind == 0:
            rows = rows[::-1]
        elif kind == 1:
            rows.pop(given.number(len(rows)))
        elif kind == 2:
            rows.append(rows[given.number(len(rows))])
        else:
            name = given.pick(table.column_names)
            for row in rows if kind == 3 else [rows[given.number(len(rows))]]:
                row[name] = given.pick(_ODD_CELLS[_kind_of(table.schema.field(name).type)])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def _kind_of(type: Any) -> str:
    import pyarrow.types as of

    kinds = {"number": of.is_floating, "count": of.is_integer, "flag": of.is_boolean, "texts": of.is_list}
    kind = next((name for name, fits in kinds.items() if fits(type)), "text")
    return "numbers" if kind == "texts" and of.is_floating(type.value_type) else kind


_ODD_CELLS: dict[str, tuple[Any, ...]] = {
    "number": (None, float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e308, 5e-324, 0.5),
    "count": (None, 0, -1, 1, 2**63 - 1, -(2**63)),
    "flag": (None, True, False),
    "text": (
        None, "", "x", "../../x", "\x1b[2J<b>", "[]", "{}", "null", "[null]", '[{"role": "user"}]',
        '[{"role": "assistant", "content": ""}]', '{"prompt": 1}', "benign-1-1", "0" * 64, "downstream", "a" * 10_000,
    ),
    "texts": (None, [], [""], ["x"], [None], ["benign-3-1"] * 9),
    "numbers": (None, [], [0.0], [None], [float("nan")], [-1.0, 1e308]),
}  # fmt: skip


def _verbs() -> dict[str, Callable[[Path], Any]]:
    """Returns what goes on with a run, or hands it on."""
    import sotune
    from sotune.pipeline.run_folders import find_removable, remove

    def serve(run: Path) -> None:
        from sotune.serving.server import prepare
        from sotune.settings import ServeSettings

        prepared = prepare(run, ServeSettings.of({"port": 0, "audit": str(run.parent / "audit.jsonl")}))
        prepared.listener.close()
        sotune.Scorer(run).score([{"id": "a", "prompt": "b", "response": "c"}])

    def clean(run: Path) -> None:
        remove(run, find_removable(run, checkpoints=True))

    return {
        "select": lambda run: sotune.open_run(run).select(keep_fraction=0.5),
        "train": lambda run: sotune.open_run(run).train(learning_rate=1e-3, max_steps=1, hold="none"),
        "evaluate": lambda run: sotune.open_run(run).evaluate(max_new_tokens=1, eval_batch_size=4),
        "report": lambda run: sotune.open_run(run).report(show_text=True),
        "explain": lambda run: sotune.explain(run, ["benign-1-1", "harmful-2-1"], show_text=True),
        "score": lambda run: sotune.score(run, run.parent / "train.jsonl"),
        "export": lambda run: sotune.open_run(run).export(to="trl", out=str(run / "exports" / "trl")),
        "merge": lambda run: sotune.open_run(run).merge(),
        "clean": clean,
        "serve": serve,
        "verify": sotune.verify,
        "list": lambda run: list_runs(run.parent),
        "look": lambda run: [repr(sotune.open_run(run)), sotune.open_run(run).kept, sotune.open_run(run).metrics],
    }  # fmt: skip


_VERBS = _verbs()


def _continued_seeds() -> list[bytes]:
    return [
        bytes([verb, name, 1, kind, value, value + kind, kind, value])
        for verb in range(len(_VERBS))
        for name in range(0, 30, 2)
        for kind, value in ((1, 3), (3, 8), (5, 12))
    ]


TARGETS = {
    "manifest": Target(_manifest, _manifest_seeds),
    "received_run": Target(_received_run, _received_seeds),
    "continued_run": Target(_continued_run, _continued_seeds),
}
