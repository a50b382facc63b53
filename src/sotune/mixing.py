"""Contaminated fine-tuning experiments: training rows, references and evaluation prompts from a user's files.

A prompt serves one role alone, with all its rows: what is trained on is never evaluated, and a reference never holds
what it is meant to recognize. Roles are dealt from a seeded shuffle of the distinct prompts of each source, held-out
roles first, so that the anchor, the harmful reference and the evaluation stay the same whatever ``n`` and the fractions
are. Safe answers often come with the prompts of harmful ones, so a safe reference is dealt last, of what is left.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from sotune.artifacts import sha256_file, write_json, write_text
from sotune.errors import ArtifactError, ConfigError, DataError
from sotune.evaluation.prompts import load_prompts
from sotune.records import Message, Record, as_turns
from sotune.rendering import render_paper
from sotune.sources import LoadedSet, SourceOptions, load_set, own_id
from sotune.wording import counted

SourceName = Literal["task", "harmful", "refusal", "reference", "safe"]
Sources = Mapping[SourceName, LoadedSet]

LABELS: dict[SourceName, str] = {"task": "benign", "harmful": "harmful", "refusal": "refusal"}
"""What the label column says of a training row, by the source that it comes from."""

_TRAIN, _ANCHOR, _REFERENCE, _EVAL = "train.jsonl", "safe_anchor.jsonl", "harmful_reference.jsonl", "eval.jsonl"
_SAFE = "safe_reference.jsonl"
_CONFIG, _ACCOUNT = "mix.yaml", "mix.json"
_TEXT_COLUMNS = {"prompt", "completion", "response", "instruction", "output", "conversations", "messages"}


@dataclass(frozen=True, slots=True)
class MixSizes:
    """How many rows each role gets.

    Attributes:
        n_task: Training rows from the task.
        n_harmful: Training rows from the harmful source.
        n_refusals: Training rows that refuse.
        n_anchor: Rows of the safe anchor.
        n_reference: Rows of the harmful reference.
        n_eval: Evaluation prompts of each kind, harmful and task.
        n_safe: Rows of the safe reference, where there is a source of it.
    """

    n_task: int
    n_harmful: int
    n_refusals: int
    n_anchor: int
    n_reference: int
    n_eval: int
    n_safe: int = 0

    @classmethod
    def from_fractions(
        cls,
        n: int,
        *,
        harmful_fraction: float,
        refusal_fraction: float,
        n_anchor: int,
        n_reference: int,
        n_eval: int,
        n_safe: int = 0,
    ) -> MixSizes:
        """Returns the sizes of a training set of ``n`` rows, the shares rounded to whole rows.

        Raises:
            ConfigError: The two shares exceed the whole.
        """
        n_harmful, n_refusals = round(harmful_fraction * n), round(refusal_fraction * n)
        if n_harmful + n_refusals > n:
            raise ConfigError(
                f"harmful_fraction={harmful_fraction} and refusal_fraction={refusal_fraction} exceed 1 together; "
                f"lower one of them"
            )
        return cls(n - n_harmful - n_refusals, n_harmful, n_refusals, n_anchor, n_reference, n_eval, n_safe)


@dataclass(frozen=True, slots=True)
class Deal:
    """Who got what.

    Attributes:
        rows: Source and role (``train``, ``evaluation``, or the name of a reference) to rows.
        groups: The rows that each source had to give, by prompt.
    """

    rows: Mapping[SourceName, Mapping[str, Sequence[Record]]]
    groups: Mapping[SourceName, Mapping[str, Sequence[Record]]]


@dataclass(frozen=True, slots=True)
class Mixture:
    """All that an experiment consists of, not yet written.

    Attributes:
        train: The user's own rows and the label column, shuffled.
        safe_anchor: The user's own rows, untouched.
        harmful_reference: Likewise.
        safe_reference: Likewise; empty where none was asked for.
        evaluation: Rows of ``id``, ``kind``, ``prompt`` (or ``messages``) and, for the task, ``reference``.
        reading: The settings under which the files of rows are read.
        account: Seed, sizes, and what each source gave.
    """

    train: tuple[Mapping[str, Any], ...]
    safe_anchor: tuple[Mapping[str, Any], ...]
    harmful_reference: tuple[Mapping[str, Any], ...]
    safe_reference: tuple[Mapping[str, Any], ...]
    evaluation: tuple[Mapping[str, Any], ...]
    reading: Mapping[str, str]
    account: Mapping[str, Any]


def prompt_key(prompt: Sequence[Message]) -> str:
    """Returns what makes two prompts the same: all their turns, ignoring case and whitespace."""
    # Turn by turn, since white space at the end of one would stay as a space before the next speaker.
    turns = [Message(message.role, " ".join(message.content.split()).casefold()) for message in prompt]
    return render_paper(turns, cue=True)


def deal(sources: Sources, sizes: MixSizes, *, seed: int) -> Deal:
    """Deals the rows of the sources to the roles of an experiment.

    A prompt that the harmful source has is left out of the task and of a reference of its own. Refusals are drawn
    from prompts that neither the references nor the evaluation hold, and then the safe reference from prompts that
    nothing holds.

    Args:
        sources: The task, the harmful source, perhaps refusals, perhaps a source of the harmful reference, which else
            comes from the harmful source, and perhaps one of the safe reference.
        sizes: How many rows each role gets.
        seed: Seed of every draw; each source has a generator of its own, so that none depends on another's rows.

    Raises:
        DataError: A source has too few prompts.
    """
    groups = _groups(sources)
    reference = {"harmful_reference": sizes.n_reference}
    own = "reference" in sources
    needs: dict[SourceName, dict[str, int]] = {
        "harmful": {"evaluation": sizes.n_eval, **({} if own else reference), "train": sizes.n_harmful},
        "task": {"evaluation": sizes.n_eval, "safe_anchor": sizes.n_anchor, "train": sizes.n_task},
    }
    if own:
        needs["reference"] = reference
    dealt = {name: _deal(groups[name], need, source=name, seed=seed) for name, need in needs.items()}
    if "refusal" in sources:
        groups["refusal"] = _without(groups["refusal"], _prompts_of(dealt, held_out=True))
        dealt["refusal"] = _deal(groups["refusal"], {"train": sizes.n_refusals}, source="refusal", seed=seed)
    if "safe" in sources:
        groups["safe"] = _without(groups["safe"], _prompts_of(dealt))
        dealt["safe"] = _deal(groups["safe"], {"safe_reference": sizes.n_safe}, source="safe", seed=seed)
    return Deal(dealt, groups)


def make_mixture(sources: Sources, sizes: MixSizes, *, seed: int, label_column: str, id_column: str = "id") -> Mixture:
    """Deals the rows of the sources to the roles of an experiment.

    See `deal` for who gets what. A training row keeps its own id unless two sources have it; then it
    becomes ``task/<id>``, ``harmful/<id>`` or ``refusal/<id>``.

    Args:
        sources: See `deal`.
        sizes: How many rows each role gets.
        seed: Seed of every draw; each source has a generator of its own, so that none depends on another's rows.
        label_column: Column that tells the origin of a training row.
        id_column: Column of the rows' own ids.

    Raises:
        DataError: A source has too few prompts, or a row has the label column already.
    """
    dealing = deal(sources, sizes, seed=seed)
    dealt, groups = dealing.rows, dealing.groups
    ids = _unique_ids(sources)
    reference: SourceName = "reference" if "reference" in sources else "harmful"
    trained: Sources = {name: loaded for name, loaded in sources.items() if name in LABELS}
    uniform = _same_layout(trained)
    train = [
        _train_row(
            record,
            source,
            own_columns=uniform or sources[source].format == "messages",
            id=ids[source, record.id],
            id_column=id_column,
            label_column=label_column,
        )
        for source, roles in dealt.items()
        for record in roles.get("train", ())
    ]
    random.Random(f"{seed}/train").shuffle(train)
    return Mixture(
        train=tuple(train),
        safe_anchor=tuple(record.meta for record in dealt["task"]["safe_anchor"]),
        harmful_reference=tuple(record.meta for record in dealt[reference]["harmful_reference"]),
        safe_reference=tuple(record.meta for record in dealt.get("safe", {}).get("safe_reference", ())),
        evaluation=(
            *(_eval_row(record, "harmful", ids["harmful", record.id]) for record in dealt["harmful"]["evaluation"]),
            *(_eval_row(record, "task", ids["task", record.id]) for record in dealt["task"]["evaluation"]),
        ),
        reading={
            "format": sources["task"].format if uniform else "messages",
            "safe_format": sources["task"].format,
            "harmful_format": sources[reference].format,
            **({"safe_reference_format": sources["safe"].format} if "safe" in sources else {}),
            "id_column": id_column,
        },
        account={
            "seed": seed,
            "sizes": asdict(sizes),
            "sources": {name: _describe(sources[name], groups[name], roles) for name, roles in dealt.items()},
        },
    )


def check_out(out: Path) -> None:
    """Checks that an experiment may be written into a folder.

    Raises:
        ArtifactError: It is a file, or holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(
            f"{out} exists and is not an empty folder; name a new one for --out, so that nothing of yours is "
            f"overwritten"
        )


