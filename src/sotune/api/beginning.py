"""What a user who begins is told: what is in the file, which rows would make an anchor, what a run would need."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune.api.watching import watched
from sotune.errors import ArtifactError, ConfigError
from sotune.monitoring import Monitor
from sotune.settings import InitSettings, SourceSettings, make_config, run_schema
from sotune.wording import counted

if TYPE_CHECKING:
    from sotune.pipeline.anchor_proposals import Proposal
    from sotune.pipeline.config_text import NamedReference
    from sotune.pipeline.examining import Examination
    from sotune.sources import LoadedSet


class Beginning:
    """A first configuration, step by step: look, propose, accept, write.

    Attributes:
        settings: What was settled.
        loaded: The user's rows, as a run would read them.
    """

    def __init__(self, settings: InitSettings, *, monitor: Monitor | None = None) -> None:
        """Reads the user's rows.

        Raises:
            DataError: They cannot be read.
            ArtifactError: The file to write exists.
        """
        from sotune.pipeline.record_sets import downstream_options
        from sotune.sources import load_set

        self.settings = settings
        if Path(settings.out).exists() and not settings.force:
            raise ArtifactError(f"{settings.out} exists, and nothing of yours is overwritten; name another with out")
        with watched(monitor) as watch:
            self.loaded: LoadedSet = load_set(
                settings.data,
                set_name="downstream",
                options=downstream_options(settings),
                max_quarantine_fraction=1.0,
                progress=lambda done: watch.progress("reading", done, None),
            )

    def found(self) -> list[str]:
        """Returns in words what is in the user's file."""
        loaded = self.loaded
        columns = [loaded.layout.prompt, *([loaded.layout.completion] if loaded.layout.completion else [])]
        told = [
            f"{self.settings.data}: {counted(loaded.n_read, 'row')} read as {loaded.format}, from "
            f"{' and '.join(columns)}; {len(loaded.records):,} can be used, {len(loaded.quarantined):,} cannot, "
            f"{loaded.n_duplicates:,} repeat another"
        ]
        return [*told, *loaded.warnings]

    def propose(self) -> list[Proposal]:
        """Proposes rows for an anchor, as different as they can be.

        Raises:
            DataError: There are too few rows.
        """
        from sotune.pipeline.anchor_proposals import propose_anchor

        n = min(self.settings.propose, len({record.messages for record in self.loaded.records}))
        return propose_anchor(self.loaded.records, n, harmful=self._harmful(), seed=self.settings.seed)

    def accept(self, proposals: Sequence[Proposal], accepted: Collection[int]) -> Path:
        """Writes the accepted rows, by their places from 1, to the anchor file.

        Raises:
            DataError: None is accepted, or there is no such place.
            ArtifactError: The file exists.
        """
        from sotune.pipeline.anchor_proposals import write_anchor

        return write_anchor(Path(self.settings.anchor_file), proposals, accepted)

    def write(self, settled: Mapping[str, Any]) -> list[str]:
        """Writes the YAML file and the schema beside it; returns their names.

        Args:
            settled: Settings besides those of the beginning: anchor, references, model.

        Raises:
            ConfigError: They are no configuration of a run.
        """
        from sotune.artifacts import write_json, write_text
        from sotune.pipeline.config_text import SCHEMA_FILE, Draft, named_references, render_config

        own = self.settings.model_dump(exclude_defaults=True)
        given = {
            "data": self.settings.data,
            **{name: own[name] for name in SourceSettings.model_fields if name in own},
            **settled,
        }
        given["out"] = self.settings.run_folder
        if self.settings.eval_prompts is not None:
            given["eval_prompts"] = self.settings.eval_prompts
        make_config(given, origin="init")
        comments = {}
        for one in named_references():
            for name in ("references", "harmful_reference", "safe_reference"):
                if given.get(name) in (one.name, f"{one.name}-safe"):
                    comments[name] = f"{one.title}: {one.licence}" + (f"; {one.note}" if one.note else "")
        out = Path(self.settings.out)
        write_text(out, render_config(Draft(given, comments, self.found())))
        write_json(out.parent / SCHEMA_FILE, run_schema())
        return [str(out), str(out.parent / SCHEMA_FILE)]

    def _harmful(self) -> Sequence[Any]:
        """Returns the harmful rows if they lie in a file: nothing is fetched only to compare proposals with it."""
        from sotune.sources import SourceOptions, choose_side, load_set

        source = self.settings.harmful_reference or self.settings.references
        if source is None or not Path(source).exists():
            return ()
        options = SourceOptions()
        if self.settings.harmful_reference is None:
            source, options = choose_side(source, options, "harmful")
        loaded = load_set(source, set_name="harmful_reference", options=options, max_quarantine_fraction=1.0)
        return loaded.records


def list_references() -> list[NamedReference]:
    """Returns the public references that can be named, each with its licence."""
    from sotune.pipeline.config_text import named_references

    return named_references()


def read_places(text: str, n: int) -> set[int]:
    """Reads places like ``1,3-9``, or ``all`` of n.

    Raises:
        ConfigError: It is none.

    >>> sorted(read_places("1, 3-5", 9))
    [1, 3, 4, 5]
    """
    if text.strip() == "all":
        return set(range(1, n + 1))
    places: set[int] = set()
    try:
        for part in filter(None, text.replace(" ", "").split(",")):
            first, _, last = part.partition("-")
            places |= set(range(int(first), int(last or first) + 1))
    except ValueError:
        raise ConfigError(f"accept must be like 1,3-9, or all. Got {text!r}") from None
    if not places or not places <= set(range(1, n + 1)):
        raise ConfigError(f"accept must name rows of 1 to {n}. Got {text!r}")
    return places


def examine(config: Mapping[str, Any] | str | None = None, *, monitor: Monitor | None = None) -> Examination:
    """Looks at the machine and, with a configuration, at what its run would need, before anything long; see `doctor`.

    Args:
        config: YAML file of settings, or a mapping of them.
        monitor: Receives progress.
    """
    from sotune.pipeline.examining import examine_run

    with watched(monitor) as watch:
        return examine_run(config, watch)
