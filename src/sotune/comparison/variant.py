"""One column of a comparison: a method, and what an experiment changes about its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sotune.methods import Method, method_named

BASE = "base"
"""The model before any fine-tuning; not a method, but measured beside them."""


@dataclass(frozen=True)
class References:
    """Which references a variant weighs with; ``None`` leaves what all others have.

    Attributes:
        anchor: The safe anchor's source, ``general`` for the miniature's rows of no task.
        n_anchor: Its rows.
        reference: The harmful reference's source, or the miniature's kinds of harm.
        n_reference: Its rows.
        n_safe_reference: Rows of the safe reference; 0: it has none.
    """

    anchor: str | None = None
    n_anchor: int | None = None
    reference: str | tuple[str, ...] | None = None
    n_reference: int | None = None
    n_safe_reference: int | None = None


@dataclass(frozen=True)
class Variant:
    """One column of a comparison.

    Attributes:
        name: What results call it; no two of a comparison share one.
        method: Its name, ``base``, or a combination like ``adaptive + safeinstr``.
        changes: Settings of a run that it changes, by their own names.
        references: What it weighs with.
    """

    name: str
    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    references: References = field(default_factory=References)

    @classmethod
    def plain(cls, method: str) -> Variant:
        """Returns a method as it is."""
        return cls(method, method)

    def found_method(self) -> Method | None:
        """Returns its method; ``None`` for the base model.

        Raises:
            ConfigError: There is none of that name.
        """
        return None if self.method == BASE else method_named(self.method)

    def described(self) -> dict[str, str]:
        """Returns what tables say of it: its title and kind."""
        method = self.found_method()
        if method is None:
            return {"title": "base model", "kind": BASE}
        if not self.name.startswith(self.method):
            return {"title": self.name, "kind": method.kind}
        changed = self.name.removeprefix(self.method).strip()
        return {"title": f"{method.title}, {changed}" if changed else method.title, "kind": method.kind}
