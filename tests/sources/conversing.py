"""What the tests of conversations share: rows read to turns with few words."""

from reading import load, load_with_bad, reasons, write_jsonl

from sotune.records import Message, Record, ToolCall

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
SYSTEM = {"role": "system", "content": "be kind"}


def read(tmp_path, row, **options) -> Record:
    """Reads one row, which comes out as it went in."""
    (record,) = load(write_jsonl(tmp_path / "a.jsonl", row), **options).records
    assert record.meta == row
    return record


def read_turns(tmp_path, turns, **options) -> tuple[Message, ...]:
    return read(tmp_path, {"messages": turns}, **options).messages


def said(messages) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def fault(tmp_path, good: dict, bad: dict, **options) -> str:
    """Returns why the second of two rows is quarantined."""
    return reasons(load_with_bad(write_jsonl(tmp_path / "a.jsonl", good, bad), **options))[2]


def turn_fault(tmp_path, turns, **options) -> str:
    return fault(tmp_path, {"messages": [USER, ANSWER]}, {"messages": turns}, **options)


__all__ = ["ANSWER", "SYSTEM", "USER", "ToolCall", "fault", "read", "read_turns", "said", "turn_fault"]
