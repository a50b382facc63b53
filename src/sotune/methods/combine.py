"""Methods by name, alone or combined: ``sot``, ``sot + safeinstr``, ``probe + tokenmask + resta``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sotune.errors import ConfigError
from sotune.methods.method import Kind, Method, Seam


def combine(text: str, methods: Mapping[str, Method], *, others: Iterable[str] = ()) -> Method:
    """Returns the method of a name, or one that acts at the seams of several.

    At most one of the parts may act at each seam. What is kept is what the weigher keeps; where none weighs, every row.

    Args:
        text: Names of methods, joined by ``+``; whitespace is ignored.
        methods: Methods by name.
        others: Further names that are known.

    Raises:
        ConfigError: A name is unknown or missing, two parts act at one seam, or a part changes nothing.
    """
    names = [name.strip() for name in text.split("+")]
    for name in names:
        if name not in methods:
            raise ConfigError(_unknown(name, text, dict.fromkeys([*methods, *others])))
    if len(names) == 1:
        return methods[names[0]]
    owner: dict[Seam, Method] = {}
    for part in (methods[name] for name in names):
        if not part.seams:
            raise ConfigError(
                f"{part.name!r} in {text!r} changes nothing, so there is nothing to combine; leave it out"
            )
        for seam in part.seams:
            if seam in owner:
                raise ConfigError(
                    f"{owner[seam].name!r} and {part.name!r} in {text!r} both {seam}; combine methods of different "
                    f"seams, such as a weigher with a trainer"
                )
            owner[seam] = part
    return _joined([owner[seam] for seam in ("weigh", "train", "edit") if seam in owner])


def _joined(parts: list[Method]) -> Method:
    """Returns one method of several that act at different seams, in the order of the seams."""
    weighs = next((part for part in parts if "weigh" in part.seams), Method("", ""))
    kinds: list[Kind] = [part.kind for part in parts]
    return replace(
        weighs,
        name=" + ".join(part.name for part in parts),
        title=" + ".join(part.title for part in parts),
        kind=next((kind for kind in ("bound", "ours") if kind in kinds), "rival"),
        citation="; ".join(part.citation for part in parts if part.citation),
        link="",
        trainer=next((part.trainer for part in parts if part.trainer), None),
        editor=next((part.editor for part in parts if part.editor), None),
        changes={name: value for part in parts for name, value in part.changes.items()},
        own_settings=tuple(kind for part in parts for kind in part.own_settings),
        needs=frozenset(need for part in parts for need in part.needs),
        limits_drift=any(part.limits_drift for part in parts),
        parts=tuple(parts),
    )


def _unknown(name: str, text: str, known: Iterable[str]) -> str:
    if not name:
        return f"{text!r} names no method before or after a '+'; write it like 'sot + safeinstr'"
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown method {name!r}; {hint}"
