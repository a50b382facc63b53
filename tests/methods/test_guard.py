from dataclasses import replace

import pytest
import torch

from sotune.errors import ConfigError
from sotune.evaluation import EvalPrompt, Response, Verdict
from sotune.methods import METHODS
from sotune.methods.guard import SequenceClassifier
from sotune.methods.pairs import own_refusals, safety_pairs
from sotune.models import ModelSpec
from sotune.records import Message


class Guard:
    name, labels = "guard", ("harmful", "harmless")

    def judge(self, prompts, responses):
        assert [p.id for p in prompts] == [r.id for r in responses]
        return [Verdict(r.id, None if r.id == "d09" else float("hook" in r.text), "harmful", "") for r in responses]


def test_a_given_guard_decides_and_what_it_cannot_score_ranks_last(weigh_inputs):
    given = replace(weigh_inputs, tools=replace(weigh_inputs.tools, guard=Guard()))
    weights = METHODS["guard"].weigh(given)
    order = [given.records.downstream[i].id for i in weights.argsort().tolist()]
    assert order[0] == "d09"
    assert set(order[1:3]) == {"x0", "x1"}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    from transformers import BertConfig, BertForSequenceClassification

    from tiny_models import build_tokenizer

    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=16, max_position_embeddings=64, initializer_range=0.5,
                id2label={0: "fine", 1: "toxic"}, label2id={"fine": 0, "toxic": 1},
            )
        )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def exchange(n):
    prompts = [EvalPrompt(f"e{i}", "harmful", (Message("user", f"Add {i}"),)) for i in range(n)]
    return prompts, [Response(f"e{i}", "word " * i, n_tokens=i, finished=True) for i in range(n)]


def test_a_sequence_classifier_is_a_judge(classifier):
    judge = SequenceClassifier(ModelSpec(str(classifier), device="cpu"), "toxic", max_length=48)
    verdicts = judge.judge(*exchange(40))
    assert [v.id for v in verdicts] == [f"e{i}" for i in range(40)]
    assert all(0 <= v.score <= 1 and v.label == ("harmful" if v.score >= 0.5 else "harmless") for v in verdicts)
    assert len({round(v.score, 6) for v in verdicts}) > 5
    alone = judge.judge(*[part[7:8] for part in exchange(40)])[0]
    assert alone.score == pytest.approx(verdicts[7].score, abs=1e-5)
    other = SequenceClassifier(ModelSpec(str(classifier), device="cpu"), "fine", max_length=48)
    assert other.judge(*exchange(3))[0].score == pytest.approx(1 - verdicts[0].score, abs=1e-5)


def test_an_unknown_label_and_a_missing_model_are_named(classifier, tmp_path):
    with pytest.raises(ConfigError, match="no label 'evil'; it has .*toxic"):
        SequenceClassifier(ModelSpec(str(classifier), device="cpu"), "evil").judge(*exchange(1))
    with pytest.raises(ConfigError, match="could not be loaded|does not exist"):
        SequenceClassifier(ModelSpec(str(tmp_path / "none"), device="cpu"), "toxic").judge(*exchange(1))


def test_pairs_that_are_given_come_first_else_the_model_answers_itself(weigh_inputs):
    tools, reference = weigh_inputs.tools, weigh_inputs.records.harmful_reference
    given = safety_pairs(tools, reference, most=3)
    assert [pair.completion for pair in given] == ["I will not."] * 3
    assert [pair.id for pair in given] == [f"safety-pair-{i:05d}" for i in range(3)]
    own = safety_pairs(replace(tools, safety_pairs=()), reference, most=3)
    assert [pair.prompt for pair in own] == [record.prompt for record in reference[:3]]
    assert all(pair.completion != "Use a hook." for pair in own)
    again = own_refusals(tools, reference[:3])
    assert [pair.completion for pair in again] == [pair.completion for pair in own]
