import json
from dataclasses import replace

import pytest

from pipeline_rows import rows
from sotune import ConfigError, DataError
from sotune.comparison import Variant, check_disjoint
from sotune.comparison.compare_settings import make_compare_settings
from sotune.comparison.draws import Draws
from sotune.comparison.variant import References
from sotune.mixing import prompt_key

SIZES = {"n": 100, "n_anchor": 10, "n_reference": 20, "n_eval": 5}


def miniature(**changes):
    return Draws(
        make_compare_settings({"methods": ["sot"], "datasets": ["miniature-verdict"], "seeds": 2, **SIZES, **changes})
    )


def kinds_of(records):
    return {record.meta["topic"] for record in records}


def test_names_are_the_product_and_draws_differ_by_seed():
    draws = miniature(harmful_fractions=[0, 0.2])
    assert list(draws.names()) == [f"miniature-verdict-p{p}-s{s}" for p in ("0", "0.2") for s in (0, 1)]
    none, _, some, other = draws.all()
    assert "harmful" not in none.kind.values()
    assert sum(kind == "harmful" for kind in some.kind.values()) == 20
    assert [r.prompt for r in some.downstream] != [r.prompt for r in other.downstream]
    assert [p.messages for p in none.prompts] == [p.messages for p in some.prompts]


def test_kinds_of_harm_can_be_held_out():
    held = {"miniature": "total", "reference_kinds": ["arson"], "contamination_kinds": ["arson", "theft"]}
    draws = miniature(datasets=[{**held, "evaluation_kinds": ["theft"]}])
    draw = draws.make("miniature-total-p0.1-s0")
    assert kinds_of(draw.harmful_reference) == {"arson"}
    assert {p.meta["topic"] for p in draw.prompts if p.kind == "harmful"} == {"theft"}
    harmful = [record for record in draw.downstream if draw.kind[record.id] == "harmful"]
    assert kinds_of(harmful) <= {"arson", "theft"}


def test_a_variant_changes_its_references_and_nothing_else():
    draws = miniature()
    draw = draws.make("miniature-verdict-p0.1-s0")
    wanted = References(anchor="general", n_anchor=50, reference=("theft",), n_reference=7)
    other = draws.redraw(draw, Variant("v", "sot", references=wanted))
    assert (other.downstream, other.prompts) == (draw.downstream, draw.prompts)
    assert {r.meta["kind"] for r in other.safe_anchor} == {"skill", "refusal"}
    assert (len(other.safe_anchor), len(other.harmful_reference)) == (50, 7)
    assert kinds_of(other.harmful_reference) == {"theft"}
    assert draws.redraw(draw, Variant.plain("sot")) is draw
    with pytest.raises(ConfigError, match="the miniature's anchor is of the task, or 'general'"):
        draws.redraw(draw, Variant("v", "sot", references=References(anchor="x.jsonl")))
    with pytest.raises(ConfigError, match="a list of kinds of harm"):
        draws.redraw(draw, Variant("v", "sot", references=References(reference="beavertails")))


def test_a_safe_reference_is_drawn_where_it_is_asked_for():
    plain, draws = (miniature(n_safe_reference=n).make("miniature-verdict-p0.1-s0") for n in (0, 7))
    assert (plain.safe_reference, "safe_reference" in plain.texts()) == ([], False)
    assert replace(draws, safe_reference=[]) == plain
    assert [row.meta["kind"] for row in draws.safe_reference] == ["refusal"] * 4 + ["skill"] * 3
    check_disjoint(draws)
    more = References(n_safe_reference=9)
    assert len(miniature().redraw(plain, Variant("v", "sot", references=more)).safe_reference) == 9


@pytest.fixture
def files(tmp_path):
    def write(name, kind, n, seed):
        path = tmp_path / f"{name}.jsonl"
        made = [{**row, "id": f"{name}-{i}", "prompt": f"{row['prompt']} ({name} {i})"}
                for i, row in enumerate(rows(kind, n, seed))]  # fmt: skip
        path.write_text("".join(json.dumps(row) + "\n" for row in made))
        return str(path)

    data = {
        "name": "mine",
        "task": write("task", "benign", 150, 1),
        "harmful": write("harm", "harmful", 60, 2),
        "reference": write("reference", "harmful", 60, 3),
        "refusals": write("refusals", "benign", 30, 4),
        "safety_pairs": write("pairs", "benign", 12, 6),
        "safe_reference": write("refused", "benign", 14, 7),
    }
    other = write("other", "harmful", 40, 5)
    settings = {"model": "miniature", "judges": "matching", "methods": ["sot"], "datasets": [data], **SIZES}
    return settings, other


def test_files_are_dealt_to_roles(files):
    settings, other = files
    methods = ["sot", {"method": "sot", "n_anchor": 15}, {"name": "o", "method": "sot", "reference": other}]
    draws = Draws(make_compare_settings({**settings, "methods": methods}))
    draw = draws.make("mine-p0.1-s0")
    check_disjoint(draw)
    assert sorted(set(draw.kind.values())) == ["benign", "harmful", "refusal"]
    assert [sum(k == kind for k in draw.kind.values()) for kind in ("benign", "harmful", "refusal")] == [88, 10, 2]
    assert (len(draw.safe_anchor), len(draw.harmful_reference), len(draw.prompts)) == (10, 20, 10)
    assert all("(reference " in record.prompt[0].content for record in draw.harmful_reference)
    longer = draws.redraw(draw, Variant("v", "sot", references=References(n_anchor=15)))
    assert list(longer.safe_anchor[:10]) == list(draw.safe_anchor)
    assert len(longer.safe_anchor) == 15
    check_disjoint(longer)
    assert draw.safety_pairs
    assert all("(pairs " in record.prompt[0].content for record in draw.safety_pairs)
    assert not draw.safe_reference
    safe = draws.redraw(draw, Variant("v", "sot", references=References(n_safe_reference=8)))
    assert replace(safe, safe_reference=draw.safe_reference) == draw
    assert not draw.safe_reference
    assert sum("(refused " in record.prompt[0].content for record in safe.safe_reference) == 8
    check_disjoint(safe)
    replaced = draws.redraw(draw, Variant("v", "sot", references=References(reference=other)))
    assert all("(other " in record.prompt[0].content for record in replaced.harmful_reference)
    with pytest.raises(DataError, match="has 40 rows whose prompts occur nowhere else, but 99 were asked for"):
        draws.redraw(draw, Variant("v", "sot", references=References(reference=other, n_reference=99)))
    with pytest.raises(ConfigError, match="kinds of harm are the miniature's"):
        draws.redraw(draw, Variant("v", "sot", references=References(reference=("theft",))))


@pytest.mark.parametrize("role", ["downstream", "safe_anchor", "harmful_reference"])
def test_an_evaluation_prompt_in_another_role_is_an_error(role):
    draw = miniature().make("miniature-verdict-p0.1-s0")
    asked = next(prompt for prompt in draw.prompts if prompt.kind == "harmful")
    # Case and white space do not make it another prompt.
    loud = tuple(replace(message, content=f" {message.content.upper()} ") for message in asked.messages)
    assert prompt_key(loud) == prompt_key(asked.messages)
    own = getattr(draw, role)[0]
    leaked = replace(own, messages=(*loud, own.messages[-1]))
    with pytest.raises(DataError, match="1 prompt both in the evaluation .* remove them from one"):
        check_disjoint(replace(draw, **{role: [leaked, *getattr(draw, role)[1:]]}))
