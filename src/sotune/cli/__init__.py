"""The command line: flags are the settings of `sotune.settings`, under the same names."""

from sotune.cli import estimates, exports, studies, verifying
from sotune.cli.commands import app, main

__all__ = ["app", "estimates", "exports", "main", "studies", "verifying"]
