"""Rules and parsers read no text of endless length, and no filler within their bound takes more than seconds."""

import time

import pytest

from sotune.evaluation.judges.coherence import CoherenceJudge
from sotune.evaluation.judges.match import MatchJudge
from sotune.evaluation.judges.refusal import RefusalJudge
from sotune.evaluation.protocol import MAX_RULE_CHARACTERS, EvalPrompt, Response
from sotune.evaluation.rubrics import load_rubric
from sotune.records import Message

PROMPT = EvalPrompt("a", "task", (Message("user", "q"),), "B", {"choices": ["a", "b"]})
JUDGES = [CoherenceJudge(), RefusalJudge(), *(MatchJudge(rule) for rule in ("choice", "number", "label", "f1"))]
FILLERS = [" ", "\n", "*", "a", "answer ", " is", "<answer>", "boxed{", "{", "1", "1.", "www.", "a'", "<think>", "("]


def filled(filler, n):
    return ("answer" + filler * n)[:n]


@pytest.mark.parametrize("filler", FILLERS)
def test_no_filler_takes_long(filler):
    text, started = filled(filler, 20_000), time.process_time()
    for judge in JUDGES:
        assert len(judge.verdicts([(PROMPT, Response("a", text, 1, True))])) == 1
    load_rubric("refusal").read(text, canary="c")
    assert time.process_time() - started < 10


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.name)
def test_an_answer_beyond_the_bound_is_unscored_and_says_so(judge):
    (verdict,) = judge.verdicts([(PROMPT, Response("a", "B " * MAX_RULE_CHARACTERS, 1, True))])
    assert verdict.score is None
    assert "over 50000" in verdict.explanation


def test_a_reply_beyond_the_bound_is_unread():
    found = load_rubric("refusal").read("[" * 200_000, canary="c")
    assert (found.score, "over 50000" in found.details) == (None, True)
