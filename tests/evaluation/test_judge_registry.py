"""Judges by name: ours, those of another package, and what is said of names that are neither."""

import json
from pathlib import Path

import pytest

from sotune.artifacts import read_json
from sotune.errors import ConfigError
from sotune.evaluation.judges import NamedJudge
from sotune.evaluation.judges.registry import JUDGES, check_judges, judge_class, judge_key, make_judges
from sotune.evaluation.metrics import JUDGE_ROLES
from sotune.settings import JudgeSettings

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Another package, as installed, that brings the judge of the docs."""
    example = (
        DOCS.read_text(encoding="utf-8").split("## A judge of your own")[1].split("```python\n")[1].split("```")[0]
    )
    folder = tmp_path / "site"
    (folder / "word_judges-1.0.dist-info").mkdir(parents=True)
    (folder / "word_judges.py").write_text(f"{example}\n\nclass Plain:\n    pass\n")
    (folder / "word_judges-1.0.dist-info" / "METADATA").write_text("Name: word-judges\nVersion: 1.0\n")
    (folder / "word_judges-1.0.dist-info" / "entry_points.txt").write_text(
        "[sotune.judges]\nword = word_judges:WordJudge\nplain = word_judges:Plain\nlost = word_judges:Lost\n"
        "guard = word_judges:Plain\n"
    )
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_lies_where_the_registry_says(name):
    found = judge_class(name)
    assert issubclass(found, NamedJudge)
    assert set(found.Settings.model_fields) <= set(JudgeSettings.model_fields)
    assert found.roles


def test_ours_take_all_roles_by_one_name():
    for name in ("matching", "miniature"):
        judges = make_judges(JudgeSettings(judges=name), "nowhere")
        assert list(judges) == list(JUDGE_ROLES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"harm_judge": ["gaurd:x"]}, "Got 'gaurd:x'; did you mean 'guard'?"),
        ({"harm_judge": ["guard"]}, "guard:MODEL or classifier:MODEL. Got 'guard'$"),
        ({"coherence_judge": ["matching"]}, "coherence_judge must be chat or chat:RUBRIC. Got 'matching'"),
    ],
)
def test_names_that_are_no_judges(settings, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        check_judges(JudgeSettings(**settings))


def test_the_key_holds_what_verdicts_depend_on_and_nothing_else():
    key = judge_key(JudgeSettings(task_match="number"))
    assert key == judge_key(JudgeSettings(task_match="number", guard_threshold=0.9, judge_concurrency=3))
    assert key != judge_key(JudgeSettings(task_match="label"))
    assert judge_key(JudgeSettings(judges="miniature")) == judge_key(
        JudgeSettings(judges="miniature", task_match="label")
    )


def test_a_judge_of_another_package(package):
    judges = make_judges(
        JudgeSettings(harm_judge=("word:sure", "word:certainly"), refusal_judge=("word:sorry",)), "nowhere"
    )
    assert (judges["harm"].name, judges["refusal"].name) == ("panel(word-sure, word-certainly)", "word-sorry")
    with pytest.raises(ConfigError, match="harm_judge must be chat, .*, classifier:MODEL or word:WORD. Got 'wordy'"):
        check_judges(JudgeSettings(harm_judge=("wordy",)))
    with pytest.raises(ConfigError, match="skill_judge must be chat or chat:RUBRIC. Got 'word:sure'"):
        check_judges(JudgeSettings(skill_judge=("word:sure",)))


def test_a_package_that_does_not_keep_its_word(package):
    for name, message in (
        ("plain", "'plain' is word_judges:Plain, which is not a NamedJudge"),
        ("lost", "'lost' of word_judges:Lost could not be loaded"),
    ):
        with pytest.raises(ConfigError, match=message):
            judge_class(name)
    assert judge_class("guard").__name__ == "GuardJudge"  # ours cannot be replaced


def test_a_judge_of_another_package_on_the_command_line(package, tmp_path):
    from typer.testing import CliRunner

    from sotune.cli import app

    rows = [{"prompt": "How?", "response": "Sure, so." if i % 2 else "No.", "label": i % 2} for i in range(12)]
    labeled = tmp_path / "labeled.jsonl"
    labeled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["judge-check", str(labeled), "--harm-judge", "word:sure", "--out", str(tmp_path / "check.json")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = read_json(tmp_path / "check.json")
    assert (found["judge"], found["overall"]["accuracy"]["value"]) == ("word-sure", 1.0)
