"""The answer in what a model writes: a number, a letter or a class label, wherever and however it says so.

The more plainly an answer is marked, the more it counts: a box or ``####``, then words that announce it, then bold
type, and only then the place where it stands. What could be read in two ways is not read at all: an answer that is
called right must be right on purpose.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from sotune.evaluation.protocol import EvalPrompt

Number = Decimal | Fraction

_BOXED = re.compile(r"\\?(?:boxed|fbox)\s?\{((?:[^{}]|\{[^{}]*\})*)\}")
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_CLAUSE_END = re.compile(r"\n|[.;!](?=\s|\Z)|\?")
_FILLER = re.compile(r"([\s\"'(\[*$)\]])\1{24,}")  # several patterns in a row may each take what fills a text
_MAX_FILLER = 24
_MAX_CLAUSE = 200  # characters that can follow what announces an answer

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_LATEX = (
    (re.compile(r"\\[dt]?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}"), r"\1/\2"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\(?:times|cdot)\b|×"), "*"),
    (re.compile(r"\\(?:left|right|displaystyle)\b|\\[,;:! ()\[\]]|(?<=\\)\$|\\(?=[%$])"), ""),
)
_RUN = re.compile(  # all that stands together as one number, so that no part of it is read for the whole
    r"(?<![^\W_])(?<![^\W_][-.^])(?<!\^-)(?<!\^\{)(?<!\^\{-)"
    r"(?P<root>√\s?|\\sqrt\{?)?(?P<sign>-|(?:minus|negative)\s)?(?:[$€£¥₹]\s?)?(?P<inner>-)?"
    r"(?P<run>\.?\d(?:(?: (?=\d{3}(?!\d))|\^\{?-?|\*\*|[.,'’/:*+\-–]|e[+-]?)?\d)*"
    r"(?:\s?[*x]\s?10\s?\^\{?-?\d{1,3}\}?)?)"
    r"(?: (?P<part>\d{1,6}/\d{1,6})(?![\d/]))?(?:\s?(?P<scale>k|(?<=\s)(?:thousand|million|billion|trillion))\b)?"
    r"(?P<factor>\s?(?:√|π|\\sqrt|\\pi\b))?",
    re.IGNORECASE,
)
_SCALES = {"k": 10**3, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MAX_RUN = 60  # characters
_PLAIN = re.compile(r"(\d*\.?\d+)(?:e([+-]?\d{1,3}))?", re.IGNORECASE)
_GROUPED = re.compile(r"(?:[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+|(?:['’]\d{3})+)|\d{1,2}(?:,\d{2})+,\d{3})(?:\.\d+)?")
_DECIMAL_COMMA = re.compile(r"(?:\d{1,3}(?: \d{3})+|\d{1,3}(?:\.\d{3})+|\d+),(?:\d{1,2}|\d{4,})|\d{1,3}(?:\.\d{3}){2,}")
_SCIENTIFIC = re.compile(r"(.+?)\s?[*x]\s?10\s?\^\{?(-?\d{1,3})\}?", re.IGNORECASE)
_HASHED = re.compile(r"^####[ \t]*([^\n]*\d[^\n]{0,30})$", re.MULTILINE)
_ANNOUNCED = re.compile(
    r"\banswer\b[*_]*(?: (?!is\b|was\b)[^\n.:=?]{0,60}?)?(?:\s*(?:\bis\b|\bwas\b|[:=→-]))+[\s*_\"']*", re.IGNORECASE
)
_DOUBT = re.compile(r"\W*(?:between|either|neither|from|one of)\b", re.IGNORECASE)
_UNDECIDED = re.compile(  # 41 or 42, 5 + 3, 3 more than 40
    r"(?:\W*(?:or|to|and)\W+|\s*(?:[-+*/÷]|x|times|plus|minus|divided by)\s*)[$€£]?\d|\s(?:more|less|fewer) than\b",
    re.IGNORECASE,
)
_DENIED = re.compile(r"(?:n't|\bnot|\bcannot|\bnever)\s+(?:be\s+|equal\s+(?:to\s+)?)?[$€£*\s]*\Z", re.IGNORECASE)
_NO_WORDS = re.compile(
    r"\W|\b(?:about|approximately|around|roughly|exactly|just|only|minus|negative|[a-z])\b", re.IGNORECASE
)
_OPERAND = re.compile(r"\d\)?\s*[-+*/÷]\s*[$€£]?\Z")

_LETTER = r"(?:([A-Z])(?![A-Za-z'’])|([a-z])(?=[)\].]|[\"'*\s]*\Z|[\"'*]*\n))"  # small ones only where marked
_NAMES_LETTER = re.compile(
    r"(?i:\b(?:answer|choice)\b[*_]*(?:\s*(?:is|was|[:=→–-]))*"
    r"|\b(?:it is|it's|so|thus|hence|therefore|choose|pick|select)\b,?"
    r"|\b(?:correct|right|best)\s+(?:\w+\s+){0,2}?(?:is|was|:))"
    rf"\s*(?i:(?:the\s+)?(?:option|choice|letter)\b)?:?\s*[\"'(\[*$\s]*{_LETTER}"
)
_IS_RIGHT = re.compile(r"\b([A-Z])[)\]*\"']*\s+is\s+(?:the\s+)?(?:correct|right|best|answer)\b")
_OPTION = re.compile(
    r"(?<!\bnot )(?<!\bout )\b(?:option|choice|letter)\s+[\"'(\[*]*([A-Za-z])\b"
    r"(?!['’]|\W+is\s+(?:\w+ly\s+)?(?:wrong|incorrect|false|not)\b)",
    re.IGNORECASE,
)
_LEADING = re.compile(r"[\s\"'(\[*]*(?:([A-Z])(?:[)\].:,*\"']|\s*\Z|\s*\n|\s+because\b)|([a-z])(?:[)\]]|\.?\s*\Z))")
_LAST_LINE = re.compile(r"\n[\s\"'(\[*]*([A-Z])[)\].*\"'\s]*\Z")
_OR_LETTER = re.compile(
    r"[)\]*\"'\s]*(?:,|/|\bor\b|\band\b)[\s(\[*\"']*(?:option\s+)?(?:([A-Z])(?![A-Za-z'’])|([a-z])[)\]])"
)
_LISTED = re.compile(r"(?:^|\s)[(\[*]*([A-Z])[)\].:]")
_N_LETTERS = 10  # of a prompt that does not list its choices

_BEFORE_NEGATED = re.compile(
    r"\b(?:not|no|never|hardly|(?:any|every)thing but|neither|nor|isn't|wasn't|aren't|than|unlike|instead of|except)"
    r"[^\w,;.:\n]+(?:\w+[^\w,;.:\n]+){0,3}\Z"
)
_NAMES_LABEL = re.compile(
    r"(?:\b(?:answer|label|category|class|topic|sentiment|verdict|classification|is|as|to|under|into|be|so|thus|hence|"
    r"therefore|say)\b|:|=|->|→)[\s\"'(*\[]*(?:(?:is|as|to|the|a|an|clearly|definitely|most likely|likely|about)\s+)*"
    r"[\"'(*\[]*\Z"
)
_AFTER_LABEL = re.compile(
    r"[\"')*\]\s]*(?:[.,;:!)\n]|\Z|\b(?:because|since|as|category|class|label|topic|section|news)\b)"
)
_LEADING_LABEL = re.compile(r"[\"'*)\] ]*(?:[:.\-–\n]|\Z)")
_ASKED_LABEL = re.compile(r"[\"')*\]]*\?\s*\S")
_LABEL_AND_LABEL = re.compile(r"[\s,/&*\"']*(?:\b(?:or|and)\b[\s*\"']*)?")
_MAX_BARE_WORDS = 6  # of an answer that holds a label and does not announce it


def read_number(text: str, prompt: EvalPrompt) -> Number | None:
    """Reads the number that a text answers with; 1,000.0, 1 000 and 1000 are the same, and so are ½ and 0.5.

    In this order: in a box, an answer tag or after ``####``; the first number after "the answer is" (or the one after
    its last ``=``), but not where an explanation begins there; a single one in bold on the last line; the last in the
    text. A number counts as a whole or not at all: of 3:30, 10–12, 2^5, √2 or 1.2.3 no part is read.
    """
    plain = _plain(_squeezed(text))
    # What a model goes on to write after #### is a question of its own.
    if marked := [*_HASHED.findall(plain)[:1], *_TAGGED.findall(plain), *_BOXED.findall(plain)]:
        found = _numbers(marked[-1].rpartition("=")[2])
        return found[0] if len(found) == 1 else None
    for announced in _announced_numbers(plain):
        return announced
    last_line = plain.strip().rpartition("\n")[2]
    bold = [_numbers(span) for span in _BOLD.findall(last_line)]
    runs = list(_RUN.finditer(plain))
    before = plain[: runs[-1].start()][-20:] if runs else ""
    if not runs or _DENIED.search(before):
        return None
    if bold and len(bold[-1]) == 1:
        return bold[-1][0]
    return None if _OPERAND.search(before) else _value(runs[-1])


def read_choice(text: str, prompt: EvalPrompt) -> str | None:
    """Reads the letter of a multiple-choice answer.

    In this order: in a box or tag; the last letter that the text announces ("the answer is B", "so (b)"); at its start
    or alone on its last line; in bold; the only option that it speaks of; the letter of the only one of
    ``meta["choices"]`` that it names.
    """
    choices = _choices(prompt)
    letters = [chr(ord("A") + place) for place in range(len(choices) or _N_LETTERS)]
    plain = _squeezed(unicodedata.normalize("NFKC", text))
    if found := next((letter for part in (_marked(plain), plain) for letter in _letters(part)), None):
        return found if found in letters else None
    named = read_label(plain, prompt) if choices else None
    return letters[choices.index(named)] if named in choices else None


def read_label(text: str, prompt: EvalPrompt) -> str | None:
    """Reads a class label: the one of ``meta["choices"]`` that a text answers with, or without choices the whole text.

    A label is an answer where it is all that a text, its box, its first or its last line holds; where it is the only
    one that the text names, and is announced or stands in a few words; and where it is the last that is announced.
    What is mentioned by the way, or denied, is no answer.
    """
    text = _squeezed(text)
    choices, said = _choices(prompt), _marked(text) or text
    answer = normalize_answer(said)
    if not choices or answer in choices:
        return answer or None
    lines = [line for line in said.splitlines() if line.strip()]
    for line in (lines[-1:] + lines[:1]) if len(lines) > 1 else []:
        if (alone := normalize_answer(line)) in choices:
            return alone
    return _named_label("\n".join(" ".join(line.casefold().split()) for line in lines), choices)


def normalize_answer(text: str) -> str:
    """Returns a text in lower case, with compatibility characters folded and outer punctuation and space gone."""
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.strip(" .,;:!?\"'`*()[]{}$“”‘’")


def occurs(needle: str, text: str) -> bool:
    """Tells whether a text holds another as whole words."""
    return re.search(rf"(?<!\w){re.escape(needle)}(?!\w)", text) is not None


def _choices(prompt: EvalPrompt) -> list[str]:
    return [normalize_answer(str(choice)) for choice in prompt.meta.get("choices", ())]


def _marked(text: str) -> str:
    """Returns what stands in the last answer tag or box; empty without any."""
    found = [*_TAGGED.findall(text), *map(_without_latex, _BOXED.findall(text))]
    return found[-1].strip() if found else ""


def _named_label(text: str, choices: Sequence[str]) -> str | None:
    mentions = sorted(
        (found.start(), -found.end(), choice)
        for choice in choices
        for found in re.finditer(rf"(?<!\w){re.escape(choice)}(?!\w)", text)
    )
    outer, reached = list[tuple[int, int, str]](), 0
    for start, end, choice in mentions:  # "not spam" names "spam" too: what lies inside a longer label does not count
        if -end > reached:
            outer.append((start, -end, choice))
            reached = -end
    before = {m: text[max(0, m[0] - 60) : m[0]] for m in outer}
    meant = [m for m in outer if not _BEFORE_NEGATED.search(before[m]) and not _ASKED_LABEL.match(text, m[1])]
    announced = [m for m in meant if _NAMES_LABEL.search(before[m])]
    listed = {a for a, b in pairwise(outer) if a[2] != b[2] and _LABEL_AND_LABEL.fullmatch(text, a[1], b[0])}
    closed = [m for m in announced if m not in listed and _AFTER_LABEL.match(text, m[1])]
    labels = {choice for _, _, choice in outer}
    leads = any(not text[:start].strip(" \"'*([") and _LEADING_LABEL.match(text, end) for start, end, _ in meant[:1])
    if len(labels) == 1 and meant and (announced or leads or len(text.split()) <= _MAX_BARE_WORDS):
        return meant[-1][2]
    return closed[-1][2] if len(labels) > 1 and closed else None


def _letters(text: str) -> Iterator[str]:
    """Yields the letter that each way of saying it gives, the plainest first; ``?`` where it gives two."""
    announced = [found for found in _NAMES_LETTER.finditer(text) if not _asked(text, found.end())]
    if announced:
        last = announced[-1]
        letter = (last[1] or last[2]).upper()
        yield "?" if _goes_on(text, last.end(), letter) else letter
    if right := {found.upper() for found in _IS_RIGHT.findall(text)}:
        yield right.pop() if len(right) == 1 else "?"
    if len(text.strip()) == 1:
        yield text.strip().upper()
    if leading := _LEADING.match(text):
        letter = leading[1] or leading[2]
        lists = len(set(_LISTED.findall(text))) > 2  # it repeats the options
        goes_on = _goes_on(text, leading.start() + leading.group().index(letter) + 1, letter)
        yield "?" if lists or goes_on else letter.upper()
    if last_line := _LAST_LINE.search(text[-40:]):
        yield last_line[1]
    bold = [normalize_answer(span).upper() for span in _BOLD.findall(text)]
    if len(single := {span for span in bold if len(span) == 1}) == 1:
        yield single.pop()
    options = {found.upper() for found in _OPTION.findall(text)}
    if len(options) == 1:
        yield options.pop()


def _goes_on(text: str, end: int, letter: str) -> bool:
    """Tells whether another letter follows one that ends here: A or B."""
    other = _OR_LETTER.match(text, end)
    return other is not None and (other[1] or other[2]).upper() != letter.upper()


def _asked(text: str, end: int) -> bool:
    """Tells whether what ends here is a question."""
    return text[end : end + 3].lstrip(")]*\"' ").startswith("?")


def _announced_numbers(text: str) -> Iterator[Number | None]:
    """Yields the number of each announcement, the last one first; None where it gives no single one."""
    for found in reversed(list(_ANNOUNCED.finditer(text))):
        rest = text[found.end() : found.end() + _MAX_CLAUSE]
        end = _CLAUSE_END.search(rest)
        clause = rest[: end.start()] if end else rest
        said = clause.rpartition("=")[2]
        first = _RUN.search(said)
        if first is None or _DENIED.search(said[: first.start()]) or (end and end.group() == "?"):
            continue
        if _explains(clause, found.group()) and _RUN.search(text, found.end() + len(clause)):
            continue
        doubtful = _DOUBT.match(clause) or _UNDECIDED.match(said, first.end())
        yield None if doubtful else _value(first)


def _explains(clause: str, announcement: str) -> bool:
    """Tells whether an explanation begins: words before the number, or after "Answer:" several numbers."""
    starts = [run.start() for run in _RUN.finditer(clause)]
    return bool(_NO_WORDS.sub("", clause[: starts[0]])) or (":" in announcement and len(starts) > 1)


def _numbers(text: str) -> list[Number | None]:
    """Returns all numbers of a text, None for each run of digits that is no number."""
    return [_value(run) for run in _RUN.finditer(text)]


def _value(run: re.Match[str]) -> Number | None:
    value = None if run["root"] or run["factor"] else _parse(run["run"])
    if value is not None and run["part"]:
        part = _parse(run["part"])
        value = None if part is None else Fraction(value) + Fraction(part)
    if value is None:
        return None
    scaled = value * _SCALES.get((run["scale"] or "").lower(), 1)
    return -scaled if run["sign"] or run["inner"] else scaled


def _parse(run: str) -> Number | None:
    if len(run) > _MAX_RUN:
        return None
    if scientific := _SCIENTIFIC.fullmatch(run):
        mantissa = _parse(scientific[1])
        return mantissa.scaleb(int(scientific[2])) if isinstance(mantissa, Decimal) else None
    numerator, slash, denominator = run.partition("/")
    if slash:
        over, under = _parse(numerator), _parse(denominator)
        return Fraction(over) / Fraction(under) if over is not None and under else None
    if _PLAIN.fullmatch(run):
        return Decimal(run)
    if _GROUPED.fullmatch(run):
        return Decimal(re.sub(r"[, '’]", "", run))
    if _DECIMAL_COMMA.fullmatch(run):
        return Decimal(re.sub(r"[. ]", "", run).replace(",", "."))
    return None


def _squeezed(text: str) -> str:
    """Returns a text whose endless runs of one space, star or bracket are cut short."""
    return _FILLER.sub(lambda run: run[0][:_MAX_FILLER], text)


def _plain(text: str) -> str:
    """Returns a text in which superscripts are powers, fractions are written out, and LaTeX is gone."""
    powers = re.sub("[⁰¹²³⁴-⁹⁻]+", lambda found: f"^{found[0].translate(_SUPERSCRIPTS)}", text)
    spaced = re.sub("(?<=[0-9])(?=[¼½¾⅐-⅞])", " ", powers)
    folded = unicodedata.normalize("NFKC", spaced).replace("−", "-").replace("⁄", "/")
    return _without_latex(folded)


def _without_latex(text: str) -> str:
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text
