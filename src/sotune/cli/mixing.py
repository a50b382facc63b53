"""The command that builds a contaminated experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotune.api.experiment import Mixed, plan_mix
from sotune.api.experiment import mix as make_mixture
from sotune.cli.commands import app
from sotune.cli.console import Output, monitored, print_json, print_table, say
from sotune.cli.flags import with_settings
from sotune.settings import MixSettings


@app.command()
@with_settings(MixSettings, arguments=["task"], config_file=False)
def mix(given: Mapping[str, Any], output: Output) -> None:
    """Build a contaminated experiment from TASK: training rows, both references and evaluation prompts, disjoint."""
    with monitored(output) as monitor:
        mixed = (plan_mix if output.dry_run else make_mixture)(monitor=monitor, **given)
    if output.dry_run:
        figures = "\n".join(f"{name}: {value}" for name, value in _figures(mixed).items())
        say(output, {"would_write": mixed.folder, **mixed.account}, figures)
    elif output.as_json:
        print_json({**mixed.account, "files": mixed.files})
    else:
        print_table(output, "sotune mix", _figures(mixed), mixed.files)


def _figures(mixed: Mixed) -> dict[str, str]:
    figures = {}
    for source, entry in mixed.account["sources"].items():
        roles = ", ".join(f"{role.replace('_', ' ')} {count:,}" for role, count in entry["rows"].items())
        figures[source] = f"{entry['n_valid']:,} rows, {entry['n_prompts']:,} prompts: {roles}"
    return figures
