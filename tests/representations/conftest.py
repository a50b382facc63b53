import pytest

from sotune.records import Message, Record

_WORDS = tuple(
    [
        "the",
        "sea",
        "is",
        "wide",
        "and",
        "the",
        "wind",
        "is",
        "low",
        "while",
        "boats",
        "return",
        "from",
        "three",
        "large",
        "lakes",
    ]
)


@pytest.fixture
def records() -> list[Record]:
    """Rows of very different lengths, one of several turns."""
    rows = []
    for i in range(20):
        prompt, completion = " ".join(_WORDS[: 1 + i % 15]), " ".join(_WORDS[-1 - i**2 % 13 :])
        rows.append(Record.from_text(f"row-{i}", f"Question {i}: {prompt}", completion))
    long = " ".join(_WORDS * 4)
    turns = (Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", long))
    return [*rows, Record.from_text("one", "a", "b"), Record.from_text("turns", turns, "All is well.")]
