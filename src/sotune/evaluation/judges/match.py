"""String match of task answers: rules that read an answer and hold it against the reference."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sotune.catalogue import MatchRule
from sotune.errors import ConfigError, DataError
from sotune.evaluation.judges.extraction import Number, normalize_answer, occurs, read_choice, read_label, read_number
from sotune.evaluation.protocol import UNREADABLE, AnswerJudge, EvalPrompt, Response, Verdict, unscored

_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, slots=True)
class MatchJudge(AnswerJudge):
    """Scores 1 where an answer matches the prompt's reference, else 0; the rule ``f1`` scores between the two.

    An answer in which no label, number or letter can be read scores 0, since the model was asked for one, and is
    labeled unreadable, so that it can be told from a wrong one; a prompt without a usable reference is unscored. A
    prompt whose ``meta`` names a rule as ``match`` is read by that one.

    Attributes:
        rule: ``label``: it answers with the reference's label, ``number`` with its number, ``choice`` with its letter,
            as ``extraction`` reads both. ``contains``: the reference occurs in it as whole words. ``exact``: the two
            have the same words in the same order, articles and punctuation left out. ``f1``: F1 of these words
            as two bags (both rules from SQuAD, Rajpurkar et al., arXiv 1606.05250, §6.1).

    Raises:
        ConfigError: The rule is unknown.
    """

    rule: MatchRule
    labels: tuple[str, ...] = ("correct", "partly correct", "wrong", UNREADABLE)

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
        if found is None and rule in _EXTRACTING:
            cut = "" if response.finished else ", which was cut off"
            return Verdict(prompt.id, 0.0, UNREADABLE, f"no {_READ_AS[rule]} can be read in the answer{cut}")
        score = _word_f1(str(found or ""), str(expected)) if rule == "f1" else float(found == expected)
        label = {1.0: "correct", 0.0: "wrong"}.get(score, "partly correct")
        return Verdict(prompt.id, score, label, f"read {str(found)!r}, expected {str(expected)!r}")


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
    return wanted if wanted and occurs(wanted, normalize_answer(text)) else None


_EXTRACTING: frozenset[MatchRule] = frozenset({"label", "number", "choice"})
_READ_AS: Mapping[MatchRule, str] = {
    "label": "label", "number": "number", "contains": "text", "choice": "choice", "exact": "text", "f1": "text",
}  # fmt: skip
MATCH_RULES: Mapping[MatchRule, Callable[[str, EvalPrompt], str | Number | None]] = {
    "label": read_label,
    "number": read_number,
    "contains": _read_contained,
    "choice": read_choice,
    "exact": read_words,
    "f1": read_words,
}
