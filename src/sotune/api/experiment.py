"""A contaminated experiment, from a user's own files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune.api.keywords import plain, takes
from sotune.api.watching import watched
from sotune.monitoring import Monitor
from sotune.settings import Format, MixSettings
from sotune.wording import counted

if TYPE_CHECKING:
    from sotune.mixing import Mixture, SourceName
    from sotune.sources import LoadedSet


@dataclass(frozen=True)
class Mixed:
    """What mixing made.

    Attributes:
        folder: The experiment.
        account: Seed, sizes, and what each source gave.
        files: What was written; nothing in a plan.
    """

    folder: str
    account: Mapping[str, Any]
    files: tuple[str, ...]


@takes(MixSettings)
def mix(task: str | PathLike[str], *, dry_run: bool = False, monitor: Monitor | None = None, **settings: Any) -> Mixed:
    """Builds a contaminated experiment: training rows, references and evaluation prompts, disjoint.

    Args:
        task: Rows of the task: a file, a folder or pattern of files, or a Hub id.
        dry_run: Say what would be made, and write nothing.
        monitor: Receives warnings about what is left out.
        settings: ``harmful`` and ``out`` are required.

    Raises:
        ArtifactError: The folder is not empty.
        ConfigError: A setting is wrong.
        DataError: A source cannot be read, or has too few prompts.
    """
    from sotune.mixing import save_mixture

    made = MixSettings.of(plain({"task": task, **settings}))
    mixture = _mixture(made, monitor)
    if dry_run:
        return Mixed(made.out, mixture.account, ())
    # Where the user's files lie is nobody's business; mix.json has their names and digests.
    recorded = made.model_dump(mode="json", exclude={"task", "harmful", "refusals", "safe_reference", "out"})
    files = save_mixture(mixture, Path(made.out), settings=recorded)
    return Mixed(made.out, mixture.account, tuple(str(path) for path in files))


def _mixture(settings: MixSettings, monitor: Monitor | None) -> Mixture:
    from sotune.mixing import MixSizes, check_out, make_mixture

    sizes = MixSizes.from_fractions(
        settings.n,
        harmful_fraction=settings.harmful_fraction,
        refusal_fraction=settings.refusal_fraction if settings.refusals else 0.0,
        n_anchor=settings.n_anchor,
        n_reference=settings.n_reference,
        n_eval=settings.n_eval,
        n_safe=settings.n_safe_reference if settings.safe_reference else 0,
    )
    check_out(Path(settings.out))
    with watched(monitor) as watch:
        sources = _load_sources(settings, watch)
    return make_mixture(
        sources, sizes, seed=settings.seed, label_column=settings.label_column, id_column=settings.id_column
    )


def _load_sources(settings: MixSettings, monitor: Monitor) -> dict[SourceName, LoadedSet]:
    from sotune.sources import SourceOptions, load_set

    asked: dict[SourceName, tuple[str | None, Format, tuple[str, ...]]] = {
        "task": (settings.task, settings.task_format, settings.task_where),
        "harmful": (settings.harmful, settings.harmful_format, settings.harmful_where),
        "refusal": (settings.refusals, settings.refusals_format, settings.refusals_where),
        "safe": (settings.safe_reference, settings.safe_reference_format, settings.safe_reference_where),
    }
    sources: dict[SourceName, LoadedSet] = {}
    for name, (source, row_format, where) in asked.items():
        if source is None:
            continue
        sources[name] = load_set(
            source,
            set_name="harmful_reference" if name == "harmful" else "downstream",
            options=SourceOptions(format=row_format, where=where, id_column=settings.id_column),
            max_quarantine_fraction=settings.max_quarantine_fraction,
        )
        for message in sources[name].warnings:
            monitor.warn(message)
        if sources[name].quarantined:
            monitor.warn(f"{counted(len(sources[name].quarantined), 'row')} of {source} cannot be used; left out")
    return sources
