"""The exceptions and warnings that sotune raises on purpose.

Every message says what is wrong, what was found, and what to do about it. The command line prints the
message without a traceback and leaves with the exception's ``exit_status``.
"""

from __future__ import annotations

import re

_SECRETS = (
    (re.compile(r"(?<=://)[^/\s@'\"]{1,500}@"), "…@"),  # user:password@ of an address
    (
        re.compile(
            r"\b(?:(?:sk|pk|rk)[-_]|(?:hf|ghp|gho|ghs|ghu|github_pat|gsk|r8)_|(?:xai|xoxb|xoxp|nvapi|pplx|glpat)-|"
            r"AKIA|ASIA|AIza|eyJ)(?=[A-Za-z_-]{0,60}[0-9])[A-Za-z0-9_-]{12,500}"
        ),
        "…",
    ),
    (re.compile(r"(?<=Bearer )[^\s'\"]{4,500}"), "…"),
)


class SotuneError(Exception):
    """The work failed for a reason that sotune understands. Base class of all its errors.

    What looks like a key or a password in the message is left out, whoever wrote it there.
    """

    exit_status = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class DataError(SotuneError):
    """A data file, a row or a set of representations cannot be used as it is."""

    exit_status = 2


class ConfigError(SotuneError):
    """A setting is unknown, out of range, or contradicts another."""

    exit_status = 2


class ArtifactError(SotuneError):
    """A run folder holds something that sotune did not write, or that was changed since."""

    exit_status = 2


class GateError(SotuneError):
    """The work was done, and what it found does not meet a requirement that the user named.

    Attributes:
        summary: What the command did, as it would have been returned.
    """

    exit_status = 3

    def __init__(self, message: str, summary: object) -> None:
        super().__init__(message)
        self.summary = summary

    def __reduce__(self) -> tuple[type[GateError], tuple[str, object]]:
        return GateError, (str(self), self.summary)


class ConvergenceWarning(UserWarning):
    """An iterative solver stopped before it reached its tolerance."""


def redacted(text: str) -> str:
    """Returns a text without the keys and passwords that can be told by their shape.

    >>> redacted("https://me:secret@host/v1 refuses sk-proj-4f9d1c77a0b2")
    'https://…@host/v1 refuses …'
    """
    for pattern, hidden in _SECRETS:
        text = pattern.sub(hidden, text)
    return text


def first_line(error: Exception) -> str:
    """Returns the first line of what an error of another library says, or else its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
