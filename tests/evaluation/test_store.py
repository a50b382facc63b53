import pytest

from cases import prompt, response
from sotune.artifacts import Table
from sotune.errors import ArtifactError, DataError
from sotune.evaluation import Response, Verdict
from sotune.evaluation.store import ResponseShards, load_responses, load_verdicts, save_responses, save_verdicts

PROMPTS = [prompt(f"p{i}") for i in range(10)]


class Answerer:
    """Answers prompts, counts them, and dies after some calls."""

    def __init__(self, dies_at=None):
        self.asked, self.calls, self.dies_at = [], 0, dies_at

    def __call__(self, prompts):
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        self.calls += 1
        self.asked += [p.id for p in prompts]
        return [response(f"answer to {p.id}", p.id) for p in reversed(prompts)]


def shards(folder, key="model-a", shard_size=4):
    return ResponseShards(folder / "responses", {"model": key}, shard_size)


def test_responses_and_back(tmp_path):
    responses = [Response("a", "", 0, True), Response("b", "naïve\n「」", 3, False)]
    save_responses(tmp_path / "r.parquet", responses)
    assert load_responses(tmp_path / "r.parquet") == responses


def test_verdicts_and_back(tmp_path):
    verdicts = {
        "harm": (Verdict("a", None, "unscored", "why"), Verdict("b", 1.0, "harmful", "")),
        "task": (Verdict("a", 0.5, "graded", "half"),),
    }
    save_verdicts(tmp_path / "v.parquet", verdicts)
    assert load_verdicts(tmp_path / "v.parquet") == verdicts


@pytest.mark.parametrize("load", [load_responses, load_verdicts])
def test_a_file_of_something_else(tmp_path, load):
    Table("x.parquet", {"id": "string"}, verb="evaluate").write(tmp_path, {"id": ["a"]})
    with pytest.raises(ArtifactError, match=r"lacks the columns .*; delete it and run `sotune evaluate` again"):
        load(tmp_path / "x.parquet")


def test_complete_keeps_the_order_of_the_prompts(tmp_path):
    responses = shards(tmp_path).complete(PROMPTS, Answerer())
    assert [r.text for r in responses] == [f"answer to {p.id}" for p in PROMPTS]


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_no_prompt_is_asked_twice_after_a_kill(tmp_path, dies_at):
    killed = Answerer(dies_at)
    with pytest.raises(KeyboardInterrupt):
        shards(tmp_path).complete(PROMPTS, killed)
    assert shards(tmp_path).n_done(PROMPTS) == len(killed.asked)
    resumed = Answerer()
    responses = shards(tmp_path).complete(PROMPTS, resumed)
    assert killed.asked + resumed.asked == [p.id for p in PROMPTS]
    assert responses == shards(tmp_path / "fresh").complete(PROMPTS, Answerer())
    assert shards(tmp_path).complete(PROMPTS, Answerer(0)) == responses


def test_another_key_or_other_prompts_start_anew(tmp_path):
    shards(tmp_path).complete(PROMPTS, Answerer())
    for store, prompts in ((shards(tmp_path, key="model-b"), PROMPTS), (shards(tmp_path, key="model-b"), PROMPTS[1:])):
        fresh = Answerer()
        store.complete(prompts, fresh)
        assert fresh.asked == [p.id for p in prompts]
    # The folder may be shared: what belongs to another model or to other prompts stays there.
    shards(tmp_path).complete(PROMPTS, Answerer(0))


def test_a_part_with_the_wrong_responses(tmp_path):
    with pytest.raises(ArtifactError, match="does not hold the responses to its 4 prompts"):
        shards(tmp_path).complete(PROMPTS, lambda prompts: [response("x", "stranger")])
    with pytest.raises(DataError, match="2 prompts have the id 'p0'"):
        shards(tmp_path).complete(PROMPTS[:1] * 2, Answerer())
