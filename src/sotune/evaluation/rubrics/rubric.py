"""A rubric: a template file that asks one question about an answer, and the menu of replies that count."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from sotune.artifacts import sha256_text
from sotune.errors import ConfigError
from sotune.evaluation.protocol import MAX_RULE_CHARACTERS, EvalPrompt, Response
from sotune.evaluation.rubrics.fencing import Fence, make_fence
from sotune.evaluation.thoughts import answer_after_thoughts
from sotune.settings.yaml_text import parse_yaml, read_text
from sotune.sources.json_text import decode
from sotune.sources.rows import Flaw

RUBRICS = ("harmfulness", "helpfulness", "coherence", "refusal")
"""The rubrics that ship with the package."""

Value = str | int
_HEAD = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
_PLACEHOLDER = re.compile(r"\{\{ *(\w+) *\}\}")
_PLACEHOLDERS = ("exchange", "nonce", "canary", "form")
_HEAD_KEYS = {"menu", "score", "together"}


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """What was read from a judge's reply.

    Attributes:
        score: In [0, 1]; None where the reply cannot be counted.
        label: The value that was scored; empty where there is no score.
        details: Why there is no score, or what else the reply says.
    """

    score: float | None
    label: str
    details: str


@dataclass(frozen=True, slots=True)
class Rubric:
    """One question about an answer, as a template, and how the reply is read.

    Attributes:
        name: Names it in artifacts: the file's name without its ending.
        digest: SHA-256 of the file, in hexadecimal: its version.
        body: The template; ``{{exchange}}`` is the fenced text, ``{{canary}}`` what the reply must repeat,
            ``{{form}}`` the reply's form, ``{{nonce}}`` the fence's code.
        menu: The reply's keys, each with the values that it may have.
        scored: The key whose value is scored.
        scores: Its values' scores, in [0, 1].
        together: Values of two or more keys that only occur together, such as a verdict of harmless and a category
            of none. Empty where keys are independent.
    """

    name: str
    digest: str
    body: str
    menu: Mapping[str, tuple[Value, ...]]
    scored: str
    scores: Mapping[Value, float]
    together: Mapping[str, Value]

    @property
    def version(self) -> str:
        """Name and the first digits of the digest."""
        return f"{self.name}@{self.digest[:12]}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that a reply can lead to."""
        return tuple(str(value) for value in self.menu[self.scored])

    def fence(self, prompt: EvalPrompt, response: Response, *, secret: bytes) -> Fence:
        """Returns the marks of one judged answer under this rubric."""
        return make_fence(prompt.messages, response.text, purpose=self.digest, secret=secret)

    def render(self, prompt: EvalPrompt, response: Response, fence: Fence) -> str:
        """Returns what the judge reads: one pass over the template, so that nothing inside a value is expanded."""
        values = {
            "exchange": fence.enclose(prompt.messages, response.text),
            "nonce": fence.nonce,
            "canary": fence.canary,
            "form": self._form(fence.canary),
        }
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.body)

    def read(self, reply: str, *, canary: str) -> ReadAnswer:
        """Reads a reply: exactly one JSON object that has the expected keys, each value on its menu, and the canary.

        Models write much around the object: thoughts before it, a code block, a sentence, another key, capitals in a
        value. None of it can be mistaken, since only who read the question knows the canary. Two objects can.
        """
        found = _decode(reply)
        if isinstance(found, str):
            return ReadAnswer(None, "", found)
        if not found.keys() >= {"canary", *self.menu}:
            return ReadAnswer(None, "", f"the keys must be canary, {', '.join(self.menu)}")
        if found["canary"] != canary:
            return ReadAnswer(None, "", "the canary is wrong")
        for key, menu in self.menu.items():
            if (value := _pick(found[key], menu)) is None:
                return ReadAnswer(None, "", f"the value of {key} is off the menu")
            found[key] = value
        if len({found[key] == value for key, value in self.together.items()}) > 1:
            pairs = " and ".join(f"{key} {value}" for key, value in self.together.items())
            return ReadAnswer(None, "", f"it contradicts itself: {pairs} go together")
        value = found[self.scored]
        others = (f"{key}: {found[key]}" for key in self.menu if key != self.scored)
        return ReadAnswer(self.scores[value], str(value), "; ".join(others))

    def _form(self, canary: str) -> str:
        menus = (f'"{key}": {" | ".join(json.dumps(v) for v in menu)}' for key, menu in self.menu.items())
        return "{" + ", ".join((f'"canary": "{canary}"', *menus)) + "}"


