"""What holds aligned behavior, on the command line: by default, by name, and not at all."""

import json
import warnings

import pytest

from sotune.artifacts import read_json
from sotune.errors import ConfigError
from sotune.methods import method_of, settle
from sotune.pipeline import fine_tuning
from sotune.settings import make_config

QUICK = ["--max-steps", "3", "--learning-rate", "0.01", "--quiet"]


def config(**given):
    return make_config({"data": "d", "safe_anchor": "s", "harmful_reference": "h", "model": "m", **given})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "adaptive + kl_constrained"),
        ({"hold": "none"}, "adaptive"),
        ({"hold": "kl"}, "adaptive + kl"),
        ({"preset": "paper"}, "sot"),
        ({"method": "adaptive + sbr"}, "adaptive + sbr"),
        ({"method": "sft"}, "sft"),
        ({"method": "sft", "hold": "kl"}, "kl"),
        ({"method": "probe"}, "probe"),
        ({"method": "probe", "hold": "lisa"}, "probe + lisa"),
        ({"method": "adaptive + resta", "hold": "kl"}, "adaptive + kl + resta"),
    ],
)
def test_who_holds(given, name):
    assert method_of(config(**given)).name == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hold": "resta"}, "hold must be a method that trains"),
        ({"hold": "k1"}, "unknown method 'k1'"),
        ({"method": "adaptive + sbr", "hold": "kl"}, "both train"),
    ],
)
def test_what_cannot_hold(cli, flags, given, message):
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    result = cli("weigh", *flags, *arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("way", "given", "said"),
    [
        ("full", (), "finetuning_type full trains no adapter, which kl_constrained needs"),
        ("full", ("--hold", "none", "--method", "adaptive + resta"), "full trains no adapter, which resta needs"),
        ("rslora", ("--method", "adaptive + resta"), "resta changes the products of a plain LoRA adapter"),
    ],
)
def test_what_needs_an_adapter_says_so_before_anything_long(cli, flags, tmp_path, way, given, said):
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"finetuning_type: {way}\n")
    names = ["--data", *flags]
    result = cli("run", settings, *names, *given, "--until", "train")
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


@pytest.fixture
def train(cli, flags, tmp_path):
    """Trains as the command line says, and returns the run folder."""

    def call(*arguments):
        for command in (("weigh", *flags, "--max-length", "48", "--quiet"), ("train", tmp_path / "run", *arguments)):
            result = cli(*command)
            assert result.exit_code == 0, result.output
        return tmp_path / "run"

    return call


def test_the_default_holds_and_the_page_says_so(train):
    run = train(
        *QUICK, "--hold-drift", "0.001", "--method-setting", "extra_tokens=2", "--method-setting", "look_every=1"
    )
    training = read_json(run / "training.json")
    assert training["method"] == "kl_constrained"
    figures = training["figures"]
    assert figures["limit"] == 0.001
    assert max(figures["risky_drift"], figures["unseen_drift"]) <= 0.001
    steps = [json.loads(line) for line in (run / "training_log.jsonl").read_text().splitlines()]
    assert [{"risky_drift", "risky_multiplier"} <= step.keys() for step in steps] == [True] * 3
    page = (run / "report.html").read_text()
    assert "Safety while training" in page
    assert "within its limit of 0.001" in page
    assert figures["risky_asked"] > 0
    assert f"refused of {figures['risky_asked']:.0f} risky prompts, before and now" in page


def test_none_holds_nothing(train):
    run = train(*QUICK, "--hold", "none")
    assert read_json(run / "training.json")["figures"] == {}
    assert "drift" not in (run / "training_log.jsonl").read_text()
    assert "Safety while training" not in (run / "report.html").read_text()


@pytest.mark.parametrize("given", [{"hold": "kl"}, {"hold": "none"}, {"method": "sft"}, {"preset": "paper"}])
def test_a_limit_that_no_one_keeps_is_an_error(given):
    with pytest.raises(ConfigError, match="hold_drift is a limit that only kl_constrained keeps"):
        settle(config(hold_drift=0.005, **given))
    assert settle(config(**given)).hold_drift == 0.02


def test_constants_of_a_hold_go_with_it(cli, train):
    """Weighed with a hold's constants and limit, trained with another hold and without one."""
    run = train(*QUICK, "--hold-drift", "0.001", "--method-setting", "anchor=0", "--method-setting", "extra_tokens=2")
    weights = (run / "weights.parquet").stat().st_mtime_ns
    for hold in ("state_anchor", "none"):
        result = cli("train", run, "--hold", hold, *QUICK)
        assert result.exit_code == 0, result.output
        assert read_json(run / "training.json")["method"] == {"none": "sft"}.get(hold, hold)
    assert (run / "weights.parquet").stat().st_mtime_ns == weights
    result = cli("train", run, "--hold", "none", "--hold-drift", "0.001", *QUICK)
    assert result.exit_code == 2
    assert "it must be left out" in result.output


class Elsewhere:
    """An engine whose workers' warnings nobody sees."""

    def at_once(self, work, n):
        assert n == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()


def test_what_is_warned_of_elsewhere_is_told_here(cli, flags, tmp_path, monkeypatch):
    assert cli("weigh", *flags, "--max-length", "48", "--quiet").exit_code == 0
    monkeypatch.setattr(fine_tuning, "engine_of", lambda *_, **__: Elsewhere())
    result = cli("train", tmp_path / "run", *QUICK[:-1])
    assert result.exit_code == 0, result.output
    assert "the model before fine-tuning refuses only" in " ".join(result.output.split())
