"""The command line: flags are the settings of `sotune.config`, under the same names."""

from sotune.cli.commands import app, main
from sotune.cli.demo import demo

__all__ = ["app", "demo", "main"]
