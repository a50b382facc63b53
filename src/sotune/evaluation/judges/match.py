"""String match of task answers: rules that read an answer and hold it against the reference."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from sotune.catalogue import MatchRule
from sotune.errors import ConfigError, DataError
from sotune.evaluation.protocol import AnswerJudge, EvalPrompt, Response, Verdict, unscored

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])[-+]?\.\d+")
_ARTICLES = frozenset({"a", "an", "the"})
_LETTER = r"(?:([A-Z])(?![A-Za-z'’])|([a-z])[)\].])"  # a small letter counts only when it is marked as one
_ANNOUNCED = re.compile(rf"\b(?i:answer|choice)\b(?:\s*(?:is|was|:|=))*\s*[\"'(\[*\s]*{_LETTER}")
_LEADING = re.compile(r"^[\s\"'(\[*]*(?:([A-Z])(?:[)\].:,*\"']|\s*$|\s*\n)|([a-z])[)\]])")


@dataclass(frozen=True, slots=True)
class MatchJudge(AnswerJudge):
    """Scores 1 where an answer matches the prompt's reference, else 0; the rule ``f1`` scores between the two.

    An answer from which nothing can be read is wrong, since the model was asked for an answer; a prompt without a
    usable reference is unscored. A prompt whose ``meta`` names a rule as ``match`` is read by that one.

    Attributes:
        rule: ``label``: the answer is the reference, or, where ``meta["choices"]`` lists the labels, it names that
            label and no other. ``number``: the last number is the reference's last number. ``contains``: the
            reference occurs in it as whole words. ``choice``: it picks the letter of the reference. ``exact``: the
            two have the same words in the same order, articles and punctuation left out. ``f1``: F1 of these words
            as two bags (both rules from SQuAD, Rajpurkar et al., arXiv 1606.05250, §6.1).

    Raises:
        ConfigError: The rule is unknown.
    """

    rule: MatchRule
    labels: tuple[str, ...] = ("correct", "partly correct", "wrong")

    def __post_init__(self) -> None:
        if self.rule not in MATCH_RULES:
            raise ConfigError(f"match rule must be one of {', '.join(MATCH_RULES)}. Got {self.rule!r}")

    @property
    def name(self) -> str:
        """Names the judge in artifacts and reports."""
        return f"match-{self.rule}"

    def verdict(self, prompt: EvalPrompt, response: Response) -> Verdict:
        """Returns the verdict on one answer."""
        rule = prompt.meta.get("match", self.rule)
        if rule not in MATCH_RULES:
            raise DataError(
                f"prompt {prompt.id!r} asks for the match rule {rule!r}; there are {', '.join(MATCH_RULES)}"
            )
        read = MATCH_RULES[rule]
        if not (prompt.reference or "").strip():
            return unscored(prompt.id, "the prompt has no reference")
        expected = read(prompt.reference or "", prompt)
        if expected is None:
            return unscored(prompt.id, f"the reference {prompt.reference!r} is no {_READ_AS[rule]}")
        found = read(response.text, prompt)
        score = _word_f1(str(found or ""), str(expected)) if rule == "f1" else float(found == expected)
        label = {1.0: "correct", 0.0: "wrong"}.get(score, "partly correct")
        return Verdict(prompt.id, score, label, f"read {found!r}, expected {expected!r}")


def normalize_answer(text: str) -> str:
    """Returns a text in lower case, with compatibility characters folded and outer punctuation and space gone."""
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.strip(" .,;:!?\"'`*()[]“”‘’")


def read_label(text: str, prompt: EvalPrompt) -> str | None:
    """Reads a class label: the only one of ``meta["choices"]`` that the text names, or else the whole text."""
    choices = [normalize_answer(str(choice)) for choice in prompt.meta.get("choices", ())]
    answer = normalize_answer(text)
    if not choices or answer in choices:
        return answer or None
    named = {choice for choice in choices if _occurs(choice, answer)}
    # "not spam" names "spam" too: a label inside a longer one that was named does not count.
    outer = {choice for choice in named if not any(choice != other and _occurs(choice, other) for other in named)}
    return outer.pop() if len(outer) == 1 else None


def read_number(text: str, prompt: EvalPrompt) -> Decimal | None:
    """Reads the last number of a text; 1,000.0 and 1000 are the same number."""
    plain = unicodedata.normalize("NFKC", text).replace("−", "-").replace("–", "-")
    found = _NUMBER.findall(plain)
    return Decimal(found[-1].replace(",", "")) if found else None


def read_choice(text: str, prompt: EvalPrompt) -> str | None:
    """Reads the letter of a multiple-choice answer.

    In this order: the last letter that the text announces ("the answer is B"), a letter at its start ("B)", "(b).",
    or alone), the letter of the only one of ``meta["choices"]`` that it names.
    """
    if announced := _ANNOUNCED.findall(text):
        return "".join(announced[-1]).upper()
    if len(text.strip()) == 1 and text.strip().isalpha():
        return text.strip().upper()
    if leading := _LEADING.match(text):
        return "".join(leading.groups(default="")).upper()
    named = read_label(text, prompt) if prompt.meta.get("choices") else None
    choices = [normalize_answer(str(choice)) for choice in prompt.meta.get("choices", ())]
    return chr(ord("A") + choices.index(named)) if named in choices else None


def read_words(text: str, prompt: EvalPrompt) -> str | None:
    """Reads the words of a text, in lower case, without English articles and without punctuation."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    visible = "".join(c for c in plain if not unicodedata.category(c).startswith("P"))
    return " ".join(word for word in visible.split() if word not in _ARTICLES) or None


def _word_f1(found: str, expected: str) -> float:
    """Computes 2PR/(P + R) of two bags of words, P the share of the found words that are expected, R the converse."""
    found_words, expected_words = Counter(found.split()), Counter(expected.split())
    shared = (found_words & expected_words).total()
    return 2 * shared / (found_words.total() + expected_words.total())


def _read_contained(text: str, prompt: EvalPrompt) -> str | None:
    """Reads the reference where it occurs in the text, so that the two compare equal."""
    wanted = normalize_answer(prompt.reference or "")
    return wanted if wanted and _occurs(wanted, normalize_answer(text)) else None


def _occurs(needle: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(needle)}(?!\w)", text) is not None


_READ_AS: Mapping[MatchRule, str] = {
    "label": "label", "number": "number", "contains": "text", "choice": "choice", "exact": "text", "f1": "text",
}  # fmt: skip
MATCH_RULES: Mapping[MatchRule, Callable[[str, EvalPrompt], str | Decimal | None]] = {
    "label": read_label,
    "number": read_number,
    "contains": _read_contained,
    "choice": read_choice,
    "exact": read_words,
    "f1": read_words,
}