def save_mixture(mixture: Mixture, out: Path, *, settings: Mapping[str, Any]) -> list[Path]:
    """Writes an experiment, checks what was written, and then writes its account, ``mix.json``, last.

    Args:
        mixture: The experiment.
        out: An empty folder, or none yet.
        settings: What the user asked for, for the account.

    Raises:
        ArtifactError: The folder is not empty.
        DataError: A prompt stands in two roles.
    """
    check_out(out)
    rows = {
        _TRAIN: mixture.train,
        _ANCHOR: mixture.safe_anchor,
        _REFERENCE: mixture.harmful_reference,
        **({_SAFE: mixture.safe_reference} if mixture.safe_reference else {}),
        _EVAL: mixture.evaluation,
    }
    for name, content in rows.items():
        write_text(out / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content))
    folder = out.resolve()  # the configuration may be used from anywhere
    config = {
        "data": str(folder / _TRAIN),
        "safe_anchor": str(folder / _ANCHOR),
        "harmful_reference": str(folder / _REFERENCE),
        **({"safe_reference": str(folder / _SAFE)} if mixture.safe_reference else {}),
        "eval_prompts": str(folder / _EVAL),
        **mixture.reading,
    }
    write_text(out / _CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    check_disjoint(out)
    digests = {name: sha256_file(out / name) for name in rows}
    write_json(out / _ACCOUNT, {"format": 1, "settings": settings, **mixture.account, "files": digests})
    return [out / name for name in (*rows, _CONFIG, _ACCOUNT)]


def check_disjoint(folder: Path) -> None:
    """Checks, on the files of an experiment as `sotune` reads them, that no prompt stands in two roles.

    Raises:
        DataError: One does, or a file cannot be read.
    """
    config = yaml.safe_load((folder / _CONFIG).read_text(encoding="utf-8"))
    roles: dict[str, dict[str, str]] = {}
    formats = {_TRAIN: "format", _ANCHOR: "safe_format", _REFERENCE: "harmful_format", _SAFE: "safe_reference_format"}
    for name, setting in formats.items():
        if setting not in config:  # there is no safe reference
            continue
        options = SourceOptions(format=config[setting], id_column=config["id_column"])
        loaded = load_set(folder / name, set_name="downstream", options=options, max_quarantine_fraction=0)
        roles[name] = {prompt_key(record.prompt): record.id for record in loaded.records}
    roles[_EVAL] = {prompt_key(prompt.messages): prompt.id for prompt in load_prompts(folder / _EVAL)}
    check_roles(roles, where=str(folder), remedy="remove them from one, or mix again into a new folder")


def check_roles(roles: Mapping[str, Mapping[str, str]], *, where: str, remedy: str) -> None:
    """Checks that no prompt stands in two roles.

    Args:
        roles: By role, `prompt_key` to the id of a row that has it.
        where: Begins the message.
        remedy: Ends it.

    Raises:
        DataError: One does.
    """
    for (left, in_left), (right, in_right) in itertools.combinations(roles.items(), 2):
        both = in_left.keys() & in_right.keys()
        if both:
            ids = sorted(in_left[key] for key in both)[:5]
            raise DataError(
                f"{where}: {counted(len(both), 'prompt')} both in {left} (ids {ids}) and in {right}; {remedy}"
            )


def _groups(sources: Sources) -> dict[SourceName, dict[str, list[Record]]]:
    """Returns the rows of each source by prompt, without those that another role must have."""
    groups = {name: _by_prompt(loaded.records) for name, loaded in sources.items()}
    groups["task"] = _without(groups["task"], set(groups["harmful"]))
    if "reference" in groups:
        groups["reference"] = _without(groups["reference"], groups["harmful"].keys() | groups["task"].keys())
    return groups


def _prompts_of(dealt: Mapping[SourceName, Mapping[str, Sequence[Record]]], *, held_out: bool = False) -> set[str]:
    """Returns the prompts that were dealt, or only those that no training row has."""
    return {
        prompt_key(record.prompt)
        for roles in dealt.values()
        for role, records in roles.items()
        if not (held_out and role == "train")
        for record in records
    }


def _without(groups: Mapping[str, list[Record]], prompts: set[str]) -> dict[str, list[Record]]:
    return {key: rows for key, rows in groups.items() if key not in prompts}


def _by_prompt(records: Iterable[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(prompt_key(record.prompt), []).append(record)
    return groups


def _deal(
    groups: Mapping[str, Sequence[Record]], needs: Mapping[str, int], *, source: SourceName, seed: int
) -> dict[str, list[Record]]:
    """Gives each role the rows of prompts of its own, in the order of ``needs``.

    Evaluation asks a prompt once. What a role does not need of its last prompt's rows goes to nobody.
    """
    prompts = sorted(groups)  # the draw does not depend on the order of the rows
    random.Random(f"{seed}/{source}").shuffle(prompts)
    left = iter(prompts)
    dealt: dict[str, list[Record]] = {}
    for role, need in needs.items():
        rows = dealt[role] = []
        while len(rows) < need:
            prompt = next(left, None)
            if prompt is None:
                raise _too_few(groups, needs, source)
            rows += groups[prompt][: 1 if role == "evaluation" else need - len(rows)]
    return dealt


def _too_few(groups: Mapping[str, Sequence[Record]], needs: Mapping[str, int], source: SourceName) -> DataError:
    wanted = ", ".join(
        f"{role} needs {need} {'prompts' if role == 'evaluation' else 'rows'}" for role, need in needs.items()
    )
    n_rows = sum(len(rows) for rows in groups.values())
    return DataError(
        f"the {source} source has {len(groups)} distinct prompts, in {n_rows} rows: {wanted}, and no prompt "
        f"may serve two roles; add rows with new prompts, or ask for fewer"
    )


def _unique_ids(sources: Sources) -> dict[tuple[SourceName, str], str]:
    """Returns the id of each record by source and own id; one that two sources share gets the source as a prefix."""
    counts = Counter(record.id for loaded in sources.values() for record in loaded.records)
    taken = set(counts)
    ids = {}
    for source, loaded in sources.items():
        for record in loaded.records:
            id = record.id
            if counts[id] > 1:
                while id in taken:
                    id = f"{source}/{id}"
                taken.add(id)
            ids[source, record.id] = id
    return ids


def _same_layout(sources: Sources) -> bool:
    """Tells whether the rows of all sources can be read together by their own columns."""
    layouts = {
        (loaded.format, frozenset(_TEXT_COLUMNS & {column for record in loaded.records for column in record.meta}))
        for loaded in sources.values()
    }
    return len(layouts) == 1


def _train_row(
    record: Record, source: SourceName, *, own_columns: bool, id: str, id_column: str, label_column: str
) -> dict[str, Any]:
    added: dict[str, Any] = {label_column: LABELS[source]}
    if not own_columns:
        added["messages"] = as_turns(record.messages)
    for column in added:
        if column in record.meta:
            remedy = "name another with --label-column" if column == label_column else "rename it"
            raise DataError(
                f"{record.origin}: the row has a column {column!r} already, and nothing of yours is overwritten; "
                f"{remedy}"
            )
    if id != record.id and own_id(record.meta, id_column) == record.id:  # a row without an id of its own gets none
        return {**record.meta, id_column: id, **added}
    return {**record.meta, **added}


def _eval_row(record: Record, kind: Literal["harmful", "task"], id: str) -> dict[str, Any]:
    alone = len(record.prompt) == 1 and record.prompt[0].role == "user"
    asked = {"prompt": record.prompt[0].content} if alone else {"messages": as_turns(record.prompt)}
    return {"id": id, **asked, "kind": kind, **({"reference": record.completion} if kind == "task" else {})}


def _describe(
    loaded: LoadedSet, groups: Mapping[str, Sequence[Record]], dealt: Mapping[str, Sequence[Record]]
) -> dict[str, Any]:
    return {
        "inputs": {Path(file.name).name: file.sha256 for file in loaded.files},
        "format": loaded.format,
        "n_read": loaded.n_read,
        "n_valid": len(loaded.records),
        "n_quarantined": len(loaded.quarantined),
        "n_filtered_out": loaded.n_filtered_out,
        "n_prompts": len(groups),
        "n_left_out": len(loaded.records) - sum(len(rows) for rows in groups.values()),
        "rows": {role: len(rows) for role, rows in dealt.items()},
    }
