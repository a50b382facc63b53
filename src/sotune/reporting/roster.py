"""What the rows of a comparison say of their methods: what each is called and whether it competes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sotune.reporting.formatting import identifier
from sotune.settings import DEFAULT_HOLD, RunConfig

DEFAULT: str = RunConfig.model_fields["method"].default
STANDING = (f"{DEFAULT} + {DEFAULT_HOLD}", DEFAULT)
"""What pages point out, the first that was measured: what `sotune run` does by default, or its selection alone."""
_ORDER = ("base", "control", "rival", "ours", "bound")
_UNRANKED = ("base", "bound")  # one is not trained, the others know the labels


@dataclass(frozen=True, slots=True)
class Roster:
    """The methods of a comparison.

    Attributes:
        said: Method to one of its rows in ``compare.json``, whose ``title`` and ``kind`` count.
    """

    said: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, runs: Sequence[Mapping[str, Any]]) -> Roster:
        """Takes down the methods of the rows of ``compare.json``."""
        said: dict[str, Mapping[str, Any]] = {}
        for run in runs:
            said.setdefault(str(run["method"]), run)
        return cls(said)

    def title(self, method: str) -> str:
        """Returns a method's name for people: its title where the rows have one, else its key, shortened."""
        return identifier(self.said.get(method, {}).get("title") or method.replace("_", " "))

    def is_ours(self, method: str) -> bool:
        """Tells whether a method is a variant of sotune's own, none of which is a rival of another."""
        return self._kind(method) == "ours"

    def competes(self, method: str) -> bool:
        """Tells whether a method competes: the base model and bounds do not."""
        return self._kind(method) not in _UNRANKED

    def in_order(self, methods: Iterable[str]) -> list[str]:
        """Returns methods without repeats, by kind: base model, controls, rivals, ours, bounds, unknown ones last.

        Those of one kind are in the order of the rows.
        """
        kinds = {kind: place for place, kind in enumerate(_ORDER)}
        places = {method: place for place, method in enumerate(self.said)}

        def key(method: str) -> tuple[int, int]:
            return kinds.get(self._kind(method), len(kinds)), places.get(method, len(places))

        return sorted(dict.fromkeys(methods), key=key)

    def find_ours(self, methods: Iterable[str]) -> str | None:
        """Returns which of the methods stands for sotune: one of `STANDING`, or else the first that is ours."""
        ours = [method for method in dict.fromkeys(methods) if self.is_ours(method)]
        return next((method for method in (*STANDING, *ours) if method in ours), None)

    def _kind(self, method: str) -> str:
        return str(self.said.get(method, {}).get("kind") or "")
