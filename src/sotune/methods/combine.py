"""Methods by name, alone or combined: ``sot``, ``sot + safeinstr``, ``probe + tokenmask + resta``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace

from sotune.errors import ConfigError
from sotune.methods.base import Method, Seam


def combine(text: str, methods: Mapping[str, Method]) -> Method:
    """Returns the method of a name, or one that acts at the seams of several.

    At most one of the parts may act at each seam. What is kept is what the weigher keeps; where none weighs, every row.

    Args:
        text: Names of methods, joined by ``+``; white space is of no account.
        methods: Methods by name.

    Raises:
        ConfigError: A name is unknown or missing, two parts act at one seam, or a part changes nothing.
    """
    names = [name.strip() for name in text.split("+")]
    for name in names:
        if name not in methods:
            raise ConfigError(_unknown(name, text, methods))
    if len(names) == 1:
        return methods[names[0]]
    result, owner = Method(keeps_all=True), dict[Seam, str]()
    for name in names:
        part = methods[name]
        if not part.seams:
            raise ConfigError(f"{name!r} in {text!r} changes nothing, so there is nothing to combine; leave it out")
        for seam in part.seams:
            if seam in owner:
                raise ConfigError(
                    f"{owner[seam]!r} and {name!r} in {text!r} both {seam}; combine methods of different seams, such "
                    f"as a weigher with a trainer"
                )
            owner[seam] = name
        if "weigh" in part.seams:
            result = replace(part, train=result.train, edit=result.edit)
        result = replace(result, train=part.train or result.train, edit=part.edit or result.edit)
    return result


def _unknown(name: str, text: str, methods: Mapping[str, Method]) -> str:
    if not name:
        return f"{text!r} names no method before or after a '+'; write it like 'sot + safeinstr'"
    near = difflib.get_close_matches(name, methods, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(methods)}"
    return f"unknown method {name!r}; {hint}"
