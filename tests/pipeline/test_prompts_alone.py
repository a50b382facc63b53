import pytest

from sotune.artifacts import read_json
from sotune.pipeline.prompts_alone import sample_places, sample_prompts
from sotune.records import Message, Record, ToolCall


def test_answers_are_gone_from_every_learned_turn_and_prompts_stay():
    turns = (
        Message("system", "Be brief."),
        Message("user", "Hello?"),
        Message("assistant", "Hi.", learned=False),
        Message("user", "And?"),
        Message("assistant", "Fine.", reasoning="Well", tool_calls=(ToolCall("f", "{}"),)),
        Message("user", "So?"),
        Message("assistant", "Bye."),
    )
    sets = {"downstream": [Record("a", turns)], "safe_anchor": [], "harmful_reference": [], "safe_reference": []}
    (sampled,) = sample_prompts(sets)["downstream"]
    assert [turn.content for turn in sampled.messages] == ["Be brief.", "Hello?", "Hi.", "And?", "...", "So?", "..."]
    assert (sampled.messages[4].reasoning, sampled.messages[4].tool_calls) == ("", ())
    assert sampled.id == "a"


@pytest.mark.parametrize(("n", "size"), [(0, 0), (20, 20), (120, 50), (900, 225), (5000, 400)])
def test_a_sample_is_small_in_order_and_always_the_same(n, size):
    places = sample_places(n)
    assert len(set(places)) == size
    assert places == sorted(places) == sample_places(n)
    assert all(0 <= place < n for place in places)


def test_a_run_tells_what_prompts_alone_bring_about_unless_told_not_to(cli, flags, tmp_path):
    result = cli("weigh", *flags)
    assert result.exit_code == 0, result.output
    found = read_json(tmp_path / "run" / "solver.json")["prompts_alone"]
    assert found["n"] == 50
    assert -1 <= found["spearman"] <= 1
    assert 0 <= found["auroc"] <= 1
    assert 0 <= found["auroc_with_answers"] <= 1
    assert "prompts alone" in result.output
    assert "Without their answers 50 sampled rows" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert cli("weigh", *flags, "--no-prompt-control").exit_code == 0
    assert "prompts_alone" not in read_json(tmp_path / "run" / "solver.json")


def test_a_method_that_reads_texts_has_no_such_control(cli, flags, tmp_path):
    result = cli("weigh", *flags, "--method", "tfidf_probe")
    assert result.exit_code == 0, result.output
    assert read_json(tmp_path / "run" / "solver.json").get("prompts_alone") is None
