"""The command line: flags are the settings of `sotune.config`, under the same names."""

from sotune.cli.commands import app, main

__all__ = ["app", "main"]
