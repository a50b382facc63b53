"""How settings name a judge, ``NAME`` or ``NAME:ARGUMENT``, and what its class says so that it can be made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from sotune.evaluation.metrics import JUDGE_ROLES, JudgeRole
from sotune.evaluation.protocol import AnswerJudge, EvalPrompt, Judge, Response
from sotune.models import ModelSpec, model_fingerprint
from sotune.monitoring import Monitor
from sotune.settings import JudgeSettings, StageSettings

_Made = TypeVar("_Made")
_CHARACTERS_PER_TOKEN = 4  # of English text, roughly: for estimates alone


@dataclass(frozen=True, slots=True)
class Wanted:
    """A judge as settings ask for it.

    Attributes:
        role: What it is to judge.
        name: The name that it is registered under.
        argument: What stands after the colon; empty where nothing does.
        settings: All settings of judges.
    """

    role: JudgeRole
    name: str
    argument: str
    settings: JudgeSettings


class Workshop:
    """What the judges of one evaluation share.

    Args:
        settings: All settings of judges.
        answers: Folder where judges keep what they were told.
        monitor: Receives progress.
    """

    def __init__(self, settings: JudgeSettings, answers: Path, monitor: Monitor) -> None:
        self.settings = settings
        self.answers = Path(settings.judge_cache_dir) if settings.judge_cache_dir else answers
        self._monitor = monitor
        self._made: dict[Callable[..., Any], Any] = {}

    def shared(self, make: Callable[[Workshop], _Made]) -> _Made:
        """Returns what ``make`` makes, which is made once for all judges."""
        if make not in self._made:
            self._made[make] = make(self)
        found: _Made = self._made[make]
        return found

    def progress(self, label: str) -> Callable[[int, int], None]:
        """Returns a function that tells how many answers are judged, and how many there are."""
        return lambda done, total: self._monitor.progress(label, done, total)


def judge_model(wanted: Wanted) -> ModelSpec:
    """Returns the model that the argument names, as the settings have it loaded."""
    settings = wanted.settings
    return ModelSpec(wanted.argument, None, settings.dtype, settings.device, settings.trust_remote_code)


class NamedJudge(AnswerJudge):
    """Base of judges that settings can name; a judge of another package overrides what differs from these.

    Attributes:
        forms: How settings write it: ``name``, ``name:ARGUMENT`` or both, where the word in capitals says what the
            argument is. None for the name alone; empty for judges that only ``judges`` names.
        roles: What it can judge.
        Settings: The settings that its verdicts depend on, besides those of loading.
    """

    __slots__ = ()

    forms: ClassVar[tuple[str, ...] | None] = None
    roles: ClassVar[tuple[JudgeRole, ...]] = JUDGE_ROLES
    Settings: ClassVar[type[BaseModel]] = StageSettings

    @classmethod
    def check(cls, wanted: Wanted) -> None:
        """Finds what the judge is missing before any work is done.

        Raises:
            ConfigError: Something is missing; the message says what.
        """

    @classmethod
    def fingerprint(cls, wanted: Wanted) -> str:
        """Returns what the argument stands for, by its content: what verdicts depend on besides settings."""
        return wanted.argument

    @classmethod
    def make(cls, wanted: Wanted, workshop: Workshop) -> Judge:
        """Returns the judge, ready to work.

        Raises:
            ConfigError: The judge could not be loaded.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Usage:
    """What a judge's answers take.

    Attributes:
        n_items: Responses to judge.
        n_questions: Distinct questions among them: identical items are asked once.
        n_cached: How many of these are answered already.
        n_too_long: Responses that are too long to be asked about.
        input_tokens: Of the answered questions, as the server counted them.
        output_tokens: Likewise.
        n_uncounted: Answers whose tokens the server did not count.
        pending_characters: Length of the questions that are still to be asked.
    """

    n_items: int
    n_questions: int
    n_cached: int
    n_too_long: int
    input_tokens: int
    output_tokens: int
    n_uncounted: int
    pending_characters: int

    @property
    def n_calls(self) -> int:
        """Questions that are still to be asked."""
        return self.n_questions - self.n_cached

    @property
    def pending_input_tokens(self) -> int:
        """What the questions to be asked come to, by a rule of thumb of four characters a token."""
        return -(-self.pending_characters // _CHARACTERS_PER_TOKEN)


@runtime_checkable
class CountsUsage(Protocol):
    """A judge that can say beforehand what it would ask, and afterwards what that took."""

    def usage(self, prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> Usage:
        """Counts what the verdicts on some responses take; asks nothing."""
        ...


class LoadedJudge(NamedJudge):
    """Base of judges whose argument is a model that is loaded here."""

    __slots__ = ()

    roles: ClassVar[tuple[JudgeRole, ...]] = ("harm",)

    @classmethod
    def check(cls, wanted: Wanted) -> None:
        """Finds a model folder that does not exist.

        Raises:
            ConfigError: It does.
        """
        _ = judge_model(wanted).folder

    @classmethod
    def fingerprint(cls, wanted: Wanted) -> str:
        """Returns the model's fingerprint."""
        return model_fingerprint(judge_model(wanted))
