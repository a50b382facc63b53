"""A first look at words alone says what is worth reading, within a budget."""

import itertools

import pytest
import torch

from sotune.pipeline.first_look import FirstLook, fit_first_look
from sotune.records import Record
from sotune.weights import Suspicion
from sotune.weights.logistic import LinearScore

WINDOW = 200
BAKE, BOMB = ("Bake it slowly " * 6).strip() + ".", ("Bomb it loudly " * 6).strip() + "."  # 90 characters each


class Words:
    """Looks at texts by the share of their words that are of each kind."""

    window = WINDOW

    def glance(self, texts):
        kinds = ("bake", "bomb", "plain")
        counts = [[text.lower().replace(".", " ").split().count(kind) for kind in kinds] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(counts, dtype=torch.float32).reshape(-1, 3))


def row(*sentences, prompt="How?", id="r"):
    return Record.from_text(id, prompt, " ".join(sentences))


def look(of_parts=0.5, of_stretches=0.5):
    """One to which a stretch is as suspicious as its share of bombs: 1, or 0."""
    return FirstLook(
        Words(), Suspicion(LinearScore(torch.tensor([0.0, 1.0, 0.0]).double(), 0.0), of_parts, of_stretches)
    )


def test_of_a_short_row_the_worst_stretch_is_worth_reading():
    plain, harmful, one = row(BAKE, BAKE), row(BAKE, BOMB), row(BOMB)
    assert look().worth([plain, harmful, one]) == [(), (1,), ()]  # a row of one stretch is read as it is
    assert look(of_stretches=1.5).worth([harmful]) == [()]
    assert look(of_stretches=-1).worth([plain]) == [(0,)]


def test_of_a_long_row_the_worst_part_is_and_each_that_is_not_harmless():
    long = row(BAKE, BAKE, BOMB, BAKE, BOMB)
    assert look().worth([long]) == [(2, 4)]
    assert look(of_parts=-1).worth([long]) == [(0, 1, 2, 3, 4)]
    assert look(of_parts=2).worth([long]) == [(2,)]


def test_words_are_looked_at_undisguised():
    assert look().worth([row(BAKE, BOMB.replace("o", "0"))]) == [(1,)]


@pytest.mark.parametrize(("budget", "most"), [(0.01, 0), (0.1, 2), (0.3, 9)])
def test_what_is_read_of_short_rows_stays_within_the_budget(budget, most):
    rows = [row(BAKE, "Bomb it " * n + "plain.", id=str(n)) for n in range(10, 30)]
    sets = {"downstream": rows, "safe_anchor": [row(BAKE)], "harmful_reference": [row(BOMB, BOMB)] * 3}
    found = FirstLook(Words(), fit_first_look(Words(), sets, budget)).worth(rows)
    short = [len(one.completion) <= 1.25 * WINDOW for one in rows]
    read = sum(4 + min(WINDOW, len(one.completion)) for one in rows)
    picked = [8 * n + 6 for n, some, is_short in zip(range(10, 30), found, short, strict=True) if is_short and some]
    assert sum(picked) <= budget * read < sum(picked) + 150 or len(picked) == sum(short)
    assert len(picked) == most  # of ten, of 86 to 158 characters each


def test_harm_is_found_and_the_reference_says_which_parts_are_harmless():
    plain, harmful = row(BAKE, BAKE, BAKE, BAKE), row(BAKE, BAKE, BOMB, BAKE)
    sets = {"downstream": [*[plain] * 9, harmful], "safe_anchor": [row(BAKE)] * 4, "harmful_reference": [row(BOMB)] * 9}
    suspicion = fit_first_look(Words(), sets, 0.03)
    found = FirstLook(Words(), suspicion).worth(sets["downstream"])
    assert found == [*[(0,)] * 9, (2,)]  # the harm; of harmless rows the first of equal parts
    bake, bomb = suspicion.score(Words().glance([BAKE, BOMB])).tolist()
    assert bake < suspicion.of_parts < bomb  # fits to half of the reference, which score the other, are less sure


def test_a_look_does_not_depend_on_what_stands_beside():
    rows = [row(*order) for order in itertools.permutations((BAKE, BOMB, "Plain. " * 20))]
    assert [some for one in rows for some in look().worth([one])] == look().worth(rows)


def test_the_saved_state_makes_it_again():
    saved = look(0.1, 1 / 3).suspicion.state()
    assert Suspicion.restore(saved).state() == saved
