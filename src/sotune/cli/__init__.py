"""The command line: flags are the settings of `sotune.settings`, under the same names."""

from sotune.cli import beginnings, costs, housekeeping, services, studies
from sotune.cli.commands import app, main

__all__ = ["app", "beginnings", "costs", "housekeeping", "main", "services", "studies"]
