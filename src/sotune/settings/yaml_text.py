"""YAML that a person wrote, read so that no file can take the machine's memory or time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sotune.errors import ConfigError, first_line

MAX_BYTES = 1 << 19
"""512 KiB: of a file of settings or a rubric."""

MAX_VALUES = 100_000
"""Values of a file, those that an alias repeats counted each time."""

MAX_DEPTH = 50
_MAX_NUMBER = 1000  # characters; the value of 1:1:1:… takes time by the square of them
_OF_CONSTRUCTORS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""What PyYAML lets pass of int, date and the like, or trips over where a tag does not fit its value."""
_NUMBER = re.compile(r"[-+0-9a-fA-FxXob_.:]*")


def read_text(path: Path, what: str) -> str:
    """Reads a file of settings.

    Args:
        path: The file.
        what: Names it in messages.

    Raises:
        ConfigError: It is missing, cannot be read, is too large or is not UTF-8.
    """
    try:
        with path.open("rb") as file:  # a device has no end, and may say that it has no size
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} does not exist; check the path") from None
    except (OSError, ValueError) as error:  # a null character in a path is a ValueError
        raise ConfigError(f"{what} {path} cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{what} {path} holds over {MAX_BYTES} bytes, and no such file needs them; check the path")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is not readable: byte {error.start + 1} is not UTF-8") from None


def parse_yaml(text: str, what: str) -> Any:
    """Reads YAML of plain values.

    Raises:
        ConfigError: It is not YAML, or holds more than any such file needs.
    """
    import yaml

    try:
        _check_size(yaml.parse(text, Loader=yaml.SafeLoader), what)
        return yaml.safe_load(text)
    except (yaml.YAMLError, *_OF_CONSTRUCTORS) as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place is not None else ""
        reason = getattr(error, "problem", None) or first_line(error)
        raise ConfigError(f"{what} is not readable YAML{where}: {str(reason)[:200]}") from None


def _check_size(events: Iterator[Any], what: str) -> None:
    """Raises a ConfigError where values are too many or nest too deeply, before any is built."""
    import yaml

    sizes, open_anchors = dict[str, int](), list[tuple[str | None, int]]()
    n_values = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            n_values += sizes.get(str(event.anchor), MAX_VALUES + 1)  # one that holds itself is not known yet
        elif isinstance(event, yaml.CollectionStartEvent):
            open_anchors.append((event.anchor, n_values))
            n_values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_anchors.pop()
            if anchor is not None:
                sizes[anchor] = n_values - before
        elif isinstance(event, yaml.ScalarEvent):
            n_values += 1
            sizes |= {} if event.anchor is None else {event.anchor: 1}
            if len(event.value) > _MAX_NUMBER and _NUMBER.fullmatch(event.value):
                raise ConfigError(f"{what} holds a number of {len(event.value)} characters; write a shorter one")
        if n_values > MAX_VALUES:
            raise ConfigError(f"{what} holds over {MAX_VALUES} values, counted with its aliases; write fewer")
        if len(open_anchors) > MAX_DEPTH:
            raise ConfigError(f"{what} is nested deeper than {MAX_DEPTH} levels; write it flatter")
