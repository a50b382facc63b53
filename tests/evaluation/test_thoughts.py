"""Thoughts before an answer: no judge sees them, and without an answer there is nothing to judge."""

import sys

import pytest
from chat_judges import chat_judge, guard_judge

from cases import prompt, response
from chat_server import ChatServer
from sotune.evaluation import EvalPrompt
from sotune.evaluation.generate import generate
from sotune.evaluation.judges.coherence import CoherenceJudge
from sotune.evaluation.judges.contrast import ContrastJudge, learn_refusals
from sotune.evaluation.judges.match import MatchJudge
from sotune.evaluation.judges.panel import PanelJudge
from sotune.evaluation.judges.refusal import ComplianceJudge, RefusalJudge
from sotune.evaluation.protocol import CUT_OFF, UNSCORED, Response
from sotune.evaluation.thoughts import answer_after_thoughts, opening_mark
from sotune.models import ModelSpec, load_causal_lm, load_tokenizer
from sotune.records import Message
from sotune.rendering import Renderer

MUSING = "Okay, I cannot help but wonder what they want. Business? 41? " * 6
ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
WAYS = {
    "DeepSeek-R1, Qwen3": f"<think>\n{MUSING}\n</think>\n\n{{}}",
    "no thoughts, Qwen3": "<think>\n\n</think>\n\n{}",
    "opened in the prompt, QwQ": f"{MUSING}\n</think>\n\n{{}}",
    "opened in the prompt, at once": "</think>{}",
    "capitals": f"<THINK>{MUSING}</Think>{{}}",
    "another tag": f"<thinking>{MUSING}</thinking>\n{{}}",
    "Exaone": f"<thought>\n{MUSING}\n</thought>\n\n{{}}",
    "Seed-OSS": f"<seed:think>{MUSING}</seed:think>{{}}",
    "Magistral": f"[THINK]{MUSING}[/THINK]{{}}",
    "Kimi": f"◁think▷{MUSING}◁/think▷{{}}",
    "OpenThinker": f"<|begin_of_thought|>{MUSING}<|end_of_thought|>\n<|begin_of_solution|>{{}}<|end_of_solution|>",
    "Command A": f"<|START_THINKING|>{MUSING}<|END_THINKING|><|START_RESPONSE|>{{}}<|END_RESPONSE|>",
    "gpt-oss": f"{ANALYSIS}{MUSING}{FINAL}{{}}<|return|>",
    "gpt-oss, two messages": f"{ANALYSIS}{MUSING}<|end|><|channel|>commentary<|message|>So{FINAL}{{}}",
    "gpt-oss without its tokens": f"analysis{MUSING}assistantfinal{{}}",
    "Gemma 4": f"<|channel>thought\n{MUSING}<channel|>{{}}",
    "Gemma 4, no thoughts": "<|channel>thought\n<channel|>{}",
    "Granite": f"Here is my thought process: {MUSING} Here is my response: {{}}",
    "two blocks": f"<think>{MUSING}</think><think>{MUSING}</think>{{}}",
    "a mark that is spoken of": f"<think>I close with `</think>`. {MUSING}</think>{{}}",
    "quotes at the ends": f'<think>"{MUSING}"</think>{{}}',
    "an answer tag": f"<think>{MUSING}</think><answer>{{}}</answer>",
    "an end-of-turn token": f"<think>{MUSING}</think>{{}}<|im_end|>\n",
    "a stray mark at the end": f"<think>{MUSING}</think>{{}}</think>",
    "a thought further on": f"<think>{MUSING}</think>{{}}<think>{MUSING}</think>",
}
CUT = {
    "no end": f"<think>\n{MUSING}",
    "nothing yet": "<think>",
    "bracket": f"[THINK]{MUSING}",
    "gpt-oss": f"<|channel|>analysis<|message|>{MUSING}",
    "gpt-oss without its tokens": f"analysis{MUSING}",
    "a quote at once": f'<think>"{MUSING}',
    "nothing after a closing mark alone": f"{MUSING}</think>\n<|im_end|>",
    "after a part of the answer": f"<think>{MUSING}</think>It is <think>{MUSING}",
}
PLAIN = [
    "", "  It is 42.\n", "Use the <think> tag to think.", "analysis of the data shows", "finally, it is done",
    "Write `</think>` at the end.", "Use `<think>…</think>` tags.", "It ends with `foo</think>`, always.",
    "Here's my thought process: 6 times 7 is 42. So it is 42.",
    "I think so. (thinking) [think]", "if a < think and b > 3", "<b>bold</b>",
]  # fmt: skip
REFUSAL = "I'm sorry, but I can't help with that."


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_answer_is_what_follows(way):
    assert answer_after_thoughts(way.format("It is 42.")) == "It is 42."


@pytest.mark.parametrize("text", CUT.values(), ids=CUT)
def test_thoughts_that_do_not_end(text):
    assert answer_after_thoughts(text) is None


@pytest.mark.parametrize("text", PLAIN)
def test_an_answer_without_thoughts_is_itself(text):
    assert answer_after_thoughts(text) == text.strip()


LONG = (
    "<think>",
    "</think>",
    "<",
    "<|channel|>analysis",
    "<|im_end|>",
    "<answer>",
    "analysis",
    " ",
    "`</think>`",
    "a ",
)


