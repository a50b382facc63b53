"""What a world is: a model, tasks, sources, prompts and judges that fit each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sotune.monitoring import Monitor


class World(Protocol):
    """A model, tasks, sources, prompts and judges that fit each other.

    Attributes:
        name: What a user calls it: ``model: NAME`` in a comparison; its tasks are the data sets ``NAME-TASK``.
        title: What it is, for people.
        licence: Of the model and of the texts.
        cite: Where they are described.
        tasks: Its tasks.
        settings: What ``model: NAME`` stands for besides the model, judges among it; what a user says counts more.
        demo: What `sotune demo` compares: methods, data sets and seeds.
    """

    name: str
    title: str
    licence: str
    cite: str
    tasks: Sequence[str]
    settings: Mapping[str, Any]
    demo: Mapping[str, Any]

    def data(self, task: str) -> Mapping[str, Any]:
        """Returns a task as a data set of a comparison: its sources and prompts, and how answers are matched."""
        ...

    def model(self) -> Path:
        """Returns the folder of the aligned model, which may not be there before `prepare`."""
        ...

    def prepare(self, monitor: Monitor) -> None:
        """Makes what is missing of the model and the sources, or says what makes it.

        Raises:
            ConfigError: Something is missing that only its user can bring.
        """
        ...
