"""Keep an aligned LLM safe while it is fine-tuned.

The verbs of the command line are functions here: `run`, `extract`, `weigh`, `select`, `train`, `evaluate`, `score` and
`report`, each of which takes a `RunConfig`, made with `make_config`. Below them lie plain functions on tensors that
need no files: `sotune.transport.sinkhorn` and `sotune.weights.learn_weights`.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from sotune.errors import ArtifactError, ConfigError, ConvergenceWarning, DataError, SotuneError

if TYPE_CHECKING:
    from sotune.pipeline import evaluate, extract, report, run, score, select, train, weigh
    from sotune.settings import RunConfig, make_config

__version__ = metadata.version("sotune")

__all__ = [
    "ArtifactError",
    "ConfigError",
    "ConvergenceWarning",
    "DataError",
    "RunConfig",
    "SotuneError",
    "evaluate",
    "extract",
    "make_config",
    "report",
    "run",
    "score",
    "select",
    "train",
    "weigh",
]

_HOMES = {"RunConfig": "sotune.settings", "make_config": "sotune.settings"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that ``import sotune`` stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'sotune' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "sotune.pipeline")), name)
