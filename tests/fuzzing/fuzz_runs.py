"""Run folders from elsewhere, whose author has sealed them anew."""

from __future__ import annotations

import contextlib
import functools
import json
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


TARGETS = {
    "manifest": Target(_manifest, _manifest_seeds),
    "received_run": Target(_received_run, _received_seeds),
}
