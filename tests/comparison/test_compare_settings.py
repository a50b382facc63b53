import pytest

from sotune import ConfigError
from sotune.comparison.compare_settings import make_compare_settings
from sotune.worlds import WORLDS

SMALL = {"methods": ["sot"], "datasets": ["miniature-verdict"]}


def make(**changes):
    return make_compare_settings({**SMALL, **changes}, origin="x.yaml")


def test_the_miniature_brings_its_own_budget_and_the_file_counts_more():
    settings = make(n_eval=7)
    assert settings.learning_rate == WORLDS["miniature"].settings["learning_rate"]
    assert (settings.n, settings.n_eval, settings.seeds) == (2000, 7, (0,))
    elsewhere = make_compare_settings(
        {"model": "owner/model", "methods": ["sft"], "datasets": [{"name": "x", "task": "a", "harmful": "b"}]}
    )
    assert elsewhere.learning_rate == pytest.approx(4e-5)
    assert (elsewhere.n, elsewhere.n_reference, elsewhere.n_eval) == (5000, 5000, 1000)


def test_a_number_of_seeds_and_a_list_of_them():
    assert make(seeds=3).seeds == (0, 1, 2)
    assert make(seeds=[4, 9]).seeds == (4, 9)


def test_a_variant_says_what_it_changes():
    settings = make(
        methods=[
            "sft",
            {"name": "pull", "method": "sot", "push_strength": 0},
            {"method": "sot", "keep_fraction": 0.5},
            {"method": "sot", "preset": "paper", "push_strength": 0.3},
            {"method": "sot", "anchor": "general", "n_reference": 20, "layer": 1},
        ]
    )
    plain, pull, half, paper, general = settings.variants()
    assert (plain.name, dict(plain.changes)) == ("sft", {})
    assert (pull.name, dict(pull.changes)) == ("pull", {"push_strength": 0})
    assert (half.name, half.changes) == ("sot keep_fraction=0.5", {"keep_fraction": 0.5})
    assert paper.changes["push_strength"] == 0.3
    assert (paper.changes["solver"], paper.changes["logit_optimizer"]) == ("sharp", "sgd")
    assert paper.changes["loss_weight_rule"] == "exp"
    assert (general.references.anchor, general.references.n_reference) == ("general", 20)
    assert general.changes == {"layer": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": 3}, r"unknown setting 'sedes'; did you mean 'seeds'\?"),
        ({"datasets": ["miniature-verdikt"]}, "must be one of miniature-verdict, miniature-total"),
        ({"datasets": [{"miniature": "verdict", "harm_kinds": ["theft"]}]}, "harm_kinds.*unknown|unknown.*harm_kinds"),
        ({"datasets": ["miniature-total", "miniature-total"]}, "datasets repeats miniature-total"),
        ({"harmful_fractions": [1.5]}, "less than or equal to 1"),
        ({"methods": ["sott"]}, r"unknown methods? .*'sott'.*did you mean 'sot'"),
        ({"methods": [{"method": "sot", "preset": "papers"}]}, "sot: preset: must be 'default' or 'paper'"),
        ({"methods": []}, "methods"),
        ({"datasets": [{"name": "../x", "task": "a", "harmful": "b"}]}, "should match pattern"),
        ({"encoder": "sentence-transformers:x"}, "encoder is not a setting of a comparison"),
        ({"datasets": [{"name": "x", "task": "a", "harmful": "b"}]}, "judges: miniature only reads the miniature's"),
    ],
)
def test_faults_name_the_file_the_setting_and_the_remedy(changes, message):
    with pytest.raises(ConfigError, match=rf"(?s)x\.yaml: .*{message}"):
        make(**changes)


def test_a_variant_may_change_any_setting_of_a_run():
    (variant,) = make(methods=[{"method": "adaptive", "stretch": 4, "learning_rate": 0.1, "epsilon": 0.2}]).variants()
    assert variant.changes == {"stretch": 4, "learning_rate": 0.1, "epsilon": 0.2}
    (own,) = make(methods=[{"method": "sbr", "method_settings": {"alpha": 500}}]).variants()
    assert (own.name, own.changes) == ("sbr alpha=500", {"method_settings": {"alpha": 500}})
    assert own.described() == {"title": "SBR, alpha=500", "kind": "rival"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"method": "sot", "push_strenght": 0.3}, "sot: unknown setting 'push_strenght'; did you mean 'push_strength'"),
        (
            {"method": "sot", "n_reference_rows": 3},
            "unknown setting 'n_reference_rows'; did you mean 'n_reference'",
        ),
        ({"method": "sft", "loss_weight_rule": "log"}, "loss_weight_rule: must be 'proportional', 'exp' or 'uniform'"),
        ({"method": "sot", "push_strength": 3}, "push_strength: must be less than or equal to 1. Got 3"),
        ({"method": "sbr", "method_settings": {"alpa": 3}}, "no constant 'alpa' .*; did you mean 'alpha'"),
        ({"method": "sft", "method_settings": {"alpha": 3}}, "no constant 'alpha' .*; it has none"),
        ({"method": "sot", "seed": 3}, "sot: unknown setting 'seed'"),
    ],
)
def test_what_a_variant_cannot_change_is_told(method, message):
    with pytest.raises(ConfigError, match=message):
        make(methods=[method])
