"""Settings that are more than a number."""

import json

import pytest

from sotune.errors import ConfigError
from sotune.methods import settle
from sotune.settings import (
    MixSettings,
    ModelEvaluation,
    RenderingSettings,
    RunConfig,
    WeightSettings,
    make_config,
    make_settings,
    override,
    parse_bytes,
)

NEEDED = {"data": "d.jsonl", "safe_anchor": "a.jsonl", "harmful_reference": "h.jsonl", "model": "m"}


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("512 MiB", 512 * 2**20), ("1.5g", 1_500_000_000), ("1000", 1000), ("2 kib", 2048)],
)
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-4GB", "0", "4 GBs", "1e9"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="size like 4GB"):
        parse_bytes(text)
    with pytest.raises(ConfigError, match="max_memory"):
        make_config({**NEEDED, "max_memory": text})


def test_a_number_of_bytes_may_be_a_number():
    assert make_config({**NEEDED, "max_memory": 1000000}).max_memory == 1000000
    assert WeightSettings(max_memory="4GB").max_memory == 4 * 10**9


@pytest.mark.parametrize(("given", "read"), [("auto", "auto"), (-1, -1), ("-1", -1), ("12", 12)])
def test_a_layer_is_a_number_or_auto(given, read):
    assert make_config({**NEEDED, "layer": given}).layer == read


@pytest.mark.parametrize("given", ["last", 1.5, None, True, ""])
def test_what_is_no_layer_is_refused(given):
    with pytest.raises(ConfigError, match="layer: .*must be a whole number or auto. Got"):
        make_config({**NEEDED, "layer": given})


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({}, "name one with encoder"),
        ({"encoder": "sentence-transformers:e", "encoder_parts": "together"}, "leave out encoder_parts: together"),
        ({"encoder": "sentence-transformers:e", "max_windows": 1}, "max_windows 1 allows none"),
    ],
)
def test_answers_that_nothing_could_look_at_alone_are_refused(changes, remedy):
    with pytest.raises(ConfigError, match=f"answer_alone .*{remedy}"):
        make_config({**NEEDED, "answer_alone": True, **changes})
    assert make_config({**NEEDED, "answer_alone": True, "encoder": "sentence-transformers:e"}).answer_alone


def test_the_paper_reads_the_last_token_of_the_last_layer():
    published, default = make_config({**NEEDED, "preset": "paper"}), make_config(NEEDED)
    assert (published.layer, published.pooling) == (-1, "last")
    assert (default.layer, default.pooling) == ("auto", "auto")


@pytest.mark.parametrize(
    ("given", "kept"),
    [("guard:org/model", ("guard:org/model",)), (["chat:coherence"], ("chat:coherence",)), ((), ())],
)
def test_a_judge_may_be_one_name(given, kept):
    assert (
        make_config({**NEEDED, "harm_judge": given, "judge_base_url": "http://h/v1", "judge_model": "m"}).harm_judge
        == kept
    )


def test_a_rubric_file_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.md").write_text("")
    (tmp_path / "coherence").mkdir()
    config = make_config({
        **NEEDED, "harm_judge": ["chat:own.md", "chat:coherence", "chat:none.md"], "judge_base_url": "http://h/v1",
        "judge_model": "m",
    })  # fmt: skip
    assert config.harm_judge == (f"chat:{tmp_path / 'own.md'}", "chat:coherence", "chat:none.md")


@pytest.mark.parametrize("value", [3, [3], {"chat": 1}])
def test_a_judge_is_a_name(value):
    with pytest.raises(ConfigError, match="harm_judge"):
        make_config({**NEEDED, "harm_judge": value})


def test_settings_made_directly_name_all_faults_at_once():
    with pytest.raises(ConfigError) as caught:
        WeightSettings(epsilon=-1, solver="newton", epslion=0.1)
    assert str(caught.value) == (
        "epsilon: must be greater than 0. Got -1; "
        "solver: must be 'mirror', 'cccp', 'one_step' or 'sharp'. Got 'newton'; "
        "unknown setting 'epslion'; did you mean 'epsilon'?"
    )


