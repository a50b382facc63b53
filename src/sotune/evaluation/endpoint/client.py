"""One chat endpoint that speaks OpenAI's protocol: a question goes in, an answer or the reason for none comes out."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
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
_MOST_BYTES = 8 * 2**20  # of a reply; a long one has some 100 kB
_IN_BODY = "x-error-in-body"  # marks a success whose body is an error
_STATUS_OF_WORD = {"quota": 429, "rate_limit": 429, "overloaded": 503, "unavailable": 503, "server_error": 500}
_REMEDIES = {  # of parameters that some models refuse
    "max_tokens": "judge_token_parameter: max_completion_tokens",
    "max_completion_tokens": "judge_token_parameter: max_tokens",
    "temperature": "judge_temperature: none",
    "response_format": "judge_json_mode: false",
}
_REFUSED_PARAMETER = re.compile(
    r"(?i)unsupported|not support|unknown|unrecognized|not permitted|not allowed|extra input"
)
_MIN_FAILURES_TO_STOP = 8
_OPENAI_HOST, _OPENAI_HEADERS = "api.openai.com", ("openai-organization", "openai-project")


Question = str | Sequence[Mapping[str, Any]]
"""What is asked: a text, or the turns of a conversation."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote.

    Attributes:
        text: The message, thoughts that the server sends apart left out; empty where the model sent none.
        finish_reason: ``stop``, ``length``, ``content_filter`` or what else the server calls it; ``refusal`` where the
            message says that it is one.
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
        who: Who is asked, ``judge`` or ``server``, for messages; the settings to be changed begin with it.
        extra: What goes along with each request besides the parameters, beyond OpenAI's protocol.

    Raises:
        ConfigError: The settings name no address or no model.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        api_key: str | None,
        *,
        who: str = "judge",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if settings.judge_base_url is None or settings.judge_model is None:
            raise ConfigError("a chat judge needs judge_base_url and judge_model")
        self.settings = settings
        self.url, self.model = settings.judge_base_url, settings.judge_model
        self._api_key, self._who, self._extra = api_key, who, dict(extra or {})
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
        questions: Mapping[str, Question],
        *,
        keep: Callable[[str, Answer], None],
        on_progress: Progress | None = None,
        all_needed: bool = False,
    ) -> dict[str, Answer | Unanswered]:
        """Asks every question, at most ``judge_concurrency`` at once.

        Args:
            questions: A key to the text of each question.
            keep: Called with each key and its answer as soon as it is there, from the thread that asked.
            on_progress: Called with how many questions are done, and how many there are.
            all_needed: Whether a question without an answer, after all retries, ends it.

        Raises:
            ConfigError: The server refuses the key, the address, the model or a parameter.
            SotuneError: The account is exhausted, none of the first questions was answered, or one was not where all
                are needed.
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
                    if isinstance(outcome, Unanswered) and not self._stop.is_set():
                        if all_needed:
                            raise SotuneError(
                                f"the {self._who} at {self.url} (model {self.model}) left a question unanswered "
                                f"({outcome.reason}); see to it and run again: the answers so far are kept"
                            )
                        if not alive:
                            self._require_life(len(outcomes), len(questions), outcome)
                    if on_progress is not None:
                        on_progress(len(outcomes), len(questions))
            except BaseException:
                self._stop.set()  # those that wait for a retry will find it set
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return outcomes

    def ask(self, question: Question) -> Answer | Unanswered:
        """Asks one question, again where a failure may pass.

        Raises:
            ConfigError: The server refuses the key, the address, the model or a parameter.
            SotuneError: The account is exhausted.
        """
        openai = self._connect()
        turns = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=self.model, messages=turns, **self.parameters, extra_body=self._extra or None
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
        return replace(
            answer, text=self._without_key(answer.text), finish_reason=self._without_key(answer.finish_reason)
        )

    def _without_key(self, text: str) -> str:
        """Returns a server's words without the key, which some repeat."""
        return text.replace(self._api_key, "…") if self._api_key else text

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
        if request.url.host != _OPENAI_HOST:  # the client sends them to whatever address it is given
            for name in _OPENAI_HEADERS:
                request.headers.pop(name, None)
        self._pacer.wait_turn()
        if self._stop.is_set():
            raise _Stopped

    def _failure(self, error: Any) -> Answer | Unanswered:
        """Returns what an HTTP status says, or raises where no further request can do better."""
        status, where = error.status_code, f"{self.url} (model {self.model})"
        in_body = _IN_BODY in error.response.headers
        told, words = f"error {status} in the response" if in_body else f"HTTP {status}", self._words(error)
        if status in _FATAL:
            quoted = "" if status in (401, 403) else f": {words}"  # there servers quote the key
            raise ConfigError(
                f"the {self._who} at {where} {_FATAL[status]} ({told}{quoted}); check {self._who}_base_url, "
                f"{self._who}_model{'s' * (self._who == 'server')} and the variable that {self._who}_key_env names. "
                f"The answers so far are kept"
            ) from None
        if error.code == "content_filter":
            return Answer("", "content_filter", None, None)
        self._require_parameters(status, words, where)
        if status == 429 and error.code == _EXHAUSTED_QUOTA:
            raise SotuneError(
                f"the {self._who} at {where} says that the quota is used up; the answers so far are kept"
            ) from None
        if status == _BROKEN_BODY:
            return _gave_up(error, "the response is not a chat completion" + _or_too_long(error.response))
        asked = error.response.headers.get("retry-after", "")
        return _gave_up(error, f"{told}: {f'the server asks for a wait of {asked} s' if asked.isdecimal() else words}")

    def _require_parameters(self, status: int, words: str, where: str) -> None:
        """Stops where the server refuses a parameter, which all questions have."""
        refused = [name for name in self.parameters if re.search(rf"\b{name}\b", words)]
        if status in (400, 422) and refused and _REFUSED_PARAMETER.search(words):
            remedy = f"set {_REMEDIES[refused[0]]}" if self._who == "judge" else "serve the model with another program"
            raise ConfigError(
                f"the {self._who} at {where} refuses {refused[0]} (HTTP {status}: {words}); {remedy}"
            ) from None

    def _words(self, error: Any) -> str:
        """Returns what the server says about an error."""
        fields = error.body if isinstance(error.body, dict) else {}
        about = fields.get("metadata")  # routers keep the words of the model's own server there
        told = [fields.get("message"), about.get("raw") if isinstance(about, dict) else None]
        words = ": ".join(part for part in told if isinstance(part, str) and part)
        return self._quoted(words or str(error.message))

    def _quoted(self, message: str) -> str:
        """Returns a server's own words, short, printable and without the key."""
        return "".join(c if c.isprintable() else " " for c in self._without_key(message))[:200]

    def _require_life(self, n_failed: int, n_questions: int, last: Unanswered) -> None:
        """Stops a run against a server that answers nothing, before every question has used up its retries."""
        if n_failed >= max(_MIN_FAILURES_TO_STOP, self.settings.judge_concurrency) and n_failed < n_questions:
            raise SotuneError(
                f"the {self._who} at {self.url} answered none of the first {n_failed} of {n_questions} "
                f"questions ({last.reason}); check that it runs and that its settings suit it"
            )


