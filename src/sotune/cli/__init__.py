"""The command line: flags are the settings of `sotune.settings`, under the same names."""

from sotune.cli import studies, verification
from sotune.cli.commands import app, main

__all__ = ["app", "main", "studies", "verification"]
