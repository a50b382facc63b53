"""The verbs: which stages each brings up to date, and the functions that do so."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sotune.artifacts import RunFolder, contents_told
from sotune.errors import ArtifactError, ConfigError, GateError
from sotune.evaluation.evaluator import load_eval_prompts
from sotune.evaluation.judges.registry import check_judges
from sotune.evaluation.usage import JudgingPlan
from sotune.freshness import is_fresh
from sotune.methods import METHODS, method_of, settle
from sotune.monitoring import Monitor, Silent
from sotune.pipeline.base_model import base_model
from sotune.pipeline.encoding import ENCODE
from sotune.pipeline.evaluating import EVALUATE, count_judging
from sotune.pipeline.fine_tuning import TRAIN
from sotune.pipeline.gating import beside, found_in, missed_in
from sotune.pipeline.method_tools import check_needs
from sotune.pipeline.record_sets import READ
from sotune.pipeline.reports import REPORT
from sotune.pipeline.selecting import SELECT, kept_rows
from sotune.pipeline.stage import Figures, RunSummary, Stage, plan_stages, run_stages
from sotune.pipeline.weighing import WEIGH
from sotune.record_store import digests_as_array
from sotune.settings import RunConfig
from sotune.settings.evaluate import asks_chat_judge, is_on_this_machine
from sotune.training.trackers import ON_THIS_MACHINE, check_trackers

STAGES: tuple[Stage, ...] = (READ, ENCODE, WEIGH, SELECT, TRAIN, EVALUATE, REPORT)
"""All stages, in the order of the data."""

_FILTER = (READ, ENCODE, WEIGH, SELECT)
_STAGES_OF: dict[str, tuple[Stage, ...]] = {
    "extract": (READ, ENCODE),
    "weigh": (*_FILTER, REPORT),
    "select": (*_FILTER, REPORT),
    "train": (*_FILTER, TRAIN, REPORT),
    "evaluate": (*_FILTER, TRAIN, EVALUATE, REPORT),
    "report": (REPORT,),
}
"""What each verb brings up to date; all but the first leave a report too."""


def plan_judging(
    config: RunConfig, monitor: Monitor | None = None, *, said: Collection[str] | None = None
) -> JudgingPlan:
    """Answers the prompts and counts what judging the answers would ask of the endpoint; asks it nothing. See `run`.

    Raises:
        SotuneError: Data or settings are wrong, or the work failed; the message says what to do.
    """
    config = settle(config)
    if said is not None:
        _check_contacts(config, "evaluate", said)
    _check_needs("evaluate", config)
    return count_judging(config, monitor or Silent())


def run(
    config: RunConfig, monitor: Monitor | None = None, *, until: str = "evaluate", said: Collection[str] | None = None
) -> RunSummary:
    """Does one verb, by default the whole path, and first whatever is missing.

    Args:
        config: The settings.
        monitor: Receives progress.
        until: The verb.
        said: Names of those settings that its user gave, where the others are a run's; ``None``: all of them.

    Raises:
        GateError: The run does not meet a requirement. Nothing is trained on a cut that lets too much pass.
        SotuneError: Data or settings are wrong, or the work failed; the message says what to do.
    """
    config = settle(config)
    if said is not None:
        _check_contacts(config, until, said)
    _check_needs(until, config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    before = _kept_before(config) if until == "select" else None
    watch, stages, folder = monitor or Silent(), _stages(until), Path(config.out)
    cut = stages[: stages.index(TRAIN)] if TRAIN in stages and config.require_pass is not None else ()
    done = run_stages(cut, config, watch)
    missed = missed_in(folder, config, evaluated=False) if cut else []
    rest = run_stages((REPORT,) if missed else stages[len(cut) :], config, watch)
    if until != "extract" and not missed:
        missed = missed_in(folder, config, evaluated=EVALUATE in stages or until == "report")
    summary = replace(
        rest,
        stages=(*done.stages, *rest.stages),
        files=(*done.files, *rest.files),
        findings=tuple(beside(missed, () if until == "extract" else found_in(folder))),
        changed={} if before is None else _changed_since(before, folder),
    )
    if missed:
        raise GateError(" ".join(one.sentence for one in missed), summary)
    return summary


def _changed_since(before: NDArray[np.void], folder: Path) -> dict[str, int]:
    after = kept_rows(RunFolder.open(folder))
    n_both = len(np.intersect1d(before, after, assume_unique=True))
    return {"dropped now, kept before": len(before) - n_both, "kept now": len(after) - n_both}


def _kept_before(config: RunConfig) -> NDArray[np.void]:
    try:
        return kept_rows(RunFolder.open(Path(config.out)))
    except ArtifactError:  # nothing that could be compared with
        return digests_as_array(b"")


def plan(verb: str, config: RunConfig) -> RunSummary:
    """Tells which stages a verb would run, and touches nothing."""
    return plan_stages(_stages(verb), settle(config))


def figures(run: RunFolder) -> dict[str, Figures]:
    """Returns the figures of each fresh stage of a run, by its title."""
    with contents_told(run.path):
        return {stage.title: stage.summarize(run) for stage in STAGES if is_fresh(run, stage.name)}


def _check_needs(verb: str, config: RunConfig) -> None:
    """Finds what a verb is missing before any work is done."""
    stages = _stages(verb)
    if WEIGH in stages:
        check_needs(config, method_of(config))
    if TRAIN in stages:
        base_model(config)
        _check_adapter(config)
        check_trackers(config.report_to)
    if EVALUATE in stages:
        load_eval_prompts(config)
        check_judges(config)


def _check_contacts(config: RunConfig, verb: str, said: Collection[str]) -> None:
    """Refuses to send anything where only a folder says so, which may come from anywhere.

    Args:
        config: The settings.
        verb: What is about to be done.
        said: Names of those settings that the user gave.

    Raises:
        ConfigError: A stage that is to be done would contact an address outside this machine.
    """
    stages = {stage.name: stage for stage in _stages(verb)}
    found = [one for one in _contacts(config) if one[0] in stages and one[1] not in said]
    if not found:
        return
    to_do = {outcome.stage for outcome in plan(verb, config).stages if outcome.status == "to do"}
    for stage, name, value in found:
        if stage in to_do:
            raise ConfigError(
                f"the saved settings of {config.out} say {name}: {value}, which is contacted to "
                f"{stages[stage].title}, and a folder may come from anywhere; name it again "
                f"(--{name.replace('_', '-')}), or continue with `sotune run` and settings of your own"
            )


def _contacts(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Yields which stage contacts what outside this machine: its name, the setting, and what that says."""
    judge = config.judge_base_url
    if judge is not None and not is_on_this_machine(judge) and asks_chat_judge(config):
        yield EVALUATE.name, "judge_base_url", judge
        if "judge" in method_of(config).needs:
            yield WEIGH.name, "judge_base_url", judge
    server = config.server_base_url
    if server is not None and not is_on_this_machine(server):
        yield EVALUATE.name, "server_base_url", server
    if watchers := [name for name in config.report_to if name not in ON_THIS_MACHINE]:
        yield TRAIN.name, "report_to", ", ".join(watchers)
    if config.engine == "ray" and config.ray_address not in (None, "auto", "local"):
        yield from ((stage.name, "ray_address", str(config.ray_address)) for stage in (ENCODE, TRAIN, EVALUATE))


def _check_adapter(config: RunConfig) -> None:
    """Raises a ConfigError where what is trained is not what the method needs, before it is trained."""
    method = method_of(config)
    edits = [name for name in method.at("edit") if name in METHODS]
    if edits and config.finetuning_type in ("dora", "rslora"):
        raise ConfigError(
            f"{' + '.join(edits)} changes the products of a plain LoRA adapter; set finetuning_type: lora. Got "
            f"{config.finetuning_type}"
        )
    if config.finetuning_type == "full" and (method.limits_drift or "edit" in method.seams):
        raise ConfigError(
            f"finetuning_type full trains no adapter, which {' + '.join(method.at('train', 'edit'))} needs; use lora, "
            f"or leave out the method and set hold: none"
        )


def _stages(verb: str) -> tuple[Stage, ...]:
    if verb not in _STAGES_OF:
        raise ConfigError(f"until must be one of {', '.join(_STAGES_OF)}. Got {verb!r}")
    return _STAGES_OF[verb]
