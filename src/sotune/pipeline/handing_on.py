"""What a run made, for other tools: kept rows in their shapes, repositories on the Hub, a merged model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sotune.artifacts import RunFolder, library_versions, write_text
from sotune.errors import ArtifactError, ConfigError
from sotune.exporting import TARGETS, Exported, ExportFacts, Upload, export_rows, push, uploads
from sotune.freshness import MERGED, is_fresh, require_fresh, stale_stages
from sotune.freshness import exported as named_export
from sotune.methods import method_named
from sotune.models import ModelSpec, load_merged, read_tokenizer
from sotune.monitoring import Monitor, Silent
from sotune.pipeline.base_model import base_model
from sotune.pipeline.gating import found_in
from sotune.pipeline.record_sets import read_kept
from sotune.pipeline.unseen_rows import run_config
from sotune.run_files import ADAPTER, CARD, CARD_FIGURES, MERGED_FILES, SELECTION
from sotune.settings import ExportSettings, RunConfig, TrainingSettings

_EXPORTS = "exports"
_MERGED_TITLE = "# Merged model:"
_NO_MODEL = "BASE_MODEL"
"""Stands where a configuration names the model, and the run names none or one that lies on this machine alone."""


@dataclass(frozen=True)
class HandedOn:
    """An export, and what goes or went to the Hub.

    Attributes:
        exported: The rows.
        uploads: What is sent where.
        sent: Addresses of the commits; empty where nothing was sent.
    """

    exported: Exported
    uploads: tuple[Upload, ...] = ()
    sent: tuple[str, ...] = ()


def export(run: RunFolder, settings: ExportSettings, monitor: Monitor | None = None, *, write: bool = True) -> HandedOn:
    """Writes the kept rows of a run for another tool, and sends them to the Hub where that is asked for.

    Args:
        run: A run whose rows are selected.
        settings: For which tool, and how.
        monitor: Receives progress.
        write: Whether to write and send; without, only says what would be.

    Raises:
        ArtifactError: The rows of the run are not selected; or files would be replaced that no export left there.
        DataError: The tool has a place for none of the rows.
        ConfigError: The name of the repository is none.
        SotuneError: The Hub refuses.
    """
    watch = monitor or Silent()
    watch.stage(f"export to {TARGETS[settings.to].title}", "running")
    require_fresh(run, "selection")
    config = run_config(run)
    records, weights = read_kept(run)
    folder = Path(settings.out) if settings.out else run.file(f"{_EXPORTS}/{settings.to}")
    exported = export_rows(
        records, weights, TARGETS[settings.to], _facts(run, config), folder,
        draw=settings.resample, plain=settings.plain, seed=settings.seed, write=write,
    )  # fmt: skip
    if write:
        _note(run, named_export(settings.to), "selection", [Path(name) for name in exported.files])
    if settings.push_to_hub is None:
        return HandedOn(exported)
    adapter = run.file(ADAPTER) if settings.adapter and is_fresh(run, "training") else None
    if adapter is None and settings.adapter and (said := stale_stages(run).get("training")):
        watch.warn(f"the adapter is not sent: {said}")
    planned = tuple(uploads(settings.push_to_hub, folder, adapter, private=not settings.public))
    return HandedOn(exported, planned, tuple(push(planned)) if settings.yes and write else ())


@dataclass(frozen=True)
class Merged:
    """A model with an adapter merged into it.

    Attributes:
        folder: Where it lies.
        dtype: The number type of its weights, which is the checkpoint's own.
        files: What was written.
    """

    folder: str
    dtype: str
    files: tuple[str, ...]


def merge(run: RunFolder, out: Path | None = None, monitor: Monitor | None = None) -> Merged:
    """Writes the base model of a run with its adapter merged into it; the folder appears whole or not at all.

    Raises:
        ArtifactError: The run has no adapter, or the folder holds what no earlier merge wrote.
        ConfigError: The base model could not be loaded.
    """
    (monitor or Silent()).stage("merge", "running")
    require_fresh(run, "training")
    folder, adapter = out or run.file(MERGED), run.file(ADAPTER)
    if not (adapter / "adapter_config.json").exists():
        raise ConfigError(f"{adapter} is a whole model already, since all weights were trained; use it as it is")
    _check_replaceable(folder)
    base = replace(base_model(run_config(run)), dtype="auto")
    model, tokenizer = load_merged(base, adapter), read_tokenizer(ModelSpec(str(adapter)))
    card = (adapter / CARD).read_text(encoding="utf-8", errors="replace") if (adapter / CARD).is_file() else ""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    write_text(partial / CARD, _merged_card(card))
    MERGED_FILES.write(partial, {"files": sorted([*_contents(partial), MERGED_FILES.name])})
    allowed = (partial / CARD).stat().st_mode & 0o777
    for name in _contents(partial):
        (partial / name).chmod(allowed)
    _check_replaceable(folder)  # again: merging takes minutes
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    files = [folder / name for name in _contents(folder)]
    _note(run, MERGED, "training", files)
    return Merged(str(folder), str(model.dtype).removeprefix("torch."), tuple(map(str, files)))


def _check_replaceable(folder: Path) -> None:
    """Raises an ArtifactError where a folder holds anything that no earlier merge wrote."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MERGED_FILES.name).is_file():
        raise ArtifactError(f"{folder} is there and is no merged model; name a new folder with --out")
    if others := set(_contents(folder)).difference(MERGED_FILES.read(folder)["files"]):
        raise ArtifactError(
            f"{folder} holds what no merge wrote beside an earlier merged model: {', '.join(sorted(others))}; move it "
            f"away, or name a new folder with --out"
        )


def _contents(folder: Path) -> list[str]:
    """Returns the names of all files of a folder and of the folders in it, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _note(run: RunFolder, stage: str, made_from: str, files: Sequence[Path]) -> None:
    """Notes what lies in the run of what was handed on, so that it is known to be stale one day."""
    inside, home = [path.resolve() for path in files], run.path.resolve()
    if all(path.is_relative_to(home) for path in inside):
        outputs = [str(path.relative_to(home)) for path in inside]
        run.commit(stage, {"upstream": run.digests(made_from)}, outputs)


def _merged_card(card: str) -> str:
    """Returns the card of an adapter as that of the whole model."""
    head, use, rest = card.partition("## Use\n")
    safety = rest[rest.index(CARD_FIGURES[0]) :] if CARD_FIGURES[0] in rest else ""
    head = head.replace("library_name: peft\n", "library_name: transformers\n")
    return f"{head.replace('# LoRA adapter for', f'{_MERGED_TITLE} LoRA adapter for')}{safety}" if use else card


def _facts(run: RunFolder, config: RunConfig) -> ExportFacts:
    selected = SELECTION.columns_of(run, "kept")["kept"]
    spec = ModelSpec(config.model, config.revision) if config.model else None
    return ExportFacts(
        base=spec.name if spec and spec.folder is None else _NO_MODEL,
        revision=config.revision,
        method=method_named(config.method).title,
        finding=" ".join(one.sentence for one in found_in(run.path)),
        n_rows=len(selected),
        n_kept=sum(selected),
        training=config.part(TrainingSettings),
        version=library_versions("sotune")["sotune"],
    )
