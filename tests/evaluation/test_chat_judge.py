"""The chat judge against a real server: whatever goes wrong, each item ends with its right verdict or with none."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from chat_judges import chat_judge

import chat_server
from cases import prompt, response
from chat_server import FAULTS, KEY, ChatServer
from sotune.errors import ConfigError, SotuneError
from sotune.evaluation.protocol import UNSCORED
from sotune.evaluation.rubrics import RUBRICS

N = 60
PROMPTS = [prompt(f"p{i}", kind="harmful") for i in range(N)]
RESPONSES = [response(f"answer {i}{' HARM' if i % 3 == 0 else ''}", f"p{i}") for i in range(N)]
RIGHT = [float(i % 3 == 0) for i in range(N)]


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    servers = []

    def start(**options):
        servers.append(ChatServer(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def number(question):
    return int(re.search(r"RESPONSE\| answer (\d+)", question)[1])


def test_every_item_gets_its_verdict(serve, tmp_path):
    meeting = threading.Barrier(2)

    def meet(question):
        if number(question) < 2:  # the first two are answered while both are open, or not at all
            meeting.wait(timeout=30)
        return chat_server.rule(question)

    server = serve(judge=meet)
    judge = chat_judge(server.url, tmp_path)
    verdicts = judge.judge(PROMPTS, RESPONSES)
    assert [verdict.id for verdict in verdicts] == [asked.id for asked in PROMPTS]
    assert [verdict.score for verdict in verdicts] == RIGHT
    assert {verdict.label for verdict in verdicts} == {"harmful", "harmless"}
    assert all(judge.rubric.digest[:12] in verdict.explanation for verdict in verdicts)
    assert 1 < server.most_open <= 8
    assert server.log[0].body["model"] == "rule"
    assert server.log[0].body["temperature"] == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_no_verdict(serve, tmp_path, fault):
    server = serve(fault=lambda question, attempt: fault if attempt < 1 + number(question) % 2 else None)
    judge = chat_judge(server.url, tmp_path, timeout=0.5 if fault == "hang" else 5)
    verdicts = judge.judge(PROMPTS[:12], RESPONSES[:12])
    assert [verdict.score for verdict in verdicts] == RIGHT[:12]
    assert len(server.answered) == len(set(server.answered)) == 12
    assert len(server.log) == 12 + 6 + 12  # a half of them failed twice


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_leaves_its_item_unscored(serve, tmp_path, fault):
    server = serve(fault=lambda question, attempt: fault if number(question) in (3, 7) else None)
    judge = chat_judge(server.url, tmp_path, max_retries=2, timeout=0.5 if fault == "hang" else 5)
    verdicts = judge.judge(PROMPTS[:12], RESPONSES[:12])
    for i, verdict in enumerate(verdicts):
        if i in (3, 7):
            assert (verdict.score, verdict.label) == (None, UNSCORED)
            assert "no answer after 3 attempts" in verdict.explanation
        else:
            assert verdict.score == RIGHT[i]
    assert len(server.log) == 10 + 2 * 3
    # The next evaluation asks these two alone.
    server.fault = lambda question, attempt: None
    assert [v.score for v in chat_judge(server.url, tmp_path).judge(PROMPTS[:12], RESPONSES[:12])] == RIGHT[:12]
    assert len(server.log) == 16 + 2


def test_all_faults_at_once(serve, tmp_path):
    def fault(question, attempt):
        draw = zlib.crc32(f"{question[-2000:]}{attempt}".encode())
        return FAULTS[draw // 2 % len(FAULTS)] if draw % 2 else None

    server = serve(fault=fault)
    verdicts = chat_judge(server.url, tmp_path, max_retries=2, timeout=0.3).judge(PROMPTS, RESPONSES)
    by_question = {request.digest: [] for request in server.log}
    for request in server.log:
        by_question[request.digest].append(request.outcome)
    assert len(by_question) == N
    assert all(
        outcomes.index("answered") == len(outcomes) - 1 if "answered" in outcomes else len(outcomes) == 3
        for outcomes in by_question.values()
    )
    scored = [verdict for verdict in verdicts if verdict.score is not None]
    assert len(scored) == len(server.answered) == len(set(server.answered))
    assert 0 < len(scored) < N
    assert all(verdict.score in (None, right) for verdict, right in zip(verdicts, RIGHT, strict=True))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("The answer is harmful.", "not one JSON object"),
        ("", "the reply is empty"),
        ("half a pair: \ud83d", "not one JSON object"),
        ('{"canary": "0", "verdict": "harmful", "category": "crime"}', "the canary is wrong"),
    ],
)
def test_a_reply_off_the_menu_is_unscored_and_not_asked_again(serve, tmp_path, reply, reason):
    server = serve(judge=lambda question: reply)
    for _ in range(2):
        verdicts = chat_judge(server.url, tmp_path).judge(PROMPTS, RESPONSES)
        assert all(verdict.score is None and reason in verdict.explanation for verdict in verdicts)
    assert len(server.log) == N


def body(content, finish_reason="stop", **message):
    choice = {"finish_reason": finish_reason, "message": {"role": "assistant", "content": content, **message}}
    return json.dumps({"choices": [choice]}).encode()


@pytest.mark.parametrize(
    "envelope",
    [
        lambda reply: body(f"It seems so.\n</think>\n\n{reply}"),
        lambda reply: body(f"```JSON {reply} ```"),
        lambda reply: body(reply.replace("harm", "HARM")),
        lambda reply: body(reply, reasoning_content="It seems so {or not}."),
        lambda reply: body(reply, refusal=None),
        lambda reply: body(reply, refusal=""),
        lambda reply: body([{"type": "text", "text": reply}]),
        lambda reply: body([{"type": "text", "text": reply[:9]}, {"type": "text", "text": reply[9:]}]),
        lambda reply: body([
            {"type": "thinking", "thinking": [{"type": "text", "text": "It seems so."}]},
            {"type": "text", "text": reply},
        ]),
        lambda reply: body([{"type": "reasoning", "summary": []}, {"type": "output_text", "text": reply}]),
    ],
)  # fmt: skip
def test_a_right_verdict_is_read_however_it_is_wrapped(serve, tmp_path, envelope):
    server = serve(judge=lambda question: envelope(chat_server.rule(question)))
    verdicts = chat_judge(server.url, tmp_path).judge(PROMPTS[:6], RESPONSES[:6])
    assert [verdict.score for verdict in verdicts] == RIGHT[:6]
    assert {verdict.label for verdict in verdicts} == {"harmful", "harmless"}
    assert len(server.log) == 6


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (body(None, refusal="I'm sorry, I can't judge that."), "the judge refused to judge"),
        (body("I'm sorry, but I can't help with that."), "the judge refused to judge"),
        (body("", "content_filter"), "the server's content filter withheld the reply"),
        (body(None, "content_filter", refusal=None), "the server's content filter withheld the reply"),
        (b'{"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}', "the server's content filter withheld"),
        (
            body(None, "length", reasoning_content="So"),
            "its thoughts; the reply was cut at its token limit, raise judge_",
        ),
        (body(None, reasoning="So"), "the reply ends within its thoughts"),
        (body('{"canary": "', "length"), "the reply was cut at its token limit, raise judge_max_tokens"),
        (body([{"type": "image_url", "image_url": {}}]), "the reply is empty"),
    ],
)
def test_a_reply_without_a_verdict_says_why_and_is_not_asked_again(serve, tmp_path, reply, reason):
    server = serve(judge=lambda question: reply)
    for _ in range(2):
        verdicts = chat_judge(server.url, tmp_path).judge(PROMPTS[:3], RESPONSES[:3])
        assert all(verdict.score is None and reason in verdict.explanation for verdict in verdicts)
    assert len(server.log) == 3


def test_the_beginning_of_a_lost_reply_is_shown_without_the_words_that_are_judged(serve, tmp_path):
    asked = [prompt("p", "harmful")]
    server = serve(judge=lambda question: "This answer tells how to Flobber a quux, which\nis bad. " + "More. " * 30)
    [verdict] = chat_judge(server.url, tmp_path).judge(asked, [response("To flobber it, quux it twice.", "p")])
    shown = verdict.explanation.partition("; reply: ")[2]
    assert shown == "“This answer tells how to … a …, which is bad. More.…”"


def error(status, **fields):
    return status, json.dumps({"id": None, "choices": None, "error": fields}).encode()


@pytest.mark.parametrize(
    ("fault", "n_asked", "reason"),
    [
        (error(200, code=429, message="Slow down"), 3, "after 3 attempts: error 429 in the response: Slow down"),
        (
            error(200, code=429, message="Provider returned error", metadata={"raw": "Too Many Requests"}),
            3,
            "error 429 in the response: Provider returned error: Too Many Requests",
        ),
        (error(200, code="rate_limit_exceeded", message="Slow down"), 3, "error 429 in the response: Slow down"),
        (error(200, code="502", message="Bad provider"), 3, "error 502 in the response: Bad provider"),
        (error(200, type="overloaded_error", message="Busy"), 3, "error 503 in the response: Busy"),
        (error(200, message="No such tool"), 1, "no answer: error 400 in the response: No such tool"),
        ((200, b'{"error": "No such tool"}'), 1, "no answer: error 400 in the response: "),
        (error(400, message="The context has 2048 tokens"), 1, "HTTP 400: The context has 2048 tokens"),
        (error(400, code="content_filter", message="Filtered"), 1, "the server's content filter withheld the reply"),
        ((200, b"[]"), 3, "the response is not a chat completion"),
        ((200, b" " * (9 << 20)), 3, "the response is not a chat completion: it is over 8 MiB"),
    ],
)
def test_an_error_is_told_in_the_servers_words_and_asked_again_only_where_that_helps(
    serve, tmp_path, fault, n_asked, reason
):
    server = serve(fault=lambda question, attempt: fault if number(question) == 1 else None)
    verdicts = chat_judge(server.url, tmp_path, max_retries=2).judge(PROMPTS[:3], RESPONSES[:3])
    assert [verdict.score for verdict in verdicts] == [1.0, None, 0.0]
    assert reason in verdicts[1].explanation
    assert len(server.log) == 2 + n_asked


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (error(200, code=402, message="Insufficient credits"), "asks for payment .*402.*: Insufficient credits"),
        (error(404, code=404, message="No model rule"), "does not know .*HTTP 404: No model rule"),
        (
            error(400, param="max_tokens", message="Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'."),
            "refuses max_tokens .*; set judge_token_parameter: max_completion_tokens",
        ),
        (
            error(400, message="Unsupported value: 'temperature' does not support 0 with this model."),
            "refuses temperature .*; set judge_temperature: none",
        ),
        (
            error(422, message="response_format is not supported"),
            "refuses response_format .*; set judge_json_mode: false",
        ),
    ],
)
def test_what_every_question_would_meet_stops_at_once_and_says_what_to_set(serve, tmp_path, fault, message):
    server = serve(fault=lambda question, attempt: fault)
    with pytest.raises(ConfigError, match=message):
        chat_judge(server.url, tmp_path, json_mode=True).judge(PROMPTS, RESPONSES)
    assert len(server.log) <= 8


@pytest.mark.parametrize("temperature", [None, "none"])
def test_no_temperature_is_sent_where_none_is_wanted(serve, tmp_path, temperature):
    server = serve()
    chat_judge(server.url, tmp_path, temperature=temperature).judge(PROMPTS[:1], RESPONSES[:1])
    assert "temperature" not in server.log[0].body


@pytest.mark.parametrize("rubric", RUBRICS)
def test_every_rubric(serve, tmp_path, rubric):
    server = serve()
    texts = ["I cannot do that.", "", "HARM in three steps", "Paris"]
    prompts, responses = PROMPTS[:4], [response(text, f"p{i}") for i, text in enumerate(texts)]
    scores = [v.score for v in chat_judge(server.url, tmp_path, rubric).judge(prompts, responses)]
    assert (
        scores
        == {
            "harmfulness": [0, 0, 1, 0],
            "helpfulness": [(1 + len(text) % 5) / 5 for text in texts],
            "coherence": [1, 0, 1, 1],
            "refusal": [1, 0, 0, 0],
        }[rubric]
    )


def test_the_miniature_as_a_judge_invents_no_verdict(serve, tmp_path):
    from sotune.evaluation import EvalPrompt, generate
    from sotune.miniature import model_path
    from sotune.models import ModelSpec, load_causal_lm
    from sotune.records import Message
    from sotune.rendering import load_renderer
    from sotune.settings import RenderingSettings

    spec = ModelSpec(str(model_path()), dtype="float32", device="cpu")
    model, renderer = load_causal_lm(spec, frozen=True), load_renderer(spec, RenderingSettings(template="chat"))
    asked = EvalPrompt("q", "skill", (Message("user", "how to burn the log ?"),))

    def judge(question):
        with server.lock:
            [answer] = generate([asked], model=model, renderer=renderer, max_new_tokens=12, batch_size=1)
        texts.append(answer.text)
        return answer.text

    texts = []
    server = serve(judge=judge)
    verdicts = chat_judge(server.url, tmp_path, timeout=20).judge(PROMPTS[:3], RESPONSES[:3])
    assert len(texts) == 3
    assert all(texts)
    assert {verdict.score for verdict in verdicts} == {None}


def test_identical_items_are_asked_once(serve, tmp_path):
    server = serve()
    prompts = [prompt(kind="harmful", id=f"p{i}") for i in range(20)]
    same = [type(p)(p.id, p.kind, PROMPTS[0].messages) for p in prompts]
    verdicts = chat_judge(server.url, tmp_path).judge(same, [response("HARM", p.id) for p in same])
    assert [verdict.score for verdict in verdicts] == [1.0] * 20
    assert len(server.log) == 1


def test_the_cache_knows_rubric_model_parameters_and_text(serve, tmp_path):
    server = serve()
    ask = [PROMPTS[:1], RESPONSES[:1]]
    chat_judge(server.url, tmp_path).judge(*ask)
    chat_judge(server.url, tmp_path).judge(*ask)
    assert len(server.log) == 1
    chat_judge(server.url, tmp_path, "coherence").judge(*ask)
    chat_judge(server.url, tmp_path, model="other").judge(*ask)
    chat_judge(server.url, tmp_path, temperature=1).judge(*ask)
    chat_judge(server.url, tmp_path).judge(PROMPTS[:1], [response("another", "p0")])
    chat_judge(server.url, tmp_path / "elsewhere").judge(*ask)
    assert len(server.log) == 6


def test_too_long_a_question_is_unscored_and_never_cut(serve, tmp_path):
    server = serve()
    long = [response("HARM " * 4_000, "p0"), *RESPONSES[1:3]]
    judge = chat_judge(server.url, tmp_path, max_characters=10_000)
    verdicts = judge.judge(PROMPTS[:3], long)
    assert [verdict.score for verdict in verdicts] == [None, *RIGHT[1:3]]
    assert "characters, over 10000" in verdicts[0].explanation
    assert len(server.log) == 2
    assert judge.usage(PROMPTS[:3], long).n_too_long == 1


def test_usage_counts_calls_and_tokens_without_asking(serve, tmp_path):
    server = serve()
    judge = chat_judge(server.url, tmp_path)
    before = judge.usage(PROMPTS, RESPONSES)
    assert (before.n_items, before.n_questions, before.n_calls, before.n_cached) == (N, N, N, 0)
    judge.judge(PROMPTS[:20], RESPONSES[:20])
    assert judge.usage(PROMPTS, RESPONSES).n_calls == N - 20
    assert judge.usage(PROMPTS, RESPONSES).pending_input_tokens < before.pending_input_tokens
    judge.judge(PROMPTS, RESPONSES)
    after = judge.usage(PROMPTS, RESPONSES)
    assert (after.n_calls, after.input_tokens, after.output_tokens, after.n_uncounted) == (0, N * 100, N * 10, 0)
    assert len(server.log) == N


@pytest.mark.parametrize("status", ["401", "402", "403", "404"])
def test_what_no_retry_can_mend_stops_at_once_and_shows_no_key(serve, tmp_path, status):
    server = serve(fault=lambda question, attempt: status)
    with pytest.raises(ConfigError, match=f"HTTP {status}") as caught:
        chat_judge(server.url, tmp_path, api_key=KEY).judge(PROMPTS, RESPONSES)
    assert len(server.log) <= 8  # those under way
    assert server.log[0].authorization == f"Bearer {KEY}"
    told = "".join(map(str, (caught.value, caught.value.__cause__, repr(caught.value))))
    assert KEY not in told
    assert caught.value.__suppress_context__


def test_a_key_that_fails_midway_keeps_the_answers_so_far(serve, tmp_path):
    server = serve(fault=lambda question, attempt: "401" if len(server.answered) >= 20 else None)
    with pytest.raises(ConfigError, match="refused the API key"):
        chat_judge(server.url, tmp_path).judge(PROMPTS, RESPONSES)
    kept = len(server.answered)
    assert kept >= 20
    server.fault = lambda question, attempt: None
    assert [v.score for v in chat_judge(server.url, tmp_path).judge(PROMPTS, RESPONSES)] == RIGHT
    assert len(server.answered) == len(set(server.answered)) == N


def test_the_key_appears_nowhere(serve, tmp_path):
    server = serve(fault=lambda question, attempt: "400" if number(question) == 1 else None)
    judge = chat_judge(server.url, tmp_path, api_key=KEY)
    verdicts = judge.judge(PROMPTS[:4], RESPONSES[:4])
    assert [verdict.score for verdict in verdicts] == [1.0, None, 0.0, 1.0]
    assert "HTTP 400: " in verdicts[1].explanation
    assert len([r for r in server.log if r.outcome == "400"]) == 1  # asking again would not help
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in f"{written!r}{verdicts}{judge}{judge.endpoint.settings}"


def test_a_used_up_quota_stops(serve, tmp_path):
    server = serve(fault=lambda question, attempt: "429 quota")
    with pytest.raises(SotuneError, match="quota is used up"):
        chat_judge(server.url, tmp_path).judge(PROMPTS, RESPONSES)


def test_a_server_that_asks_for_an_hour_is_not_asked_again(serve, tmp_path):
    server = serve(fault=lambda question, attempt: "429 hour" if number(question) == 1 else None)
    verdicts = chat_judge(server.url, tmp_path).judge(PROMPTS[:3], RESPONSES[:3])
    assert [verdict.score for verdict in verdicts] == [1.0, None, 0.0]
    assert "the server asks for a wait of 3600 s" in verdicts[1].explanation


def test_a_dead_server_stops_the_run(serve, tmp_path):
    server = serve(fault=lambda question, attempt: "500")
    with pytest.raises(SotuneError, match="answered none of the first 8 of 60 questions"):
        chat_judge(server.url, tmp_path, max_retries=0).judge(PROMPTS, RESPONSES)
    server.close()
    with pytest.raises(SotuneError, match=r"the connection failed \(ConnectError\)"):
        chat_judge(server.url, tmp_path, max_retries=0).judge(PROMPTS, RESPONSES)


KILLED = """
import sys
from pathlib import Path
from test_chat_judge import PROMPTS, RESPONSES
from chat_judges import chat_judge
chat_judge(sys.argv[1], Path(sys.argv[2]), timeout=60).judge(PROMPTS, RESPONSES)
"""


def start_evaluation(server, folder):
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(folder)], env=env)


def wait_until(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def n_kept(folder):
    try:
        with contextlib.closing(sqlite3.connect(f"file:{folder}/answers.sqlite?mode=ro", uri=True)) as database:
            return database.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet
        return 0


@pytest.mark.parametrize(
    "n_before", [23, pytest.param(1, marks=pytest.mark.slow), pytest.param(52, marks=pytest.mark.slow)]
)
def test_a_killed_evaluation_asks_nothing_twice(serve, tmp_path, n_before):
    """The server holds back all but some answers, so that at the kill each has either arrived or not been sent."""

    def fault(question, attempt):
        with server.lock:
            if server.released.is_set() or len(started) < n_before:
                started.append(question)
                return None
        return "hang"

    started = []
    server = serve(fault=fault)
    process = start_evaluation(server, tmp_path)
    wait_until(lambda: n_kept(tmp_path) == n_before and server.n_open == 8, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert n_kept(tmp_path) == n_before
    server.released.set()
    verdicts = chat_judge(server.url, tmp_path).judge(PROMPTS, RESPONSES)
    assert [verdict.score for verdict in verdicts] == RIGHT
    assert len(server.answered) == len(set(server.answered)) == N


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(8))
def test_killed_at_any_moment(serve, tmp_path, moment):
    """What had arrived is never asked again; of the answers that were on their way, at most one for each thread."""

    def judge(question):
        time.sleep(0.02)
        return chat_server.rule(question)

    server = serve(judge=judge)
    process = start_evaluation(server, tmp_path)
    wait_until(lambda: n_kept(tmp_path) >= 1 + 6 * moment, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [verdict.score for verdict in chat_judge(server.url, tmp_path).judge(PROMPTS, RESPONSES)] == RIGHT
    assert len(set(server.answered)) == N
    assert len(server.log) - N <= 8
