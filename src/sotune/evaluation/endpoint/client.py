"""One chat endpoint that speaks OpenAI's protocol: a question goes in, an answer or the reason for none comes out."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from sotune.errors import ConfigError, SotuneError
from sotune.evaluation.endpoint.pacing import Pacer, read_retry_after

_RETRIED = frozenset({408, 409, 425, 429})  # and every 5xx
_FATAL = {
    401: "refused the API key",
    402: "asks for payment",
    403: "denies access",
    404: "does not know the address or the model",
}
_EXHAUSTED_QUOTA = "insufficient_quota"  # a 429 that no waiting mends
_MIN_FAILURES_TO_STOP = 8


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Where a chat model is, and how it is asked.

    Attributes:
        base_url: Up to and including the version, such as ``http://localhost:8000/v1``.
        model: The model's name there.
        api_key: Sent with each request and shown nowhere; None where the server wants none.
        concurrency: Requests under way at once.
        max_retries: How often a request that failed is sent again.
        timeout: Seconds to wait for an answer.
        backoff: Seconds before the first retry, doubled for each further one.
        longest_wait: The most seconds between two attempts; a server that asks for more is not asked again.
        requests_per_minute: The most requests of a minute; None for no limit.
        parameters: What goes along with each request: temperature, max_tokens, ...
    """

    base_url: str
    model: str
    api_key: str | None = field(repr=False)
    concurrency: int
    max_retries: int
    timeout: float
    backoff: float
    longest_wait: float
    requests_per_minute: float | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote.

    Attributes:
        text: The message; empty where the model sent none.
        finish_reason: ``stop``, ``length`` or what else the server calls it.
        input_tokens: As the server counts them; None where it does not say.
        output_tokens: Likewise.
    """

    text: str
    finish_reason: str
    input_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A question that got no answer, and why.

    Attributes:
        reason: In words.
        retriable: Whether asking again may help.
        wait: Seconds that the server asks to wait first.
    """

    reason: str
    retriable: bool = False
    wait: float = 0.0


