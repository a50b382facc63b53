"""The command line: flags are the settings of `sotune.settings`, under the same names."""

from sotune.cli import exports, studies
from sotune.cli.commands import app, main

__all__ = ["app", "exports", "main", "studies"]