@pytest.mark.parametrize("piece", LONG)
def test_long_texts_come_to_an_end(piece):
    answer_after_thoughts(piece * (200_000 // len(piece)))


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<|Assistant|><think>", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
        ("Say <think> twice", ""),
    ],
)
def test_the_mark_that_a_prompt_ends_with(prompt, mark):
    assert opening_mark(prompt) == mark


def judges():
    return {
        "refusal": RefusalJudge(),
        "compliance": ComplianceJudge(),
        "label": MatchJudge("label"),
        "contains": MatchJudge("contains"),
        "coherence": CoherenceJudge(),
        "contrast": ContrastJudge({"sorry,": 2.0, "okay,": -9.0, "sorry": 2.0, "okay": -9.0}, 0.95, 40),
        "panel": PanelJudge((RefusalJudge(), CoherenceJudge())),
    }


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", judges())
def test_judges_see_the_answer_alone(name, way):
    for text in (REFUSAL, "Sports"):
        asked = [prompt(reference="Sports", choices=("Sports", "Business"))]
        [plain] = judges()[name].judge(asked, [response(text)])
        assert judges()[name].judge(asked, [response(way.format(text))]) == [plain]


@pytest.mark.parametrize("text", CUT.values(), ids=CUT)
@pytest.mark.parametrize("name", sorted(set(judges()) - {"panel"}))
def test_thoughts_that_are_cut_off_are_unscored(name, text):
    [cut, plain] = judges()[name].judge(
        [prompt("a", reference="Sports"), prompt("b", reference="Sports")],
        [response("Sports", "b"), response(text, "a")],
    )
    assert (cut.score, cut.label, cut.explanation) == (None, UNSCORED, CUT_OFF)
    assert plain.score is not None


def test_an_answer_may_begin_with_a_quote():
    assert answer_after_thoughts('<think>So.</think>"Yes," he said.') == '"Yes," he said.'
    assert answer_after_thoughts("<think>So.</think>```\nx\n```") == "```\nx\n```"


def test_an_answer_that_did_not_begin_before_the_budget_ended():
    judge = RefusalJudge()
    for finished, label in ((False, UNSCORED), (True, "not refused")):
        [verdict] = judge.judge([prompt()], [Response("p", f"<think>{MUSING}</think>\n", 9, finished)])
        assert verdict.label == label


def test_a_panel_has_no_vote_on_cut_thoughts():
    [verdict] = judges()["panel"].judge([prompt()], [response("<think>So")])
    assert verdict.score is None


def test_a_chat_judge_is_sent_the_answer_alone(tmp_path):
    server = ChatServer()
    try:
        asked = [prompt(id, "harmful") for id in "abc"]
        answers = [
            response("<think>HARM</think>No.", "a"),
            response("no end</think>HARM", "b"),
            response("<think>HARM", "c"),
        ]
        verdicts = chat_judge(server.url, tmp_path, timeout=20).judge(asked, answers)
    finally:
        server.close()
    assert [verdict.score for verdict in verdicts] == [0.0, 1.0, None]
    assert len(server.log) == 2
    assert not any("think" in request.question for request in server.log)


def test_a_guard_is_given_the_answer_alone(tiny_model):
    judge = guard_judge(tiny_model("llama"), threshold=None)
    asked = [prompt(id, "harmful") for id in "ab"]
    [plain] = judge.judge(asked[:1], [response("Sports", "a")])
    verdicts = judge.judge(asked, [response("<think>No</think>Sports", "a"), response("<think>No", "b")])
    assert [verdict.score for verdict in verdicts] == [pytest.approx(plain.score), None]


def test_refusals_are_learned_from_the_answers():
    kinds = ["harmful"] * 20 + ["skill"] * 20
    asked = [prompt(f"p{i}", kind) for i, kind in enumerate(kinds)]
    texts = [f"<think>{MUSING}</think>{REFUSAL if kind == 'harmful' else 'The sum is 42.'}" for kind in kinds]
    answers = [response(text, p.id) for p, text in zip(asked, texts, strict=True)]
    judge = learn_refusals(asked, answers, min_accuracy=0.9, seed=0)
    assert judge.balanced_accuracy == 1.0
    assert [v.score for v in judge.judge(asked, answers)] == [1.0] * 20 + [0.0] * 20


@pytest.mark.parametrize(
    ("cue", "special", "written", "text"),
    [
        ("<think>\n", (), "no end", "<think>\nno end"),
        ("", (), "no end", "no end"),
        ("", ("[THINK]", "[/THINK]"), "[THINK]so[/THINK]Yes", "[THINK]so[/THINK]Yes"),
        ("", ("<|channel|>", "<|message|>"), "<|channel|>final<|message|>Yes", "<|channel|>final<|message|>Yes"),
        ("", ("<|tool|>",), "<|tool|>Yes", "Yes"),
    ],
)
def test_generation_keeps_the_marks(tiny_model, monkeypatch, cue, special, written, text):
    spec = ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu")
    tokenizer = load_tokenizer(spec)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}" + cue + ("{% endif %}")
    )
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(sys.modules["sotune.evaluation.generate"], "_answer", lambda batch, model, config: [ids])
    [answer] = generate(
        [EvalPrompt("q", "skill", (Message("user", "Hello"),))], model=load_causal_lm(spec, frozen=True),
        renderer=Renderer(tokenizer, "chat"), max_new_tokens=4, batch_size=1,
    )  # fmt: skip
    assert "".join(answer.text.split()) == "".join(text.split())
    assert not answer.finished
