"""Every snippet of the README and the docs: Python is run, commands are parsed, settings are checked."""

import ast
import pkgutil
import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
import yaml

import sotune
from pipeline_rows import rows, write_jsonl
from sotune.cli import app
from sotune.comparison.compare_settings import make_compare_settings
from sotune.evaluation.rubrics.rubric import load_rubric
from sotune.methods import METHODS
from sotune.settings import make_config

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
ELSEWHERE = {
    "vllm": "serves a judge; another project's command",
    "ollama": "likewise",
    "lm_eval": "another project's command; needs the network for its data sets",
    "pre-commit": "another project's command",
}
"""Commands that no test can run, each with the reason."""
NOT_RUN = {"records → representations": "a drawing of the path of the data"}
"""How blocks begin that are no code, each with the reason."""
WITHIN = [
    ROOT / folder
    for folder in ("", "src/sotune", "src/sotune/evaluation", "benchmarks", "experiments", "tests", "docs")
]
"""Folders that paths on the pages start from."""
OF_THE_READER = ("runs/", "cells/", "draws/", "red-team-attempts/", "abercrombie/", ".bench-cache/")
"""How paths begin that lie with whoever runs the commands, or on the Hub."""
GROUPS = {"sotune.judges", "sotune.methods", "sotune.sources"}
"""Of entry points; not every one is a package too."""
TASK_SETS = {"data": "train.jsonl", "safe_anchor": "trusted.jsonl", "harmful_reference": "harm.jsonl", "model": "M"}
PROGRAM = typer.main.get_command(app)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def blocks(*languages):
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(page.relative_to(ROOT).as_posix(), line, match[1], match[2]))
    chosen = [block for block in found if not languages or block.language in languages]
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in chosen]


