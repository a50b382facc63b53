"""All judges by the name that settings call them, those of other packages too, and the judge of each role."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from sotune.errors import ConfigError
from sotune.evaluation.judges.naming import CountsUsage, NamedJudge, Wanted, Workshop
from sotune.evaluation.judges.panel import PanelJudge
from sotune.evaluation.metrics import JUDGE_ROLES, JudgeRole
from sotune.evaluation.protocol import Judge
from sotune.monitoring import Monitor, Silent
from sotune.plugins import installed, load_plugin
from sotune.settings import JudgeSettings, nearest_setting

JUDGES: Mapping[str, str] = {
    "chat": "sotune.evaluation.judges.chat:ChatJudge",
    "guard": "sotune.evaluation.judges.guard:GuardJudge",
    "classifier": "sotune.evaluation.judges.classifier:ClassifierJudge",
    "matching": "sotune.evaluation.judges.matching:MatchingJudges",
    "miniature": "sotune.miniature.judge:MiniatureJudge",
}
"""Name to where its class lies; it is imported when it is first asked for."""

GROUP = "sotune.judges"
"""Entry points of this group are judges of other packages, under the entry point's name."""

_GRADED: tuple[JudgeRole, ...] = ("task", "skill")  # a panel's majority would throw the grades away


def judge_class(name: str) -> type[NamedJudge]:
    """Returns the class of a judge.

    Raises:
        ConfigError: No judge has this name, or its package does not hold what it promises.
    """
    known = _registered()
    if name not in known:
        near = nearest_setting(name, known)
        raise ConfigError(
            f"there is no judge {name!r}" + (f"; did you mean {near!r}?" if near else f"; there are {', '.join(known)}")
        )
    found = load_plugin("judge", known[name])
    if not (isinstance(found, type) and issubclass(found, NamedJudge)):
        raise ConfigError(f"the judge {name!r} is {known[name].value}, which is not a NamedJudge; fix its package")
    return found


def wanted_judges(settings: JudgeSettings) -> dict[JudgeRole, list[Wanted]]:
    """Returns who judges in each role: those that its setting names, or the one of ``judges``.

    Raises:
        ConfigError: A name is unknown, or a role cannot have so many.
    """
    wanted = {}
    for role in JUDGE_ROLES:
        names: tuple[str, ...] = getattr(settings, f"{role}_judge")
        if len(names) > 1 and role in _GRADED:
            raise ConfigError(f"{role}_judge takes one judge, since a majority has no grades. Got {', '.join(names)}")
        own = [_parse(role, name, settings) for name in names]
        wanted[role] = own or [Wanted(role, settings.judges, "", settings)]
    return wanted


def check_judges(settings: JudgeSettings) -> None:
    """Finds what judges lack before any work is done for them.

    Raises:
        ConfigError: A judge or rubric is unknown, the API key is not set, or a model's folder does not exist.
    """
    for members in wanted_judges(settings).values():
        for wanted in members:
            judge_class(wanted.name).check(wanted)


def judge_key(settings: JudgeSettings) -> dict[str, Any]:
    """Returns everything about the judges that verdicts depend on: settings, and models and rubrics by content."""
    return {role: [_key(wanted) for wanted in members] for role, members in wanted_judges(settings).items()}


def make_judges(
    settings: JudgeSettings, answers: Path, monitor: Monitor | None = None, *, only_counted: bool = False
) -> dict[JudgeRole, Judge]:
    """Returns the judge of each role; several of one role are a panel.

    Args:
        settings: Of a run, of an evaluation without one, or of a judge's check.
        answers: Folder for the answers of chat judges, where ``judge_cache_dir`` names no other.
        monitor: Receives progress.
        only_counted: Makes only judges that can count beforehand what they would ask, and loads no model.

    Raises:
        ConfigError: A judge is unknown, lacks a setting, or could not be loaded.
    """
    workshop = Workshop(settings, answers, monitor or Silent())
    judges = {}
    for role, members in wanted_judges(settings).items():
        classes = [(judge_class(wanted.name), wanted) for wanted in members]
        made = tuple(c.make(w, workshop) for c, w in classes if not only_counted or issubclass(c, CountsUsage))
        if made:
            judges[role] = made[0] if len(made) == 1 else PanelJudge(made)
    return judges


def _registered() -> dict[str, metadata.EntryPoint]:
    """Returns where each judge lies; another package cannot replace one of ours."""
    others = installed(GROUP)
    ours = {name: metadata.EntryPoint(name, place, GROUP) for name, place in JUDGES.items()}
    return {**ours, **{name: others[name] for name in sorted(others.keys() - ours.keys())}}


def _parse(role: JudgeRole, source: str, settings: JudgeSettings) -> Wanted:
    name, colon, argument = source.partition(":")
    known = _registered()
    if name in known:
        found = judge_class(name)
        written = {bool(argument)} if argument or not colon else set()  # nothing after a colon is no argument
        if role in found.roles and written & {":" in form for form in _forms(name)}:
            return Wanted(role, name, argument, settings)
    forms: list[str] = []
    for other in known:
        with contextlib.suppress(ConfigError):  # a broken package must not hide what the others offer
            forms += _forms(other) if role in judge_class(other).roles else ()
    near = None if name in known else nearest_setting(name, known)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ConfigError(f"{role}_judge must be {', '.join(forms[:-1])} or {forms[-1]}. Got {source!r}{hint}")


def _forms(name: str) -> tuple[str, ...]:
    forms = judge_class(name).forms
    return (name,) if forms is None else forms


def _key(wanted: Wanted) -> dict[str, Any]:
    found = judge_class(wanted.name)
    own = {name: getattr(wanted.settings, name) for name in found.Settings.model_fields}
    return {"judge": wanted.name, "content": found.fingerprint(wanted), **own}
