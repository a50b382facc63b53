"""The choice of layer and pooling: made once, recorded, and kept to."""

import json

import pytest
import torch

from sotune.artifacts import RunFolder, read_json
from sotune.pipeline import choosing
from sotune.pipeline.choosing import choose_encoder
from sotune.records import Record
from sotune.representations import RepresentationCache, candidate_poolings
from sotune.run_files import SCORES, WEIGHTS

POOLINGS = candidate_poolings(with_safe_reference=False)


def summary(run):
    return read_json(run / "representations.json")


class Planted:
    """Vectors that separate harm by a given distance."""

    batch_tokens, packs = 100, False

    def __init__(self, group, number, distance):
        self._group, self.number, self.distance = group, number, distance
        self.fingerprint = f"planted-{number}"
        self.description = {"layer": number, "pooling": "last"}
        self.answer_from = 0.0

    def encode_batch(self, inputs):
        return self._group.encode_members(inputs, [self.number])[0]


class PlantedGroup:
    """Candidates of known separation."""

    def __init__(self, prepare, distances):
        self.prepare = prepare
        self.members = [Planted(self, number, distance) for number, distance in enumerate(distances)]

    def encode_members(self, inputs, wanted):
        return tuple(
            torch.stack([self._vector(ids, self.members[number].distance) for ids, _ in inputs]) for number in wanted
        )

    def _vector(self, ids, distance):
        generator = torch.Generator().manual_seed(hash(tuple(ids)) % 2**31)
        harmful = ids[-1] == self.prepare([Record.from_text("x", "x", "harm")]).inputs[0].ids[-1]
        return (
            torch.randn(6, generator=generator) * (distance is not None) + harmful * (distance or 0) * torch.eye(6)[0]
        )


@pytest.fixture
def planted(tiny_model):
    from sotune.models import ModelSpec
    from sotune.representations import FrozenCausalLM
    from sotune.settings import RenderingSettings

    rendering = RenderingSettings(template="paper", max_length=64)
    model = FrozenCausalLM(ModelSpec(str(tiny_model("llama"))), rendering, batch_tokens=500)
    return lambda *distances: PlantedGroup(model.prepare, distances)


def sets(n=60, prompts=20):
    def some(name, k, completion, offset):
        return [Record.from_text(f"{name}-{i}", f"{name} {offset + i % prompts}", completion) for i in range(k)]

    return {
        "downstream": some("task", n, "fine", 0), "safe_anchor": some("trusted", 20, "fine", 100),
        "harmful_reference": some("bad", 30, "harm", 200),
    }  # fmt: skip


@pytest.mark.parametrize(("distances", "best"), [((0.0, 1.0, 9.0), 2), ((9.0, 0.0, 1.0), 0), ((None, 9.0), 1)])
def test_the_candidate_that_separates_held_out_references_is_chosen(planted, tmp_path, distances, best):
    group = planted(*distances)
    choice = choose_encoder(group, sets(), RepresentationCache(tmp_path))
    assert choice.encoder is group.members[best]
    recorded = choice.as_dict()
    assert recorded["fingerprint"] == f"planted-{best}"
    assert [one["layer"] for one in recorded["candidates"]] == list(range(len(distances)))
    json.dumps(recorded, allow_nan=False)


class TopicGroup(PlantedGroup):
    """The first tells risky topics from others, the second besides that harmful answers from safe ones."""

    def _vector(self, ids, distance):
        generator = torch.Generator().manual_seed(hash(tuple(ids)) % 2**31)
        prepared = self.prepare([Record.from_text("x", "x", word) for word in ("harm", "no")])
        harmful, safe = (ids[-1] == one.ids[-1] for one in prepared.inputs)
        shifts = 9 * (harmful or safe) * torch.eye(6)[0] + distance * harmful * torch.eye(6)[1]
        return torch.randn(6, generator=generator) + shifts


def test_with_a_safe_reference_answers_must_separate_as_well_as_topics(planted, tmp_path):
    group = TopicGroup(planted(0.0).prepare, (0.0, 9.0))
    known = {**sets(), "safe_reference": [Record.from_text(f"s-{i}", f"bad {200 + i % 20}", "no") for i in range(30)]}
    first = choose_encoder(group, sets(), RepresentationCache(tmp_path / "without"))
    choice = choose_encoder(group, known, RepresentationCache(tmp_path / "with"))
    assert first.encoder is group.members[0]  # of equal separation the first
    assert choice.encoder is group.members[1]
    recorded = choice.as_dict()
    assert "contrast" in recorded["criterion"]
    assert "contrast" not in first.as_dict()["criterion"]
    blind, seeing = (candidate["contrast"] for candidate in recorded["candidates"])
    assert blind < 0.7
    assert seeing > 0.95


@pytest.mark.parametrize(("margin", "best"), [(0.0, 0), (1.0, 1)])
def test_a_reading_with_the_answer_apart_is_preferred_where_it_is_nearly_as_good(
    planted, tmp_path, monkeypatch, margin, best
):
    monkeypatch.setattr(choosing, "MARGIN", margin)
    group = planted(9.0, 1.0)
    group.members[1].answer_from = 0.5
    assert choose_encoder(group, sets(), RepresentationCache(tmp_path)).encoder is group.members[best]


def test_prompt_and_answer_are_joined_only_where_a_safe_reference_is_given():
    assert set(candidate_poolings(with_safe_reference=True)) - set(POOLINGS) == {"prompt_and_completion"}


