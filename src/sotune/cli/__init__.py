"""The command line: flags are the settings of `sotune.settings`, under the same names."""

from sotune.cli import beginnings, costs, exports, housekeeping, services, studies, verification
from sotune.cli.commands import app, main

__all__ = ["app", "beginnings", "costs", "exports", "housekeeping", "main", "services", "studies", "verification"]
