"""One chat endpoint that speaks OpenAI's protocol: a question goes in, an answer or the reason for none comes out."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from sotune.errors import ConfigError, SotuneError
from sotune.evaluation.batching import Progress
from sotune.evaluation.endpoint.pacing import Pacer
from sotune.settings import JudgeSettings

_FATAL = {
    401: "refused the API key",
    402: "asks for payment",
    403: "denies access",
    404: "does not know the address or the model",
}
_EXHAUSTED_QUOTA = "insufficient_quota"  # a 429 that no waiting mends
_BROKEN_BODY = 599  # no status of a server: stands for a body that is no chat completion
_MIN_FAILURES_TO_STOP = 8


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
    """

    reason: str


class _Stopped(Exception):
    """No further request may go out."""


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
    """Asks questions over HTTP, many at once; what is tried again, and when, is the ``openai`` client's matter.

    Args:
        settings: Where and how.
        api_key: Sent with each request and shown nowhere; None where the server wants none.

    Raises:
        ConfigError: The settings name no address or no model.
    """

    def __init__(self, settings: JudgeSettings, api_key: str | None) -> None:
        if settings.judge_base_url is None or settings.judge_model is None:
            raise ConfigError("a chat judge needs judge_base_url and judge_model")
        self.settings = settings
        self.url, self.model = settings.judge_base_url, settings.judge_model
        self._api_key = api_key
        self._stop = threading.Event()
        self._pacer = Pacer(settings.judge_requests_per_minute, sleep=self._stop.wait)
        self._client: Any = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What goes along with each request: temperature, max_tokens, ..."""
        chosen = self.settings
        parameters: dict[str, Any] = {chosen.judge_token_parameter: chosen.judge_max_tokens}
        if chosen.judge_temperature is not None:
            parameters["temperature"] = chosen.judge_temperature
        if chosen.judge_json_mode:
            parameters["response_format"] = {"type": "json_object"}
        return parameters

    def ask_all(
        self,
        questions: Mapping[str, str],
        *,
        keep: Callable[[str, Answer], None],
        on_progress: Progress | None = None,
    ) -> dict[str, Answer | Unanswered]:
        """Asks every question, at most ``judge_concurrency`` at once.

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
        with ThreadPoolExecutor(self.settings.judge_concurrency, thread_name_prefix="judge") as pool:
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
                self._stop.set()  # those that wait for a retry will find it set
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return outcomes

    def ask(self, question: str) -> Answer | Unanswered:
        """Asks one question, again where a failure may pass.

        Raises:
            ConfigError: The server refuses the key, the address or the model.
            SotuneError: The account is exhausted.
        """
        openai = self._connect()
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=self.model, messages=[{"role": "user", "content": question}], **self.parameters
            )
        except _Stopped:
            return Unanswered("the evaluation was stopped")
        except openai.APITimeoutError as error:
            return _gave_up(error, f"no answer within {self.settings.judge_timeout:g} s")
        except openai.APIConnectionError as error:
            return _gave_up(error, f"the connection failed ({type(error.__cause__).__name__})")
        except openai.APIStatusError as error:
            return self._failure(error)
        answer = _read_body(raw.http_response.content)
        assert answer is not None  # _check_body lets no other body pass
        return answer

    def _connect(self) -> Any:
        openai = _import_openai()
        if self._client is None:
            hooks = {"request": [self._await_turn], "response": [_check_body]}  # both at every attempt
            self._client = openai.OpenAI(
                base_url=self.url,
                api_key=self._api_key or "none",  # the client insists on one; servers without keys ignore it
                timeout=self.settings.judge_timeout,
                max_retries=self.settings.judge_max_retries,
                http_client=openai.DefaultHttpxClient(event_hooks=hooks),
            )
        return openai

    def _await_turn(self, request: Any) -> None:
        self._pacer.wait_turn()
        if self._stop.is_set():
            raise _Stopped

    def _failure(self, error: Any) -> Unanswered:
        """Returns what an HTTP status says, or raises where no further request can do better."""
        status, where = error.status_code, f"{self.url} (model {self.model})"
        if status in _FATAL:  # no word of the body: servers quote the key in it
            raise ConfigError(
                f"the judge at {where} {_FATAL[status]} (HTTP {status}); check judge_base_url, judge_model and the "
                f"variable that judge_key_env names. The answers so far are kept"
            ) from None
        if status == 429 and error.code == _EXHAUSTED_QUOTA:
            raise SotuneError(
                f"the judge at {where} says that the quota is used up; the answers so far are kept"
            ) from None
        if status == _BROKEN_BODY:
            return _gave_up(error, "the response is not a chat completion")
        asked = error.response.headers.get("retry-after", "")
        told = f"the server asks for a wait of {asked} s" if asked.isdecimal() else self._quoted(str(error.message))
        return _gave_up(error, f"HTTP {status}: {told}")

    def _quoted(self, message: str) -> str:
        """Returns a server's own words, short, printable and without the key."""
        hidden = message.replace(self._api_key, "…") if self._api_key else message
        return "".join(c if c.isprintable() else " " for c in hidden)[:200]

    def _require_life(self, n_failed: int, n_questions: int, last: Unanswered) -> None:
        """Stops a run against a server that answers nothing, before every question has used up its retries."""
        if n_failed >= max(_MIN_FAILURES_TO_STOP, self.settings.judge_concurrency) and n_failed < n_questions:
            raise SotuneError(
                f"the judge at {self.url} answered none of the first {n_failed} of {n_questions} "
                f"questions ({last.reason}); check that it runs and that its settings suit it"
            )


def _gave_up(error: Any, reason: str) -> Unanswered:
    n_retries = int(error.request.headers["x-stainless-retry-count"])
    return Unanswered(f"no answer after {n_retries + 1} attempts: {reason}" if n_retries else f"no answer: {reason}")


def _check_body(response: Any) -> None:
    """Tells the client to ask again where a body is no chat completion, and not to where the quota is used up."""
    body = response.read()
    if response.is_success and _read_body(body) is None:
        response.status_code = _BROKEN_BODY
    elif response.status_code == 429 and _EXHAUSTED_QUOTA.encode() in body:
        response.headers["x-should-retry"] = "false"


def _read_body(body: bytes) -> Answer | None:
    """Reads a chat completion; None for whatever else a body may hold."""
    try:
        content = json.loads(body)
        [choice, *_] = content["choices"]
        text, reason = choice["message"].get("content"), choice.get("finish_reason")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(text, str | None) or not isinstance(reason, str | None):
        return None
    usage = content.get("usage")
    counted = usage if isinstance(usage, dict) else {}
    return Answer(
        _clean(text),
        _clean(reason),
        input_tokens=_count(counted.get("prompt_tokens")),
        output_tokens=_count(counted.get("completion_tokens")),
    )


def _clean(text: str | None) -> str:
    """Returns a text without the lone surrogates that JSON can smuggle in and no file can hold."""
    return (text or "").encode(errors="replace").decode()


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _import_openai() -> Any:
    try:
        import openai
    except ImportError:
        raise ConfigError("a chat judge needs the openai client; install it with pip install 'sotune[judge]'") from None
    return openai
