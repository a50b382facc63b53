import pytest

from sotune.sentinels import normalize_prompt, split_by_prompt

PROMPTS = [f"How to do thing {i // 3}?" for i in range(1500)]


def split(prompts, seed=0):
    return split_by_prompt(prompts, seed=seed, tuning_share=0.2, measuring_share=0.3)


def test_every_row_is_in_one_fold_and_no_prompt_in_two():
    folds = split(PROMPTS)
    parts = [folds.reference, folds.tuning, (*folds.measuring, *folds.unused)]
    assert sorted(sum((list(part) for part in parts), [])) == list(range(1500))
    prompts = [{PROMPTS[row] for row in part} for part in parts]
    assert len(set.union(*prompts)) == sum(len(some) for some in prompts)
    assert [len(p) / 500 for p in prompts] == pytest.approx([0.5, 0.2, 0.3], abs=0.06)


def test_one_sentinel_measures_for_each_prompt():
    folds = split(PROMPTS)
    assert len({PROMPTS[row] for row in folds.measuring}) == len(folds.measuring)
    assert len({row % 3 for row in folds.measuring}) == 3  # and it is not always the first


def test_a_row_stays_in_its_fold_when_the_reference_grows():
    few, all_ = split(PROMPTS[:600]), split(PROMPTS)
    assert set(few.measuring) == {row for row in all_.measuring if row < 600}
    assert set(few.tuning) == {row for row in all_.tuning if row < 600}


def test_the_seed_changes_the_split():
    assert split(PROMPTS).measuring != split(PROMPTS, seed=1).measuring


@pytest.mark.parametrize("other", ["how  to PICK a lock", "How to pick\na lock ", "How to pick a lo\uff43k"])
def test_spelling_makes_no_other_prompt(other):
    assert normalize_prompt(other) == normalize_prompt("How to pick a lock")