def read_api_key(variable: str | None) -> str | None:
    """Returns the API key from an environment variable; None where no variable is named.

    Raises:
        ConfigError: The variable is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"the environment variable {variable} holds no API key; set it, or name another one")
    return key


class ChatEndpoint:
    """Asks questions over HTTP, many at once.

    Args:
        settings: Where and how.
        rng: Spreads the retries, so that threads that failed together do not come back together.
    """

    def __init__(self, settings: EndpointSettings, *, rng: random.Random) -> None:
        self.settings = settings
        self._rng = rng
        self._stop = threading.Event()
        self._pacer = Pacer(settings.requests_per_minute, sleep=self._stop.wait)
        self._client: Any = None

    def ask_all(
        self,
        questions: Mapping[str, str],
        *,
        keep: Callable[[str, Answer], None],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Answer | Unanswered]:
        """Asks every question, at most ``concurrency`` at once.

        Args:
            questions: A key to the text of each question.
            keep: Called with each key and its answer as soon as it is there, from the thread that asked.
            on_progress: Called with how many questions are done, and how many there are.

        Raises:
            ConfigError: The server refuses the key, the address or the model.
            SotuneError: The account is exhausted, or none of the first questions was answered.
        """
        self._stop.clear()
        self._connect()

        def ask_one(key: str) -> Answer | Unanswered:
            try:
                outcome = self.ask(questions[key])
            except BaseException:
                self._stop.set()  # here, at once: no other thread must send another request
                raise
            if isinstance(outcome, Answer):  # kept even while the run stops: it was paid for
                keep(key, outcome)
            return outcome

        outcomes: dict[str, Answer | Unanswered] = {}
        alive = False
        with ThreadPoolExecutor(self.settings.concurrency, thread_name_prefix="judge") as pool:
            try:
                asked = {pool.submit(ask_one, key): key for key in questions}
                for future in as_completed(asked):
                    outcome = outcomes[asked[future]] = future.result()
                    alive = alive or isinstance(outcome, Answer)
                    if isinstance(outcome, Unanswered) and not alive and not self._stop.is_set():
                        self._require_life(len(outcomes), len(questions), outcome)
                    if on_progress is not None:
                        on_progress(len(outcomes), len(questions))
            except BaseException:
                self._stop.set()  # wakes those that wait for a retry
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return outcomes

    def ask(self, question: str) -> Answer | Unanswered:
        """Asks one question, again where a failure may pass.

        Raises:
            ConfigError: The server refuses the key, the address or the model.
            SotuneError: The account is exhausted.
        """
        self._connect()
        settings = self.settings
        failure = Unanswered("it was not asked")
        for attempt in range(settings.max_retries + 1):
            self._pacer.wait_turn()
            if self._stop.is_set():
                return Unanswered("the evaluation was stopped")
            outcome = self._ask_once(question)
            if isinstance(outcome, Answer) or not outcome.retriable:
                return outcome
            failure = outcome
            if outcome.wait > settings.longest_wait:
                return Unanswered(f"{outcome.reason}; the server asks to wait {outcome.wait:.0f} s")
            if attempt < settings.max_retries:
                self._pacer.hold(outcome.wait)
                doubled = min(settings.backoff * 2.0**attempt, settings.longest_wait)
                self._stop.wait(outcome.wait + doubled * self._rng.uniform(0.5, 1.0))
        return Unanswered(f"no answer after {settings.max_retries + 1} attempts: {failure.reason}")

    def _connect(self) -> None:
        if self._client is None:
            openai = _import_openai()
            self._client = openai.OpenAI(
                base_url=self.settings.base_url,
                api_key=self.settings.api_key or "none",  # the client insists on one; servers without keys ignore it
                timeout=self.settings.timeout,
                max_retries=0,
            )

    def _ask_once(self, question: str) -> Answer | Unanswered:
        import openai

        settings = self.settings
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=settings.model, messages=[{"role": "user", "content": question}], **settings.parameters
            )
        except openai.APITimeoutError:
            return Unanswered(f"no answer within {settings.timeout:g} s", retriable=True)
        except openai.APIConnectionError as error:
            return Unanswered(f"the connection failed ({type(error.__cause__).__name__})", retriable=True)
        except openai.APIStatusError as error:
            return self._failure(error)
        return _read_body(raw.http_response.content)

    def _failure(self, error: Any) -> Unanswered:
        """Returns what an HTTP status says, or raises where no further request can do better."""
        status, where = error.status_code, f"{self.settings.base_url} (model {self.settings.model})"
        if status in _FATAL:  # no word of the body: servers quote the key in it
            raise ConfigError(
                f"the judge at {where} {_FATAL[status]} (HTTP {status}); check judge_base_url, judge_model and the "
                f"variable that judge_key_env names. Answers so far are kept"
            ) from None
        if status == 429 and error.code == _EXHAUSTED_QUOTA:
            raise SotuneError(f"the judge at {where} says that the quota is used up; answers so far are kept") from None
        if status in _RETRIED or status >= 500:
            wait = read_retry_after(error.response.headers, now=time.time())
            return Unanswered(f"HTTP {status}", retriable=True, wait=wait)
        return Unanswered(f"HTTP {status}: {self._quoted(str(error.message))}")

    def _quoted(self, message: str) -> str:
        """Returns a server's own words, short, printable and without the key."""
        hidden = message.replace(self.settings.api_key, "…") if self.settings.api_key else message
        return "".join(c if c.isprintable() else " " for c in hidden)[:200]

    def _require_life(self, n_failed: int, n_questions: int, last: Unanswered) -> None:
        """Stops a run against a server that answers nothing, before every question has used up its retries."""
        if n_failed >= max(_MIN_FAILURES_TO_STOP, self.settings.concurrency) and n_failed < n_questions:
            raise SotuneError(
                f"the judge at {self.settings.base_url} answered none of the first {n_failed} of {n_questions} "
                f"questions ({last.reason}); check that it runs and that its settings suit it"
            )


def _read_body(body: bytes) -> Answer | Unanswered:
    """Reads a chat completion; whatever else a body holds is a failure of the server, to be asked again."""
    broken = Unanswered("the answer's body is no chat completion", retriable=True)
    try:
        content = json.loads(body)
        [choice, *_] = content["choices"]
        text, reason = choice["message"].get("content"), choice.get("finish_reason")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return broken
    if not isinstance(text, str | None) or not isinstance(reason, str | None):
        return broken
    usage = content.get("usage")
    counted = usage if isinstance(usage, dict) else {}
    return Answer(
        text or "",
        reason or "",
        input_tokens=_count(counted.get("prompt_tokens")),
        output_tokens=_count(counted.get("completion_tokens")),
    )


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _import_openai() -> Any:
    try:
        import openai
    except ImportError:
        raise ConfigError("a chat judge needs the openai client; install it with pip install 'sotune[judge]'") from None
    return openai
