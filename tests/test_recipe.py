"""The workflow that the docs offer is YAML, and its commands are ours."""

import shlex
from pathlib import Path

import yaml

from test_snippets import check_command

RECIPE = Path(__file__).parents[1] / "examples" / "safety-gate.yaml"


def test_the_workflow_runs_commands_that_exist():
    workflow = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    steps = workflow["jobs"]["weigh"]["steps"]
    commands = [shlex.split(step["run"]) for step in steps if "run" in step]
    assert [words[0] for words in commands] == ["pip", "sotune"]
    for words in commands:
        check_command(words)
    assert "--require-pass" in commands[-1]
    uploads = [step for step in steps if step.get("if") == "always()"]
    assert len(uploads) == 1  # the page is kept where the gate fails, too
    commented = [
        line.split("run: ")[1] for line in RECIPE.read_text().splitlines() if line.strip().startswith("# - run:")
    ]
    for line in commented:
        check_command(shlex.split(line))