def test_changed_settings_are_checked_again_and_keep_their_class():
    config = make_config(NEEDED).replace(epsilon=0.3)
    assert isinstance(config, RunConfig)
    assert (config.epsilon, config.data) == (0.3, "d.jsonl")
    with pytest.raises(ConfigError, match="epsilon: must be greater than 0"):
        config.replace(epsilon=0)


def test_an_infinite_relaxation_survives_the_file_and_no_other_number_may_be_infinite():
    config = make_config({**NEEDED, "reference_relaxation": float("inf")})
    saved = json.loads(json.dumps(config.model_dump(mode="json"), allow_nan=False))
    assert make_config({k: v for k, v in saved.items() if k in config.model_fields_set}) == config
    with pytest.raises(ConfigError, match="epsilon: must be a finite number"):
        make_config({**NEEDED, "epsilon": float("inf")})


def test_a_share_of_refusals_needs_refusals():
    with pytest.raises(ConfigError, match="refusal_fraction is given without a file of refusals"):
        MixSettings(task="t.jsonl", harmful="h.jsonl", out="o", refusal_fraction=0.1)


def test_models_without_a_run_are_asked_in_any_template_of_a_run():
    given = {"template": "auto", "chat_template": "default", "chat_template_kwargs": {"mood": 1}, "fold_system": True}
    made = make_settings(ModelEvaluation, {"model": "m", "eval_prompts": "p.jsonl", **given})
    assert made.part(RenderingSettings).model_dump(exclude={"max_length"}) == given
    assert ModelEvaluation(model="m").part(RenderingSettings) == RenderingSettings()


@pytest.mark.parametrize(
    ("settings", "changes", "found"),
    [
        ({"keep_fraction": 0.6}, {"max_harmful_pass": 0.1}, ("auto", None, 0.1)),
        ({"keep": "fixed", "k": 5}, {"max_harmful_pass": 0.1}, ("auto", None, 0.1)),
        ({"max_harmful_pass": 0.1}, {"k": 5}, ("fixed", 5, None)),
        ({"max_harmful_pass": 0.1}, {"keep": "fixed"}, ("fixed", None, None)),
        ({"max_harmful_pass": 0.1}, {"drop_at": 0.1}, ("auto", None, None)),
        ({"keep": "fixed", "k": 5}, {"drop_at": 0.1}, ("auto", None, None)),
        ({"preset": "paper"}, {"k": 5}, ("fixed", 5, None)),
        ({"preset": "paper"}, {"keep": "auto"}, ("auto", None, None)),
        ({"preset": "paper", "sentinels": "measure"}, {"max_harmful_pass": 0.1}, ("auto", None, 0.1)),
    ],
)
def test_what_is_kept_is_as_the_last_word_says(settings, changes, found):
    config = settle(make_config(override({**NEEDED, **settings}, changes)))
    assert (config.keep, config.k, config.max_harmful_pass) == found


@pytest.mark.parametrize(
    ("settings", "changes", "found"),
    [
        ({"references": "b.jsonl"}, {"harmful_reference": "h.jsonl"}, ("h.jsonl", "b.jsonl")),
        ({"references": "b.jsonl"}, {"safe_reference": "s.jsonl"}, ("b.jsonl", "s.jsonl")),
        ({"harmful_reference": "h.jsonl"}, {"references": "b.jsonl"}, ("b.jsonl", "b.jsonl")),
    ],
)
def test_flags_name_other_references_than_a_file(settings, changes, found):
    needed = {name: value for name, value in NEEDED.items() if name != "harmful_reference"}
    config = make_config(override({**needed, **settings}, changes))
    assert (config.harmful_reference, config.safe_reference) == found


@pytest.mark.parametrize("of_ray", [{"ray_train_workers": 2}, {"ray_address": "auto"}])
def test_settings_of_ray_without_ray_are_refused_in_place_of_left_unused(of_ray):
    with pytest.raises(ConfigError, match=f"{[*of_ray][0]} count only with engine: ray"):
        make_config({**NEEDED, **of_ray})
    assert make_config({**NEEDED, **of_ray, "engine": "ray"}).engine == "ray"
