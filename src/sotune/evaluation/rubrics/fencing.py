"""Judged text is data: fenced off by a mark that its author cannot foresee, with nothing left in it that could steer.

Three things stand between a hostile text and the judge. The *fence* carries a nonce, an HMAC-SHA-256 of the text
under a secret that never leaves the answer cache: the same text gets the same nonce, so that caching works, and
whoever wrote the text could not put it in. Inside, every *line* carries the speaker's prefix, so that no line can
start as an instruction or another turn. And *characters* that make up delimiters, role markers and chat templates'
special tokens are replaced by look-alikes, invisible ones are dropped.

The judge must repeat a *canary*, made like the nonce from the same text and secret: a reply that was copied from
the judged text does not have it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from sotune.records import Message

RESPONSE = "RESPONSE"  # the prefix of the judged answer's lines
_MARK_LENGTH = 16  # hexadecimal digits, 64 bits: no text holds them by chance

# Angle and square brackets make up the marks of fences, HTML and every chat template's special tokens; their wide
# and small forms turn into them where a tokenizer normalizes.
_LOOKALIKES = str.maketrans({
    "<": "‹", "＜": "‹", "﹤": "‹", ">": "›", "＞": "›", "﹥": "›", "［": "(", "］": ")", "｜": "¦",
})  # fmt: skip
_MARKER = re.compile(
    r"\[(/?[A-Za-z_]{3,20}|[A-Za-z_]{3,24}\d{1,5}|\|[^\[\]|\n]{1,40}\|)\]"  # [INST], [/INST], [unused1], [|user|]
    r"|[\[\]](e?~!?[a-z]{0,4})[\[\]]"  # ]~b], [e~[
)
_ASCII_CONTROLS = {code: None for code in (*range(32), 127) if chr(code) not in "\t\n"}
_VARIATION_SELECTORS = frozenset((*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))


@dataclass(frozen=True, slots=True)
class Fence:
    """The marks of one judged text.

    Attributes:
        nonce: Stands in both marks of the fence, and nowhere inside.
        canary: What the judge must repeat, nowhere inside the fence either.
    """

    nonce: str
    canary: str

    def enclose(self, messages: Sequence[Message], response: str) -> str:
        """Returns a conversation and the answer to it between the two marks, each line under its speaker's prefix."""
        lines = [
            f"{speaker}| {line}"
            for speaker, text in (*((m.role, m.content) for m in messages), (RESPONSE, response))
            for line in neutralize(text).splitlines() or [""]
        ]
        return "\n".join([f"<<<BEGIN {self.nonce}>>>", *lines, f"<<<END {self.nonce}>>>"])


def make_fence(messages: Sequence[Message], response: str, *, purpose: str, secret: bytes) -> Fence:
    """Derives the marks of a judged text from the text itself.

    Args:
        messages: The conversation up to the answer.
        response: The answer that is judged.
        purpose: Keeps apart what different rubrics make of one text.
        secret: Known to nobody who writes judged texts. Without one the marks can be computed, yet no text can
            hold its own hash.
    """
    texts = [[m.role, m.content] for m in messages]
    content = json.dumps([purpose, texts, response]).encode("ascii")  # lone surrogates are escaped, not refused
    digest = hmac.new(secret, content, hashlib.sha256).hexdigest()
    return Fence(nonce=digest[:_MARK_LENGTH], canary=digest[_MARK_LENGTH : 2 * _MARK_LENGTH])


def neutralize(text: str) -> str:
    r"""Returns a text that reads the same and holds no delimiter, special token or invisible character.

    ``<`` and ``>`` become ``‹`` and ``›``, markers such as ``[INST]`` become ``(INST)``, wide forms likewise; line
    ends of every kind become ``\n``; control characters, format characters (zero width, direction, tags) and
    variation selectors are dropped; a lone surrogate becomes U+FFFD.
    """
    joined = "\n".join(text.splitlines())
    # The same rule twice: one pass in C for the texts that are plain, one character by character for the rest.
    visible = joined.translate(_ASCII_CONTROLS) if joined.isascii() else "".join(map(_shown, joined))
    return _MARKER.sub(lambda mark: f"({mark[1] or mark[2]})", visible.translate(_LOOKALIKES))


def _shown(character: str) -> str:
    """Returns a character as the judge sees it: itself, nothing, or U+FFFD for a lone surrogate."""
    if character in "\t\n":
        return character
    category = unicodedata.category(character)
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    return "" if category in ("Cc", "Cf") or ord(character) in _VARIATION_SELECTORS else character
