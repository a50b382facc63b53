"""One edit in one file makes a new setting of the solver a flag, a YAML key, a keyword and part of the stage's key."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sotune.settings import weigh

FIELD = '    momentum: float = Field(0.25, gt=0, description="A setting that this test invents.")\n'
# Puts the edited file in the place of the module, before anything else of sotune is imported.
WITH_EDIT = """
import sys
from importlib.util import spec_from_file_location

class Edited:
    def find_spec(self, name, path=None, target=None):
        return spec_from_file_location(name, {file!r}) if name == "sotune.settings.weigh" else None

sys.meta_path.insert(0, Edited())
"""


@pytest.fixture
def edited(tmp_path):
    """Runs code in a Python whose settings of the solver have one more field."""
    text = Path(weigh.__file__).read_text(encoding="utf-8")
    file = tmp_path / "weigh.py"
    file.write_text(re.sub(r"(?s)(class WeightSettings\(.*?)(?=^    \w+: )", rf"\1{FIELD}", text, count=1, flags=re.M))

    def run(code):
        code = WITH_EDIT.format(file=str(file)) + code
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    return run


def test_a_new_setting_of_the_solver_is_one_edit(edited, tmp_path):
    for name in ("train", "anchor", "harm"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    config = tmp_path / "run.yaml"
    sets = {"data": "train.jsonl", "safe_anchor": "anchor.jsonl", "harmful_reference": "harm.jsonl"}
    given = {name: str(tmp_path / file) for name, file in sets.items()} | {"model": "m", "out": str(tmp_path / "run")}
    config.write_text("".join(f"{name}: {value}\n" for name, value in given.items()) + "momentum: 0.5\n")
    code = f"""
import json
from typer.testing import CliRunner
from sotune.cli import app
from sotune.settings import WeightSettings, make_config, read_config
from pathlib import Path

def run(*args):
    return CliRunner().invoke(app, args, env={{"COLUMNS": "200"}})

print(json.dumps({{
    "keyword": WeightSettings(momentum=0.5).momentum,
    "yaml": make_config(read_config(Path({str(config)!r}))).momentum,
    "help": run("weigh", "--help").output,
    "planned": run("run", {str(config)!r}, "--momentum", "0.75", "--until", "weigh", "--dry-run").exit_code,
    "refused": run("run", {str(config)!r}, "--momentum", "-1", "--dry-run").output,
}}))
"""
    found = json.loads(edited(code))
    assert found["keyword"] == found["yaml"] == 0.5
    assert "--momentum" in found["help"]
    assert "A setting that this test invents. Default: 0.25." in " ".join(found["help"].replace("│", " ").split())
    assert found["planned"] == 0
    assert "momentum: must be greater than 0" in " ".join(found["refused"].split())
