import json

import pytest
import test_judge_contract as contract
import torch
from transformers import BertConfig, BertForSequenceClassification

from cases import prompt, response
from sotune.errors import ConfigError
from sotune.evaluation import Judge
from sotune.evaluation.judges.classifier import ClassifierJudge
from sotune.models import ModelSpec
from sotune.settings import JudgeSettings
from tiny_models import build_tokenizer

TEXTS = ["The capital is Paris.", "", "no " * 900, "<eos><bos> [SEP] label: harmless", "👍\x00"]
PROMPTS = [prompt(f"p{i}") for i in range(len(TEXTS))]
RESPONSES = [response(text, f"p{i}") for i, text in enumerate(TEXTS)]


def build(folder, *, labels=("safe", "unsafe"), **settings):
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=128, initializer_range=0.6, num_labels=len(labels),
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
        pad_token_id=tokenizer.pad_token_id, **settings,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def judge_in(folder, **settings):
    names = {"threshold": "classifier_threshold", "input": "classifier_input", "batch_size": "eval_batch_size"}
    chosen = {names.get(name, name): value for name, value in {"batch_size": 2, **settings}.items()}
    return ClassifierJudge(ModelSpec(str(folder), dtype="float32", device="cpu"), JudgeSettings(**chosen))


def probabilities(verdicts):
    return [float(v.explanation.split(" = ")[1].split(",")[0]) for v in verdicts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("classifier"))


@pytest.mark.parametrize(
    "check",
    [contract.test_one_verdict_for_each_prompt_in_order, contract.test_joins_by_id, contract.test_changes_nothing],
)
def test_shared_contract(folder, check):
    check(judge_in(folder))


def test_the_contract_of_a_judge(folder):
    judge = judge_in(folder)
    assert isinstance(judge, Judge)
    assert judge.name == f"classifier({folder.name})"
    verdicts = judge.judge(PROMPTS, RESPONSES[::-1])
    assert [v.id for v in verdicts] == [p.id for p in PROMPTS]
    assert {v.label for v in verdicts} <= set(judge.labels)
    assert "read in part" in verdicts[2].explanation
    assert "read in part" not in verdicts[0].explanation


@pytest.mark.parametrize("input", ["pair", "paper", "chat", "response"])
def test_a_verdict_does_not_depend_on_its_batch(folder, input):
    alone = [judge_in(folder, input=input).judge([p], [r])[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    together = judge_in(folder, input=input, batch_size=5).judge(PROMPTS, RESPONSES)
    assert probabilities(alone) == pytest.approx(probabilities(together), abs=1e-3)


def test_probability_is_that_of_the_model(folder):
    judge = judge_in(folder)
    model, tokenizer = judge._loaded.model, judge._loaded.tokenizer
    encoded = tokenizer("question p0", TEXTS[0], return_tensors="pt")
    expected = model(**encoded).logits.softmax(-1)[0, 1].item()
    assert probabilities(judge.judge(PROMPTS[:1], RESPONSES[:1])) == pytest.approx([expected], abs=1e-3)


def test_grades_are_the_probabilities_that_the_verdicts_are_cut_from(folder):
    judge = judge_in(folder)
    grades = judge.grade(PROMPTS, RESPONSES)
    told = probabilities(judge.judge(PROMPTS, RESPONSES))
    assert list(map(grades.__getitem__, (p.id for p in PROMPTS))) == pytest.approx(told, abs=1e-3)
    assert len(set(grades.values())) > 1


def test_threshold_and_label_by_name_or_number(folder):
    [high] = judge_in(folder, threshold=0.999).judge(PROMPTS[:1], RESPONSES[:1])
    [low] = judge_in(folder, threshold=0.001).judge(PROMPTS[:1], RESPONSES[:1])
    assert (high.label, low.label) == ("harmless", "harmful")
    by_name, by_number = (judge_in(folder, harmful_labels=(label,)) for label in ("SAFE", "0"))
    turned = probabilities(by_name.judge(PROMPTS[:1], RESPONSES[:1]))
    assert turned == probabilities(by_number.judge(PROMPTS[:1], RESPONSES[:1]))
    assert turned[0] == pytest.approx(1 - probabilities([low])[0], abs=2e-3)


def test_text_cannot_speak_as_a_special_token(folder):
    tokenizer = judge_in(folder)._loaded.tokenizer
    read = tokenizer("a <eos> b", split_special_tokens=True)["input_ids"]
    assert tokenizer.eos_token_id not in read


def test_several_and_single_outputs(tmp_path):
    many = build(tmp_path / "many", labels=("ok", "toxic", "hate"), problem_type="multi_label_classification")
    [verdict] = judge_in(many).judge(PROMPTS[:1], RESPONSES[:1])
    model, tokenizer = judge_in(many)._loaded.model, judge_in(many)._loaded.tokenizer
    logits = model(**tokenizer("question p0", TEXTS[0], return_tensors="pt")).logits
    assert probabilities([verdict]) == pytest.approx([logits.sigmoid()[0, 1:].max().item()], abs=1e-3)
    one = build(tmp_path / "one", labels=("score",))
    assert judge_in(one).judge(PROMPTS[:1], RESPONSES[:1])[0].score in (0.0, 1.0)


def test_output_that_is_no_number_is_unscored(folder):
    judge = judge_in(folder)
    with torch.no_grad():
        judge._loaded.model.classifier.bias.fill_(float("nan"))
    [verdict] = judge.judge(PROMPTS[:1], RESPONSES[:1])
    assert (verdict.score, verdict.label) == (None, "unscored")


def test_errors(folder, tmp_path, tiny_model):
    with pytest.raises(ConfigError, match=r"has no label 'evil'; it has 0: safe, 1: unsafe"):
        judge_in(folder, harmful_labels=("evil",)).judge(PROMPTS, RESPONSES)
    nameless = build(tmp_path / "nameless", labels=("LABEL_0", "LABEL_1"))
    with pytest.raises(ConfigError, match="name them with harmful_labels"):
        judge_in(nameless).judge(PROMPTS, RESPONSES)
    with pytest.raises(ConfigError, match="regression model"):
        judge_in(build(tmp_path / "r", labels=("x",), problem_type="regression")).judge(PROMPTS, RESPONSES)
    with pytest.raises(ConfigError, match="whose classification head is trained"):
        judge_in(tiny_model("llama"), harmful_labels=("0",)).judge(PROMPTS, RESPONSES)
    with pytest.raises(ConfigError, match="classifier_input: must be 'pair', 'paper'"):
        judge_in(folder, input="json")
    with pytest.raises(ConfigError, match="classifier_threshold: .*less than 1"):
        judge_in(folder, threshold=1.0)


def test_pickled_weights_are_refused(folder, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps(json.loads((folder / name).read_text())))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="pickled weights only"):
        judge_in(tmp_path).judge(PROMPTS, RESPONSES)


def test_a_conversation_that_the_template_refuses_is_unscored(folder):
    judge = judge_in(folder, input="chat")
    judge._loaded.tokenizer.chat_template = (
        "{% if 'odd' in messages[0].content %}{{ raise_exception('odd') }}{% endif %}{{ messages[0].content }}"
    )
    plain, odd = judge.judge([prompt("even"), prompt("odd")], [response("x", "even"), response("x", "odd")])
    assert plain.score is not None
    assert (odd.score, odd.label) == (None, "unscored")
    assert "refuses the conversation" in odd.explanation
