from dataclasses import replace

import pytest
import torch

from sotune.errors import ConfigError
from sotune.evaluation import Verdict
from sotune.methods import METHODS


class Grader:
    name, labels = "grader", ("graded",)

    def __init__(self, grades):
        self.grades = grades

    def judge(self, prompts, responses):
        assert [p.id for p in prompts] == [r.id for r in responses]
        return [Verdict(p.id, self.grades.get(p.id, 3.5), "graded", "") for p in prompts]


def weigh(inputs, grades, *, seed=0):
    tools = replace(inputs.tools, judge=Grader(grades))
    return METHODS["alpagasus"].weigh(replace(inputs, tools=tools, seed=seed)).weights


def test_better_grades_weigh_more_and_ties_are_settled_by_the_seed(weigh_inputs):
    ids = [record.id for record in weigh_inputs.records.downstream]
    weights = dict(zip(ids, weigh(weigh_inputs, {"d03": 5.0, "x1": 4.5, "d07": 0.5}).tolist(), strict=True))
    order = sorted(ids, key=weights.get, reverse=True)
    assert order[:2] == ["d03", "x1"]
    assert order[-1] == "d07"
    assert len(set(weights.values())) == 12
    assert not torch.equal(weigh(weigh_inputs, {}), weigh(weigh_inputs, {}, seed=1))


def test_what_the_judge_cannot_grade_is_told_and_ranks_last(weigh_inputs):
    with pytest.warns(UserWarning, match="'grader' could not grade 1 of 12 rows"):
        weights = weigh(weigh_inputs, {"d05": None, "d07": -1.0})
    ids = [record.id for record in weigh_inputs.records.downstream]
    assert ids[int(weights.argmin())] == "d05"


def test_it_needs_a_judge(weigh_inputs):
    with pytest.raises(ConfigError, match="alpagasus needs a judge"):
        METHODS["alpagasus"].weigh(replace(weigh_inputs, tools=replace(weigh_inputs.tools, judge=None)))