def test_of_equal_candidates_the_first_is_chosen(planted, tmp_path):
    group = planted(9.0, 9.0, 9.0)
    assert choose_encoder(group, sets(), RepresentationCache(tmp_path)).encoder is group.members[0]


def test_where_nothing_can_be_measured_the_first_is_taken_and_the_reason_kept(planted, tmp_path):
    group = planted(1.0, 9.0)
    choice = choose_encoder(group, sets(prompts=1), RepresentationCache(tmp_path))
    assert not choice.measured
    assert choice.encoder is group.members[0]
    assert all("only one prompt" in candidate["reason"] for candidate in choice.as_dict()["candidates"])


def test_of_many_rows_a_sample_is_encoded_by_all_candidates(planted, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "SAMPLE_ROWS", 10)
    group = planted(1.0, 9.0)
    rows = sets(n=60, prompts=60)
    cache = RepresentationCache(tmp_path)
    choose_encoder(group, rows, cache)
    for member in group.members:
        held = len(cache.index(member.fingerprint))
        assert held == 10 + len(rows["safe_anchor"]) + len(rows["harmful_reference"])


def test_a_run_records_its_choice_and_shows_it(cli, flags, tmp_path):
    result = cli("weigh", *flags)
    assert result.exit_code == 0, result.output
    found = summary(tmp_path / "run")
    candidates = found["choice"]["candidates"]
    assert {(c["layer"], c["pooling"]) for c in candidates} == {(layer, p) for layer in (1, 2) for p in POOLINGS}
    best = max(candidates, key=lambda one: one["separation"])
    assert found["fingerprint"] == found["choice"]["fingerprint"] == best["fingerprint"]
    assert {name: found["description"][name] for name in ("layer", "pooling")} == {
        name: best[name] for name in ("layer", "pooling")
    }
    assert "best of 6" in result.output
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What represents a row" in page
    assert page.count("<td>chosen</td>") == 1
    manifest = read_json(tmp_path / "run" / "representations.manifest.json")
    assert {one["fingerprint"] for one in candidates} == set(manifest["key"]["fingerprints"])
    assert "representations.json" in manifest["outputs"]


@pytest.mark.parametrize(
    ("extra", "layers", "poolings"),
    [
        (["--layer", "-2"], {1}, set(POOLINGS)),
        (["--pooling", "completion_mean"], {1, 2}, {"completion_mean"}),
    ],
)
def test_a_setting_that_is_given_is_not_chosen(cli, flags, tmp_path, extra, layers, poolings):
    assert cli("extract", *flags, *extra).exit_code == 0
    candidates = summary(tmp_path / "run")["choice"]["candidates"]
    assert {c["layer"] for c in candidates} == layers
    assert {c["pooling"] for c in candidates} == poolings


@pytest.mark.parametrize("extra", [["--layer", "1", "--pooling", "last"], ["--preset", "paper"]])
def test_where_both_are_given_there_is_no_choice(cli, flags, tmp_path, extra):
    assert cli("extract", *flags, *extra).exit_code == 0
    found = summary(tmp_path / "run")
    assert found["choice"] is None
    assert found["description"]["pooling"] == "last"
    assert found["description"]["layer"] == (1 if "--layer" in extra else 2)


def test_unseen_rows_are_read_as_the_run_chose(cli, flags, tmp_path, data, monkeypatch):
    monkeypatch.setattr(
        "sotune.weights.held_out_separation", lambda downstream, *_, **__: float(downstream.std() < 1e6) * next(figures)
    )
    figures = iter([0.5, 0.6, 0.9, 0.5, 0.5, 0.5])
    assert cli("weigh", *flags).exit_code == 0
    found = summary(tmp_path / "run")["description"]
    assert (found["layer"], found["pooling"]) == (2, "completion_minus_prompt")
    assert cli("score", tmp_path / "run", data / "train.jsonl").exit_code == 0
    weights, scores = (table.columns_of(tmp_path / "run") for table in (WEIGHTS, SCORES))
    assert scores["weight"] == pytest.approx(weights["weight"], rel=1e-5)


def test_a_candidate_that_the_rows_make_zero_is_left_out(planted, tmp_path):
    choice = choose_encoder(planted(None, 0.5), sets(), RepresentationCache(tmp_path))
    first, second = choice.candidates
    assert first.separation is None
    assert "zero" in str(first.reason)
    assert second.separation is not None


def test_representations_of_another_model_are_refused(cli, flags, tmp_path, data):
    assert cli("weigh", *flags).exit_code == 0
    path = tmp_path / "run" / "representations.json"
    found = summary(tmp_path / "run")
    path.write_text(json.dumps({**found, "fingerprint": "0" * 16}))
    run = RunFolder(tmp_path / "run")
    for stage in ("representations", "weights"):  # as if they had been made so
        made = run.manifest(stage)
        key = {**made["key"], "upstream": run.digests("representations")} if stage == "weights" else made["key"]
        run.commit(stage, key, list(made["outputs"]))
        assert made["outputs"]
    result = cli("score", tmp_path / "run", data / "train.jsonl")
    assert result.exit_code != 0
    assert "came from another model" in result.output


def test_bad_words_are_named(cli, flags):
    for extra, part in ((["--layer", "top"], "must be a whole number or auto"), (["--pooling", "max"], "pooling")):
        result = cli("weigh", *flags, *extra)
        assert result.exit_code == 2
        assert part in result.output
