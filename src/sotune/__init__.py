"""Keep an aligned LLM safe while it is fine-tuned.

`weigh` and `run` begin a run and return it as a `Run`, which holds the results and goes on: ``run.select()``,
``run.train()``, ``run.evaluate()``. `open_run` opens one that is there. Keywords are the settings of `sotune.settings`;
the command line calls the same functions. Below them lie plain functions on tensors that need no files:
`sotune.transport.sinkhorn` and `sotune.weights.learn_weights`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sotune.errors import ArtifactError, ConfigError, ConvergenceWarning, DataError, GateError, SotuneError

if TYPE_CHECKING:
    from sotune.api import (
        Run,
        Scorer,
        compare,
        estimate,
        evaluate,
        examine,
        explain,
        extract,
        inspect_data,
        judge_check,
        mix,
        open_run,
        run,
        score,
        verify,
        weigh,
    )

    __version__: str

__all__ = [
    "ArtifactError",
    "ConfigError",
    "ConvergenceWarning",
    "DataError",
    "GateError",
    "Run",
    "Scorer",
    "SotuneError",
    "compare",
    "estimate",
    "evaluate",
    "examine",
    "explain",
    "extract",
    "inspect_data",
    "judge_check",
    "mix",
    "open_run",
    "run",
    "score",
    "verify",
    "weigh",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that ``import sotune`` stays light."""
    if name == "__version__":
        return import_module("importlib.metadata").version("sotune")
    if name not in __all__:
        raise AttributeError(f"module 'sotune' has no attribute {name!r}")
    return getattr(import_module("sotune.api"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
