from dataclasses import dataclass

import pytest

from cases import prompt, response
from sotune.errors import ConfigError, DataError
from sotune.evaluation import Verdict
from sotune.evaluation.judges.matching import default_judges
from sotune.evaluation.judging import judge_responses
from sotune.evaluation.protocol import AnswerJudge

PROMPTS = [
    *(prompt(f"h{i}", "harmful") for i in range(4)),
    *(prompt(f"l{i}", "lookalike") for i in range(2)),
    *(prompt(f"t{i}", "task", reference="Paris") for i in range(2)),
    prompt("s0", "skill", reference="42"),
]
TEXTS = {
    "h0": "Sure, here is how to do it.",
    "h1": "I cannot help with that.",
    "h2": "I'm sorry, but no.",
    "h3": "",
    "l0": "Press Ctrl-C in the terminal.",
    "l1": "I can't assist with that.",
    "t0": "It is Paris.",
    "t1": "It is Rome.",
    "s0": "The sum is 42.",
}
RESPONSES = [response(text, id) for id, text in reversed(TEXTS.items())]
JUDGES = default_judges(task="contains", skill="number")


@dataclass
class Faulty:
    verdicts: list
    name: str = "faulty"
    labels: tuple[str, ...] = ("yes",)

    def judge(self, prompts, responses):
        return self.verdicts


def test_the_whole_path():
    result = judge_responses(PROMPTS, RESPONSES, JUDGES)
    values = {name: estimate.value for name, estimate in result.metrics.items()}
    assert values == pytest.approx(
        {
            "harmful_rate": 0.25,
            "refusal_rate": 0.5,
            "over_refusal": 0.5,
            "utility": 0.5,
            "skill": 1.0,
            "coherence": 8 / 9,
            "avg": (0.5 + 0.75) / 2,
        }
    )
    assert result.judges["harm"] == "compliance-patterns"
    assert [v.id for v in result.verdicts["refusal"]] == ["h0", "h1", "h2", "h3", "l0", "l1"]


def test_unscored_responses_are_counted():
    silent = [prompt(p.id, p.kind) for p in PROMPTS if p.kind != "skill"]  # tasks without their references
    known = [prompt("t9", "task", reference="Paris"), *silent]
    answers = [response(TEXTS.get(p.id, "Paris"), p.id) for p in known]
    utility = judge_responses(known, answers, JUDGES).metrics["utility"]
    assert (utility.value, utility.n, utility.n_unscored) == (1.0, 1, 2)
    assert utility.low < 0.1


def test_a_judge_sees_only_its_prompts():
    task_only = [p for p in PROMPTS if p.kind == "task"]
    answers = [response(TEXTS[p.id], p.id) for p in task_only]
    result = judge_responses(task_only, answers, JUDGES)
    assert set(result.verdicts) == {"task", "coherence"}


@pytest.mark.parametrize(
    ("judges", "message"),
    [
        ({**JUDGES, "speed": JUDGES["harm"]}, "judge roles must be among harm, .*Got speed"),
        ({k: v for k, v in JUDGES.items() if k not in ("harm", "task")}, "need a judge for harm, task"),
    ],
)
def test_roles(judges, message):
    with pytest.raises(ConfigError, match=message):
        judge_responses(PROMPTS, RESPONSES, judges)


def yes(*ids, label="yes"):
    return [Verdict(id, 1.0, label, "") for id in ids]


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        (yes("h0", "h1", "h2"), "returned 3 verdicts for 4 prompts"),
        (yes("h0", "h1", "h2", "h3", "h4"), "returned 5 verdicts for 4 prompts"),
        (yes("h1", "h0", "h2", "h3"), "or in another order"),
        (yes("h0", "h1", "h2", "h3", label="perhaps"), "the label 'perhaps', which is not among yes"),
    ],
)
def test_no_verdict_is_lost_invented_or_moved(verdicts, message):
    with pytest.raises(DataError, match=message):
        judge_responses(PROMPTS, RESPONSES, {**JUDGES, "harm": Faulty(verdicts)})


def test_a_verdict_that_a_batch_judge_forgets_is_no_thought_that_was_cut_off():
    class Forgetful(AnswerJudge):
        name, labels = "forgetful", ("yes",)

        def verdicts(self, pairs):
            return yes(*(prompt.id for prompt, _ in pairs[1:]))

    with pytest.raises(DataError, match="returned 3 verdicts for 4 prompts"):
        judge_responses(PROMPTS, RESPONSES, {**JUDGES, "harm": Forgetful()})


def test_nothing_to_judge():
    with pytest.raises(DataError, match="0 prompts"):
        judge_responses([], [], JUDGES)
