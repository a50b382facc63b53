import json
from types import SimpleNamespace

import pytest
import torch

from pipeline_rows import rows, write_jsonl
from sotune.artifacts import read_json
from sotune.errors import ConfigError
from sotune.pipeline.promising import _why_no_cut
from sotune.run_files import SELECTION, SENTINELS, WEIGHTS
from sotune.sentinels import Cut
from sotune.settings import make_config


@pytest.fixture
def guarded_flags(flags, data):
    """The same set with a harmful reference that is large enough for three folds."""
    write_jsonl(data / "harm.jsonl", rows("harmful", 400, 4))
    return flags


def test_a_run_keeps_sentinels_back_and_keeps_its_promise(cli, guarded_flags, tmp_path):
    result = cli("weigh", *guarded_flags)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    summary, promise = read_json(run / "sentinels.json"), read_json(run / "promise.json")
    assert summary["used"]
    assert (promise["keep"], promise["n"]) == ("auto", 90)
    assert promise["k"] == sum(SELECTION.columns_of(run)["kept"])
    assert promise["kept_harmful_share_at_most"] <= promise["harmful_share"]["high"] * 90 / promise["k"]
    assert summary["chosen"] == summary["default"]  # nothing is chosen unless asked for
    sentinels = SENTINELS.columns_of(run)
    measuring = [id for id, fold in zip(sentinels["id"], sentinels["fold"], strict=True) if fold == "measuring"]
    assert len(measuring) == summary["n_measuring"] == promise["harmful_pass"]["n"]
    weights = WEIGHTS.columns_of(run)
    cited = {id for ids in weights["nearest_harmful"] for id in ids}
    assert not cited & set(measuring)  # no measuring sentinel took part in the weights
    digest = read_json(run / "solver.json")["epsilon"], weights["weight"]

    result = cli("select", run, "--keep", "auto", "--max-harmful-pass", "0.2")
    assert result.exit_code == 0, result.output
    promise = read_json(run / "promise.json")
    assert promise["promised"] == "harmful_pass"
    assert promise["harmful_pass"]["high"] == pytest.approx(promise["bound"])
    assert promise["bound"] <= 0.2
    selection = SELECTION.columns_of(run)
    assert sum(selection["kept"]) == promise["k"]
    for margin, kept in zip(selection["margin"], selection["kept"], strict=True):
        assert (margin > 0) == kept
    assert (read_json(run / "solver.json")["epsilon"], WEIGHTS.columns_of(run)["weight"]) == digest

    result = cli("select", run, "--max-harmful-pass", "0.0001")
    assert result.exit_code == 2
    assert "measuring sentinels of different prompts" in " ".join(result.output.split())

    result = cli("select", run, "--keep-fraction", "0.5")
    assert result.exit_code == 0, result.output
    assert read_json(run / "promise.json")["k"] == 45
    result = cli("select", run, "--keep", "auto")
    assert result.exit_code == 0, result.output
    assert "promised" not in read_json(run / "promise.json")
    result = cli("select", run, "--k", "72")
    assert result.exit_code == 0, result.output
    promise = read_json(run / "promise.json")
    assert (promise["keep"], promise["k"]) == ("fixed", 72)

    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What passes, by sentinels" in page
    assert "For harm of another kind it promises nothing" in page

    first = selection["id"][0]
    result = cli("explain", run, first, "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert found["id"] == first
    assert found["texts"] == {}
    assert 0 < sum(found["nearest_harmful"].values()) <= 1 + 1e-6
    assert "margin to the cut" in found["sentence"]
    result = cli("explain", run, first, "--show-text")
    assert "Tell me how to" in result.stdout
    result = cli("explain", run, "no-such-row")
    assert result.exit_code == 2
    assert "no such rows" in " ".join(result.output.split())


def test_a_small_reference_has_no_sentinels_and_says_so(cli, flags, tmp_path):
    result = cli("weigh", *flags)
    assert result.exit_code == 0, result.output
    summary = read_json(tmp_path / "run" / "sentinels.json")
    assert not summary["used"]
    assert "too small" in summary["note"]
    promise = read_json(tmp_path / "run" / "promise.json")
    assert promise["k"] == 72  # the fixed share
    assert "too small" in promise["note"]
    assert "so 80% of the rows are kept" in promise["note"]
    result = cli("select", tmp_path / "run", "--keep", "auto", "--max-harmful-pass", "0.1")
    assert result.exit_code == 2
    assert "too small" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": "auto", "keep_fraction": 0.5}, "leave out k and keep_fraction"),
        ({"max_harmful_pass": 0.1, "sentinels": "off"}, "max_harmful_pass needs sentinels"),
        ({"max_harmful_share": 0.1, "keep": "fixed"}, "set keep: auto"),
        ({"max_harmful_pass": 0.1, "keep_fraction": 0.7}, "set keep: auto"),
        ({"keep": "auto", "max_harmful_share": 0.1, "max_harmful_pass": 0.1}, "give one"),
    ],
)
def test_limits_that_contradict_are_refused(given, message):
    sets = {"data": "d", "safe_anchor": "s", "harmful_reference": "h", "model": "m"}
    with pytest.raises(ConfigError, match=message):
        make_config({**sets, **given})


def test_data_without_harm_stays_whole_and_the_run_says_so_if_it_can(cli, guarded_flags, data, tmp_path):
    write_jsonl(data / "train.jsonl", rows("benign", 300, 1))
    result = cli("weigh", *guarded_flags)
    assert result.exit_code == 0, result.output
    promise = read_json(tmp_path / "run" / "promise.json")
    assert promise["k"] >= 0.99 * promise["n"]
    assert promise["no_harm_found"] == (promise["harmful_share"]["high"] <= 0.1)  # with a useless bound nothing is said
    assert ("none found, at most" in result.output) == promise["no_harm_found"]
    assert cli("select", tmp_path / "run", "--keep-fraction", "1").exit_code == 0
    assert not read_json(tmp_path / "run" / "promise.json")["no_harm_found"]  # it was not asked


@pytest.mark.parametrize(("n_lost", "why"), [(7, "would lose 7 of 12 anchor rows"), (6, "")])
def test_a_cut_that_would_lose_most_of_the_anchor_is_not_taken(n_lost, why):
    outranked = torch.tensor([0.5] * n_lost + [0.0] * (12 - n_lost))
    found = _why_no_cut(Cut(40, 0.0, 1.0), SimpleNamespace(safe_outranked=outranked), 100)
    assert why in found
    assert bool(why) == bool(found)


def test_a_cut_that_was_not_found_says_so():
    assert "do not tell" in _why_no_cut(None, SimpleNamespace(safe_outranked=torch.zeros(3)), 100)