def _gave_up(error: Any, reason: str) -> Unanswered:
    n_retries = int(error.request.headers["x-stainless-retry-count"])
    return Unanswered(f"no answer after {n_retries + 1} attempts: {reason}" if n_retries else f"no answer: {reason}")


def _check_body(response: Any) -> None:
    """Gives a success that is no answer the status of the error that it holds, so that the client asks again or not.

    A body that is neither is worth another try; a used-up quota is not.
    """
    body = _read_bounded(response)
    if response.is_success and _read_body(body) is None:
        status = _status_in(body)
        response.status_code = status or _BROKEN_BODY
        response.headers.update({_IN_BODY: "yes"} if status else {})
    if response.status_code == 429 and _EXHAUSTED_QUOTA.encode() in body:
        response.headers["x-should-retry"] = "false"


def _read_bounded(response: Any) -> bytes:
    """Reads a body as far as a reply may be long; of a longer one nothing is kept, and the connection is closed."""
    read = bytearray()
    for piece in response.iter_bytes(64 * 1024):
        read += piece
        if len(read) > _MOST_BYTES:
            response.close()
            response.extensions["too_long"] = True
            read.clear()
            break
    response._content = bytes(read)  # what read() would have left there: it has no bound
    return bytes(read)


def _or_too_long(response: Any) -> str:
    too_long = response.extensions.get("too_long")
    return f": it is over {_MOST_BYTES // 2**20} MiB" if too_long else ""


def _status_in(body: bytes) -> int | None:
    """Returns the HTTP status that an error in a body stands for: 400 where it does not say; None without an error."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    fields = error if isinstance(error, dict) else {}
    names = [str(fields.get(name)) for name in ("code", "status", "type")]
    numbers = [int(name) for name in names if re.fullmatch("[45][0-9][0-9]", name)]
    meant = [status for word, status in _STATUS_OF_WORD.items() if any(word in name.casefold() for name in names)]
    return [*numbers, *meant, 400][0] if error else None


def _read_body(body: bytes) -> Answer | None:
    """Reads a chat completion; None for whatever else a body may hold."""
    try:
        content = json.loads(body)
        if not content["choices"] and content.get("prompt_filter_results"):
            return Answer("", "content_filter", None, None)
        [choice, *_] = content["choices"]
        message, reason = choice["message"], choice.get("finish_reason")
        text, refusal = _text_of(message.get("content")), message.get("refusal")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(reason, str | None):
        return None
    if isinstance(refusal, str) and refusal and not text:
        text, reason = refusal, "refusal"
    elif not text and (message.get("reasoning_content") or message.get("reasoning")):
        text = "<think>"  # what such a reply is without a parser on the server: thoughts that did not end
    usage = content.get("usage")
    counted = usage if isinstance(usage, dict) else {}
    return Answer(
        _clean(text),
        _clean(reason),
        input_tokens=_count(counted.get("prompt_tokens")),
        output_tokens=_count(counted.get("completion_tokens")),
    )


def _text_of(content: Any) -> str:
    """Returns the text of a message's content: itself, or of a list of parts those that are text.

    Raises:
        TypeError: It is neither.
    """
    if content is None or isinstance(content, str):
        return content or ""
    texts = [part["text"] for part in content if part.get("type", "text") in ("text", "output_text")]
    return "".join(texts)


def _clean(text: str | None) -> str:
    """Returns a text without the lone surrogates that JSON can smuggle in and no file can hold."""
    return (text or "").encode(errors="replace").decode()


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _import_openai() -> Any:
    try:
        import openai
    except ImportError:
        raise ConfigError(
            "chat judges and servers need the openai client; install it with pip install 'sotune[judge]'"
        ) from None
    return openai
