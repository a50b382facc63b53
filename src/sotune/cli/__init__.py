"""The command line: flags are the settings of `sotune.settings`, under the same names."""

from sotune.cli.commands import app, main
from sotune.cli.comparing import compare
from sotune.cli.demo import demo
from sotune.cli.judge_check import judge_check
from sotune.cli.mixing import mix

__all__ = ["app", "compare", "demo", "judge_check", "main", "mix"]
