"""The command that builds a contaminated experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune.cli.commands import app
from sotune.cli.console import Output, monitored, print_json, print_table, say
from sotune.cli.flags import with_settings
from sotune.settings import Format, MixSettings, make_mix_settings

if TYPE_CHECKING:
    from sotune.mixing import Mixture, SourceName
    from sotune.sources import LoadedSet


@app.command()
@with_settings(MixSettings, arguments=["task"], config_file=False)
def mix(given: Mapping[str, Any], output: Output) -> None:
    """Build a contaminated experiment from TASK: training rows, both references and evaluation prompts, disjoint."""
    from sotune.mixing import MixSizes, check_out, make_mixture, save_mixture

    settings = make_mix_settings(given)
    out = Path(settings.out)
    sizes = MixSizes.from_fractions(
        settings.n,
        harmful_fraction=settings.harmful_fraction,
        refusal_fraction=settings.refusal_fraction if settings.refusals else 0.0,
        n_anchor=settings.n_anchor,
        n_reference=settings.n_reference,
        n_eval=settings.n_eval,
    )
    check_out(out)
    mixture = make_mixture(
        _load_sources(settings, output),
        sizes,
        seed=settings.seed,
        label_column=settings.label_column,
        id_column=settings.id_column,
    )
    if output.dry_run:
        planned = {"would_write": str(out), **mixture.account}
        say(output, planned, "\n".join(f"{name}: {value}" for name, value in _figures(mixture).items()))
        return
    # Where the user's files lie is nobody's business; mix.json has their names and digests.
    recorded = settings.model_dump(mode="json", exclude={"task", "harmful", "refusals", "out"})
    files = [str(path) for path in save_mixture(mixture, out, settings=recorded)]
    if output.as_json:
        print_json({**mixture.account, "files": files})
        return
    print_table(output, "sotune mix", _figures(mixture), files)


def _load_sources(settings: MixSettings, output: Output) -> dict[SourceName, LoadedSet]:
    from sotune.sources import SourceOptions, load_set

    asked: dict[SourceName, tuple[str | None, Format, tuple[str, ...]]] = {
        "task": (settings.task, settings.task_format, settings.task_where),
        "harmful": (settings.harmful, settings.harmful_format, settings.harmful_where),
        "refusal": (settings.refusals, settings.refusals_format, settings.refusals_where),
    }
    sources: dict[SourceName, LoadedSet] = {}
    with monitored(output) as monitor:
        for name, (source, row_format, where) in asked.items():
            if source is None:
                continue
            sources[name] = load_set(
                source,
                set_name="harmful_reference" if name == "harmful" else "downstream",
                options=SourceOptions(format=row_format, where=where, id_column=settings.id_column),
                max_quarantine_fraction=settings.max_quarantine_fraction,
            )
            if sources[name].quarantined and monitor is not None:
                monitor.warn(f"{len(sources[name].quarantined)} rows of {source} cannot be used and are left out")
    return sources


def _figures(mixture: Mixture) -> dict[str, str]:
    figures = {}
    for source, entry in mixture.account["sources"].items():
        roles = ", ".join(f"{role.replace('_', ' ')} {count:,}" for role, count in entry["rows"].items())
        figures[source] = f"{entry['n_valid']:,} rows, {entry['n_prompts']:,} prompts: {roles}"
    return figures
