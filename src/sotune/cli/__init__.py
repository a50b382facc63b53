"""The command line: flags are the settings of `sotune.settings`, under the same names."""

from sotune.cli import beginnings, estimates, exports, housekeeping, services, studies, verifying
from sotune.cli.commands import app, main

__all__ = ["app", "beginnings", "estimates", "exports", "housekeeping", "main", "services", "studies", "verifying"]