def commands(text):
    """Yields the words of each command of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


def flags_of(command):
    return {flag for option in command.params for flag in (*option.opts, *option.secondary_opts) if flag[0] == "-"}


def check_command(words):
    program, *arguments = words
    if program == "sotune":
        name, *rest = arguments
        assert name in PROGRAM.commands, f"there is no command {name!r}"
        PROGRAM.commands[name].make_context(name, ["YOUR.jsonl" if word == "…" else word for word in rest])
    elif program in ("torchrun", "accelerate"):
        check_command(arguments[arguments.index("-m") + 1 :])
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "pip":
        wanted = [extra for word in arguments for extra in re.findall(r"^sotune\[(\w+)\]$", word)]
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(wanted) <= set(extras)
    elif program == "python":
        script = find_spec(arguments[1]).origin if arguments[0] == "-m" else ROOT / arguments[0]
        text = Path(script).read_text(encoding="utf-8")
        assert [word for word in arguments if word.startswith("--") and f'"{word}"' not in text] == []
    else:
        assert program in ELSEWHERE


@pytest.mark.parametrize("block", blocks("sh"))
def test_commands_exist_and_take_their_flags(block):
    found = list(commands(block.text))
    assert found
    for words in found:
        check_command(words)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_settings_are_known_and_in_range(block):
    given = yaml.safe_load(block.text)
    if {"methods", "datasets"} & given.keys():
        of_files = any("task" in one for one in given.get("datasets", []))
        base = {"methods": ["adaptive"], "datasets": ["miniature-verdict"], "model": "M" if of_files else "miniature"}
        make_compare_settings({**base, **given})
    else:
        make_config({**TASK_SETS, **given})


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with the files that snippets name."""
    monkeypatch.chdir(tmp_path)
    downstream = [*rows("benign", 40, 1), *rows("harmful", 6, 2)]
    write_jsonl(tmp_path / "train.jsonl", [{**row, "id": f"row-{i}"} for i, row in enumerate(downstream)])
    write_jsonl(tmp_path / "trusted.jsonl", rows("benign", 12, 3))
    write_jsonl(tmp_path / "harm.jsonl", rows("harmful", 20, 4))
    prompts = [{"prompt": row["prompt"], "kind": "harmful"} for row in rows("harmful", 3, 5)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    before = dict(METHODS)
    yield tmp_path
    METHODS.clear()
    METHODS.update(before)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block, desk, tiny_model):
    if "sotune.open_run(" in block.text:
        pytest.skip("tests/test_api.py runs it, with training and evaluation of a tiny size")
    model = str(tiny_model("llama"))
    code = re.sub(r'"[\w-]+/(?:Qwen|Llama|gemma)[\w.-]+"', repr(model), block.text)
    if "runs/first/kept.jsonl" in code:  # of a run that was made before
        (desk / "runs" / "first").mkdir(parents=True)
        kept = [{**row, "weight": 0.5 + i % 2} for i, row in enumerate(rows("benign", 8, 6))]
        write_jsonl(desk / "runs" / "first" / "kept.jsonl", kept)
    code = code.replace('SFTConfig("tuned", ', 'SFTConfig("tuned", use_cpu=True, ')  # TRL takes a GPU otherwise
    exec(compile(code, f"{block.page}:{block.line}", "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("block", blocks(""))
def test_a_block_of_no_language_is_a_rubric_or_a_drawing(block, tmp_path):
    if not any(block.text.startswith(start) for start in NOT_RUN):
        rubric = tmp_path / "rubric.md"
        rubric.write_text(block.text, encoding="utf-8")
        assert load_rubric(str(rubric)).name == "rubric"


def test_no_block_is_of_a_language_that_nothing_checks():
    assert {block.values[0].language for block in blocks()} <= {"sh", "yaml", "toml", "python", ""}


def inline(pattern):
    """Yields page and match for each inline code of a page that is like the pattern."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for code in re.findall(r"`([^`]+)`", text):
            if match := re.match(pattern, " ".join(code.split())):
                yield page.name, match


def test_commands_within_sentences_exist():
    found = list(inline(r"sotune (?:help )?([a-z-]+)(.*)"))
    assert len(found) > 10
    for page, match in found:
        command = PROGRAM.commands.get(match[1])
        assert command is not None, f"{page}: {match[0]}"
        assert set(re.findall(r"--[a-z-]+", match[2])) <= flags_of(command), f"{page}: {match[0]}"


def test_flags_within_sentences_exist():
    known = {flag for command in PROGRAM.commands.values() for flag in flags_of(command)} | flags_of(PROGRAM)
    scripts = "".join(script.read_text(encoding="utf-8") for script in (ROOT / "benchmarks").glob("*.py"))
    for page, match in inline(r"(--[a-z-]+)"):
        assert match[1] in known or f'"{match[1]}"' in scripts, f"{page}: {match[1]}"


def test_python_names_within_sentences_exist():
    packages = "|".join(module.name for module in pkgutil.iter_modules(sotune.__path__))
    found = list(inline(rf"(?:sotune\.)?((?:{packages}|\w+)(?:\.\w+)*)(?:\(.*\))?$"))
    names = {(page, match[1]) for page, match in found if re.match(rf"sotune\.|(?:{packages})\.", match[0])}
    assert len(names) > 20
    for page, name in names:
        if f"sotune.{name}" not in GROUPS and not name.endswith((".json", ".parquet", ".py")):
            assert pkgutil.resolve_name(f"sotune.{name}"), f"{page}: {name}"


def test_paths_within_sentences_exist():
    paths = {(page, match[1]) for page, match in inline(r"((?:[\w.*-]+/)+(?:[\w.*-]+)?)$")}
    ours = {(page, path) for page, path in paths if not path.startswith(OF_THE_READER) and "NAME" not in path}
    assert len(ours) > 15
    missing = [(page, path) for page, path in ours if not any(list(folder.glob(path)) for folder in WITHIN)]
    written = "".join(module.read_text(encoding="utf-8") for module in (ROOT / "src").rglob("*.py"))
    assert [one for one in missing if one[1].strip("/").rpartition("/")[2] not in written] == []


def test_files_within_sentences_are_ours_or_written_by_a_command():
    kinds = "json|jsonl|parquet|safetensors|html|tex|sqlite|yaml|py|md"
    files = {(page, match[1]) for page, match in inline(rf"(?:[\w./-]+/)?([\w-]+\.(?:{kinds}))$")}
    written = "".join(module.read_text(encoding="utf-8") for module in (ROOT / "src").rglob("*.py"))
    ours = {path.name for folder in WITHIN for path in folder.rglob("*")}
    assert len(files) > 30
    unknown = {(page, file) for page, file in files - {("CONTRIBUTING.md", "NAME.yaml")} if file not in ours}
    assert [one for one in unknown if not re.search(rf"[\"}}]{re.escape(one[1])}\"", written)] == []


def test_tests_within_sentences_exist():
    trees = (ast.parse(test.read_text(encoding="utf-8")) for test in (ROOT / "tests").rglob("*.py"))
    known = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    named = {match[1] for _, match in inline(r"(test_\w+)$")}
    assert len(named) > 10
    assert named - known == set()


def test_methods_on_their_page_are_those_that_there_are():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for method in METHODS.values():
        assert f"`{method.name}`" in page, f"docs/methods.md does not say what {method.name} is"