def load_rubric(name_or_path: str) -> Rubric:
    """Loads a rubric that ships with the package, by name, or one of the user's own, by path.

    The file starts with a YAML head between two lines of ``---``: ``menu`` (key to list of values), ``score`` (one
    of these keys to the score of each of its values) and, where wanted, ``together``. The template follows.

    Raises:
        ConfigError: There is no such rubric, or the file is not one.
    """
    if name_or_path in RUBRICS:
        file = resources.files("sotune.evaluation.rubrics") / f"{name_or_path}.md"
        return parse_rubric(name_or_path, file.read_text(encoding="utf-8"))
    path = Path(name_or_path)
    try:
        text = read_text(path, "rubric")
    except ConfigError as error:
        raise ConfigError(
            f"rubric must be one of {', '.join(RUBRICS)}, or a template file in UTF-8. Got {name_or_path!r} ({error})"
        ) from None
    return parse_rubric(path.stem, text)


def parse_rubric(name: str, text: str) -> Rubric:
    """Reads a rubric from the text of its file.

    Raises:
        ConfigError: It is no rubric; the message says what it lacks.
    """
    parts = _HEAD.match(text.replace("\r\n", "\n"))
    head = parse_yaml(parts[1], f"rubric {name}: its head") if parts else None
    if parts is None or not isinstance(head, dict) or not {"menu", "score"} <= head.keys() <= _HEAD_KEYS:
        raise ConfigError(f"rubric {name}: it must start with a head between lines of ---, with menu and score")
    _check_body(name, parts[2])
    menu = _checked_menu(name, head["menu"])
    scored, scores = _checked_scores(name, head["score"], menu)
    together = head.get("together", {})
    if not isinstance(together, dict) or any(value not in menu.get(key, ()) for key, value in together.items()):
        raise ConfigError(f"rubric {name}: together must name values on the menu. Got {together!r}")
    return Rubric(name, sha256_text(text), parts[2].strip(), menu, scored, scores, together)


def _check_body(name: str, body: str) -> None:
    found = _PLACEHOLDER.findall(body)
    if unknown := sorted(set(found) - set(_PLACEHOLDERS)):
        raise ConfigError(f"rubric {name}: placeholders must be among {', '.join(_PLACEHOLDERS)}. Got {unknown[0]!r}")
    if found.count("exchange") != 1 or not {"canary", "form"} & set(found):
        raise ConfigError(f"rubric {name}: it needs {{{{exchange}}}} once, and {{{{form}}}} or {{{{canary}}}}")
    if "<<<" in body or ">>>" in body:
        raise ConfigError(f"rubric {name}: <<< and >>> mark the judged text and must not stand in the template")


def _checked_menu(name: str, menu: Any) -> dict[str, tuple[Value, ...]]:
    usable = isinstance(menu, dict) and all(
        isinstance(key, str) and key != "canary" and isinstance(values, list) and _are_values(values)
        for key, values in menu.items()
    )
    if not usable or not menu:
        raise ConfigError(
            f"rubric {name}: menu must map each key of the reply to a list of distinct texts or whole numbers "
            f"(quote yes, no, true and false)"
        )
    return {key: tuple(values) for key, values in menu.items()}


def _are_values(values: list[Any]) -> bool:
    return bool(values) and all(type(v) in (str, int) for v in values) and len({str(v) for v in values}) == len(values)


def _checked_scores(name: str, score: Any, menu: Mapping[str, tuple[Value, ...]]) -> tuple[str, dict[Value, float]]:
    if isinstance(score, dict) and len(score) == 1:
        [(key, scores)] = score.items()
        if isinstance(scores, dict) and key in menu and set(scores) == set(menu[key]) and _are_scores(scores):
            return key, {value: float(number) for value, number in scores.items()}
    raise ConfigError(f"rubric {name}: score must give each value of one key of the menu a number from 0 to 1")


def _are_scores(scores: Mapping[Value, Any]) -> bool:
    return all(type(number) in (int, float) and 0 <= number <= 1 for number in scores.values())


def _pick(given: Any, menu: Sequence[Value]) -> Value | None:
    """Returns the value of the menu that is given, capitals apart; None where there is none, or more than one."""
    exact = [value for value in menu if type(given) is type(value) and given == value]
    alike = [v for v in menu if isinstance(v, str) and isinstance(given, str) and v.casefold() == given.casefold()]
    found = exact or alike
    return found[0] if len(found) == 1 else None


def _decode(reply: str) -> dict[str, Any] | str:
    """Returns the one JSON object that a reply holds, or why it holds none."""
    if len(reply) > MAX_RULE_CHARACTERS:
        return f"the reply is not one JSON object: it has {len(reply)} characters, over {MAX_RULE_CHARACTERS}"
    text = answer_after_thoughts(reply)
    if text is None:
        return "the reply ends within its thoughts"
    if not text:
        return "the reply is empty"
    start, end = text.find("{"), text.rfind("}") + 1
    for part in (text, text[start:end]):
        try:
            found = decode(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
        return f"the reply is not one JSON object{f': {found.reason}' if isinstance(found, Flaw) else ''}"
    return "the reply is not one JSON object"
