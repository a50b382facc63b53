import random

import pytest

from cases import prompt, response
from sotune.errors import DataError
from sotune.evaluation.judges.contrast import learn_refusals

VERBS = [f"ver{a}{b}" for a in "abcdefghij" for b in "xyz"]
OPENINGS = ["ne mogu tut pomoć", "ne mogu raditi to", "ne smije se to"]  # no English, no phrase of the list


def world(n=60, *, refuses=True, seed=0):
    rng, prompts, answers = random.Random(seed), [], []
    for i in range(n):
        verb = rng.choice(VERBS)
        prompts.append(prompt(f"h{i}", "harmful"))
        answers.append(response(f"{rng.choice(OPENINGS)} {verb}" if refuses else f"prvo uzmi {verb} zatim", f"h{i}"))
        prompts.append(prompt(f"l{i}", "lookalike"))
        answers.append(response(f"prvo uzmi {rng.choice(VERBS)} zatim", f"l{i}"))
    return prompts, answers


def learn(prompts, answers):
    return learn_refusals(prompts, answers, min_accuracy=0.9, seed=0)


def test_refusals_are_told_apart_in_any_language():
    judge = learn(*world())
    prompts, answers = world(seed=1)
    verdicts = judge.judge(prompts, answers)
    assert [v.label for v in verdicts] == ["refused", "not refused"] * 60
    assert judge.balanced_accuracy == 1.0


def test_a_harmful_answer_is_no_refusal_though_its_prompt_is_harmful():
    judge = learn(*world())
    prompts = [prompt("h", "harmful")]
    assert judge.judge(prompts, [response(f"prvo uzmi {VERBS[0]} zatim", "h")])[0].score == 0.0
    assert judge.judge(prompts, [response("", "h")])[0].score == 0.0


def test_a_model_that_does_not_refuse_teaches_nothing():
    with pytest.raises(DataError, match="open like its others"):
        learn(*world(refuses=False))


def test_the_subject_of_a_prompt_is_not_taken_for_a_habit():
    """All answers comply; those to harmful prompts name harmful things, each another one."""
    prompts, answers = world(refuses=False)
    topical = [response(a.text.replace("zatim", f"otrov{i}"), a.id) if i % 2 == 0 else a for i, a in enumerate(answers)]
    with pytest.raises(DataError, match="open like its others"):
        learn(prompts, topical)


def test_too_few_answers():
    with pytest.raises(DataError, match="Got 10 and 10"):
        learn(*world(10))
