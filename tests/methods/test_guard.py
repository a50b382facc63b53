from dataclasses import replace

from sotune.evaluation import Verdict
from sotune.methods import METHODS
from sotune.methods.pairs import own_answers, safety_pairs


class Guard:
    name, labels = "guard", ("harmful", "harmless")

    def judge(self, prompts, responses):
        assert [p.id for p in prompts] == [r.id for r in responses]
        return [Verdict(r.id, None if r.id == "d09" else float("hook" in r.text), "harmful", "") for r in responses]


def test_a_given_guard_decides_and_what_it_cannot_score_ranks_last(weigh_inputs):
    given = replace(weigh_inputs, tools=replace(weigh_inputs.tools, guard=Guard()))
    weights = METHODS["guard"].weigh(given).weights
    order = [given.records.downstream[i].id for i in weights.argsort().tolist()]
    assert order[0] == "d09"
    assert set(order[1:3]) == {"x0", "x1"}


class Grader(Guard):
    """Every verdict is the same; the grades are not."""

    def judge(self, prompts, responses):
        return [Verdict(r.id, 0.0, "harmless", "") for r in responses]

    def grade(self, prompts, responses):
        return {r.id: float("nan") if r.id == "d09" else 0.4 if "hook" in r.text else 0.1 for r in responses}


def test_grades_count_where_a_guard_has_them(weigh_inputs):
    given = replace(weigh_inputs, tools=replace(weigh_inputs.tools, guard=Grader()))
    weights = METHODS["guard"].weigh(given).weights
    order = [given.records.downstream[i].id for i in weights.argsort().tolist()]
    assert order[0] == "d09"
    assert set(order[1:3]) == {"x0", "x1"}


def test_pairs_that_are_given_come_first_else_the_model_answers_itself(weigh_inputs):
    tools, reference = weigh_inputs.tools, weigh_inputs.records.harmful_reference
    given = safety_pairs(tools, reference, most=3)
    assert [pair.completion for pair in given] == ["I will not."] * 3
    assert [pair.id for pair in given] == [f"safety-pair-{i:05d}" for i in range(3)]
    own = safety_pairs(replace(tools, safety_pairs=()), reference, most=3)
    assert [pair.prompt for pair in own] == [record.prompt for record in reference[:3]]
    assert all(pair.completion != "Use a hook." for pair in own)
    again = own_answers(tools, reference[:3])
    assert [pair.completion for pair in again] == [pair.completion for pair in own]
