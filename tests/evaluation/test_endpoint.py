"""Pace, keys and waits, on a clock of the test's own."""

import email.utils
import threading

import pytest
from chat_judges import endpoint

from chat_server import ChatServer
from sotune.errors import ArtifactError, ConfigError
from sotune.evaluation.endpoint import AnswerCache, read_api_key
from sotune.evaluation.endpoint.pacing import Pacer, read_retry_after


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


def test_a_hold_holds_everybody_and_is_never_shortened():
    clock = Clock()
    pacer = Pacer(None, sleep=clock.sleep, clock=clock)
    pacer.hold(5)
    pacer.hold(1)
    assert turns(pacer, clock, 3) == pytest.approx([5, 5, 5])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7), ("0.5", 0.5), ("-3", 0), ("", 0), ("soon", 0), ("nan", 0), ("inf", float("inf")),
        (email.utils.formatdate(1_000_060, usegmt=True), 60), (email.utils.formatdate(999_000, usegmt=True), 0),
    ],
)  # fmt: skip
def test_retry_after(text, seconds):
    assert read_retry_after({"retry-after": text} if text else {}, now=1_000_000) == seconds


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
    assert (tmp_path / "a" / "secret").stat().st_mode & 0o077 == 0
    (tmp_path / "a" / "secret").write_text("torn")
    assert len(AnswerCache(tmp_path / "a").secret) == 32


def test_a_cache_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="name another folder with judge_cache_dir"):
        AnswerCache(tmp_path / "file")


class Waits(threading.Event):
    """An event for which nobody waits: the seconds are written down."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        return False


@pytest.mark.parametrize(
    ("fault", "asked_to_wait"), [("500", 0.0), ("reset", 0.0), ("html", 0.0), ("503 wait", 0.7), ("429", 0.01)]
)
def test_pauses_double_up_to_the_longest_and_honor_retry_after(fault, asked_to_wait):
    server = ChatServer(fault=lambda question, attempt: fault)
    try:
        asking = endpoint(server.url, max_retries=5, backoff=0.2, longest_wait=1.5, timeout=5)
        waits = asking._stop = Waits()
        asking._pacer = held = Holds()
        outcome = asking.ask("q")
    finally:
        server.close()
    assert "no answer after 6 attempts" in outcome.reason
    assert len(server.log) == held.n_turns == 6
    assert held.seconds == [asked_to_wait] * 5
    for waited, doubled in zip(waits.seconds, [0.2, 0.4, 0.8, 1.5, 1.5], strict=True):
        assert asked_to_wait + doubled / 2 <= waited <= asked_to_wait + doubled
    assert len(set(waits.seconds)) == 5  # spread


class Holds:
    def __init__(self):
        self.n_turns, self.seconds = 0, []

    def wait_turn(self):
        self.n_turns += 1

    def hold(self, seconds):
        self.seconds.append(seconds)
