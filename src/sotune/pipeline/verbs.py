"""One function for each verb of the command line."""

from __future__ import annotations

from sotune.config import RunConfig
from sotune.pipeline.encoding import REPRESENTATIONS
from sotune.pipeline.record_sets import RECORDS
from sotune.pipeline.reports import REPORT
from sotune.pipeline.selecting import SELECTION
from sotune.pipeline.stage import Monitor, RunSummary, Silent, Stage, plan_stages, run_stages
from sotune.pipeline.weighing import WEIGHTS

STAGES: tuple[Stage, ...] = (RECORDS, REPRESENTATIONS, WEIGHTS, SELECTION, REPORT)
"""All stages, in the order of the data."""

_LAST_STAGE = {"extract": REPRESENTATIONS, "weigh": REPORT, "select": REPORT, "report": REPORT}
"""Which stage each verb leads up to; ``weigh`` and ``select`` leave a report too."""


def extract(config: RunConfig, monitor: Monitor | None = None) -> RunSummary:
    """Reads the three sets and encodes them.

    Raises:
        SotuneError: Data, settings or the work itself are at fault; the message says what to do.
    """
    return _run("extract", config, monitor)


def weigh(config: RunConfig, monitor: Monitor | None = None) -> RunSummary:
    """Weighs the downstream rows, selects, and writes a report; does first what is missing.

    Raises:
        SotuneError: Data, settings or the work itself are at fault; the message says what to do.
    """
    return _run("weigh", config, monitor)


def select(config: RunConfig, monitor: Monitor | None = None) -> RunSummary:
    """Selects anew from the weights of a run, with other settings for how much is kept.

    Raises:
        SotuneError: Data, settings or the work itself are at fault; the message says what to do.
    """
    return _run("select", config, monitor)


def report(config: RunConfig, monitor: Monitor | None = None) -> RunSummary:
    """Writes the report of a run.

    Raises:
        SotuneError: Data, settings or the work itself are at fault; the message says what to do.
    """
    return _run("report", config, monitor)


def plan(verb: str, config: RunConfig) -> RunSummary:
    """Tells which stages a verb would run, and touches nothing."""
    return plan_stages(_stages_up_to(verb), config)


def _run(verb: str, config: RunConfig, monitor: Monitor | None) -> RunSummary:
    import torch

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return run_stages(_stages_up_to(verb), config, monitor or Silent())


def _stages_up_to(verb: str) -> tuple[Stage, ...]:
    return STAGES[: STAGES.index(_LAST_STAGE[verb]) + 1]
