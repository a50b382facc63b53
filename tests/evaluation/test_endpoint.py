"""Pace, keys and waits, on a clock of the test's own."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from chat_judges import endpoint

from chat_server import ChatServer
from sotune.errors import ArtifactError, ConfigError
from sotune.evaluation.endpoint import Answer, AnswerCache, read_api_key
from sotune.evaluation.endpoint.pacing import Pacer


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def turns(pacer, clock, n):
    times = []
    for _ in range(n):
        pacer.wait_turn()
        times.append(clock.now - 100.0)
    return times


@pytest.mark.parametrize(("per_minute", "spacing"), [(60, 1.0), (600, 0.1), (0.5, 120.0), (None, 0.0)])
def test_requests_are_spaced(per_minute, spacing):
    clock = Clock()
    pacer = Pacer(per_minute, sleep=clock.sleep, clock=clock)
    assert turns(pacer, clock, 5) == pytest.approx([spacing * i for i in range(5)])


def test_time_that_passed_counts_and_is_not_saved_up():
    clock = Clock()
    pacer = Pacer(60, sleep=clock.sleep, clock=clock)
    pacer.wait_turn()
    clock.now += 30
    assert turns(pacer, clock, 3) == pytest.approx([30, 31, 32])


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", " k \n")
    assert read_api_key("SOME_KEY") == "k"
    assert read_api_key(None) is None
    monkeypatch.setenv("SOME_KEY", " ")
    with pytest.raises(ConfigError, match="the environment variable SOME_KEY holds no API key"):
        read_api_key("SOME_KEY")


def test_the_secret_stays_and_is_not_for_others(tmp_path):
    first = AnswerCache(tmp_path / "a")
    assert AnswerCache(tmp_path / "a").secret == first.secret
    assert AnswerCache(tmp_path / "b").secret != first.secret
    assert len(first.secret) == 32
    assert (tmp_path / "a" / "answers.sqlite").stat().st_mode & 0o077 == 0


def test_answers_of_several_threads_and_caches_are_all_kept(tmp_path):
    caches = [AnswerCache(tmp_path) for _ in range(3)]
    answers = {f"k{i}": Answer(f"text {i} 😀", "stop", i, None) for i in range(60)}
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: caches[i % 3].put(f"k{i}", answers[f"k{i}"]), range(60)))
    caches[0].put("k0", answers["k1"])
    again = AnswerCache(tmp_path)
    assert len(again) == 60
    assert {key: again.get(key) for key in answers} == {**answers, "k0": answers["k1"]}
    assert again.get("unknown") is None


def test_a_cache_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="name another folder with judge_cache_dir"):
        AnswerCache(tmp_path / "file")
    (tmp_path / "answers.sqlite").write_text("another file" * 100)
    with pytest.raises(ArtifactError, match="not a database.*name another folder with judge_cache_dir"):
        AnswerCache(tmp_path)


@pytest.mark.parametrize(
    ("fault", "asked_to_wait"), [("500", None), ("reset", None), ("html", None), ("503 wait", 0.7), ("429", 0.01)]
)
def test_pauses_double_up_to_the_longest_and_honor_retry_after(fault, asked_to_wait, monkeypatch):
    waits = []
    monkeypatch.setattr("openai._base_client.time.sleep", waits.append)
    server = ChatServer(fault=lambda question, attempt: fault)
    try:
        asking = endpoint(server.url, max_retries=6, timeout=5)
        asking._pacer = turns = Turns()
        outcome = asking.ask("q")
    finally:
        server.close()
    assert "no answer after 7 attempts" in outcome.reason
    assert len(server.log) == turns.n == 7
    if asked_to_wait is not None:
        assert waits == [asked_to_wait] * 6
        return
    for waited, doubled in zip(waits, [0.5, 1.0, 2.0, 4.0, 8.0, 8.0], strict=True):
        assert 0.75 * doubled <= waited <= doubled
    assert len(set(waits)) == 6  # spread


class Turns:
    def __init__(self):
        self.n = 0

    def wait_turn(self):
        self.n += 1
