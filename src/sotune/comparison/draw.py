"""One draw of the data, and its files: what `sotune run` reads in every cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.artifacts import sha256_file, sha256_json, sha256_text, write_text
from sotune.evaluation import EvalPrompt
from sotune.evaluation.prompts import prompt_row
from sotune.mixing import check_roles, prompt_key
from sotune.records import Record, as_turns

KIND = "kind"
"""Column of a row's kind: ``harmful``, ``refusal`` and so on for downstream rows, the set's name for others."""


@dataclass(frozen=True)
class DrawName:
    """What tells one draw from another.

    Attributes:
        dataset: Its data set.
        harmful_fraction: Share of harmful rows.
        seed: What it was drawn with; also the seed of training and of methods that draw.
    """

    dataset: str
    harmful_fraction: float
    seed: int

    @property
    def name(self) -> str:
        """Names the draw's folder."""
        return f"{self.dataset}-p{self.harmful_fraction:g}-s{self.seed}"


@dataclass(frozen=True)
class Draw(DrawName):
    """One draw of a contaminated data set with its references and its evaluation prompts.

    Attributes:
        downstream: The rows to fine-tune on.
        safe_anchor: Trusted rows.
        harmful_reference: Harmful rows.
        prompts: Evaluation prompts; none of them occurs in the sets.
        kind: What each downstream row is, by id (``harmful``, ``refusal``, …). No method sees it but the oracles.
        safety_pairs: Harmful prompts with refusals, for methods that train on such; see `sotune.methods.Tools`.
        safe_reference: General rows that meet risky prompts safely; empty where none were asked for.
    """

    downstream: Sequence[Record]
    safe_anchor: Sequence[Record]
    harmful_reference: Sequence[Record]
    prompts: Sequence[EvalPrompt]
    kind: Mapping[str, str]
    safety_pairs: Sequence[Record] = ()
    safe_reference: Sequence[Record] = ()

    def texts(self) -> dict[str, str]:
        """Returns the files of the draw by their setting's name, as JSON lines; sets without rows are left out."""
        names = ("safe_anchor", "harmful_reference", "safety_pairs", "safe_reference")
        sets = {name: getattr(self, name) for name in names}
        texts = {
            "data": _lines(_row(record, self.kind[record.id]) for record in self.downstream),
            **{name: _lines(_row(record, name) for record in records) for name, records in sets.items()},
            "eval_prompts": _lines({**prompt.meta, **prompt_row(prompt)} for prompt in self.prompts),
        }
        return {name: text for name, text in texts.items() if text}


@dataclass(frozen=True)
class DrawFiles(DrawName):
    """A draw on disk: all that a cell needs to know of it.

    Attributes:
        n: Its downstream rows.
        digests: SHA-256 of each file, by its setting's name.
        paths: Where each file lies, by its setting's name.
    """

    n: int
    digests: Mapping[str, str]
    paths: Mapping[str, str]

    @classmethod
    def of(cls, draw: Draw, folder: Path, *, own: Path | None = None, write: bool = True) -> DrawFiles:
        """Writes the files of a draw that are not there yet.

        Args:
            draw: The draw.
            folder: Where to.
            own: Where references go that are not those of the draw itself; ``None`` where all are.
            write: Whether to write at all, or only to say what would be.
        """
        texts = draw.texts()
        where = {name: folder if name in _FILES else own or folder for name in texts}
        paths = {name: where[name] / f"{_FILES.get(name, name)}.jsonl" for name in texts}
        digests = {name: sha256_text(text) for name, text in texts.items()}
        for name, path in paths.items():
            if write and not (path.exists() and sha256_file(path) == digests[name]):
                write_text(path, texts[name])
        return cls(
            draw.dataset,
            draw.harmful_fraction,
            draw.seed,
            len(draw.downstream),
            digests,
            {name: str(path.resolve()) for name, path in paths.items()},
        )

    @property
    def row_digest(self) -> str:
        """Names the rows that are encoded, whatever is asked later."""
        encoded = ("data", "safe_anchor", "harmful_reference", "safe_reference")
        return sha256_json({name: self.digests[name] for name in encoded if name in self.digests})


# What no variant changes, and what its file is called.
_FILES = {"data": "downstream", "eval_prompts": "prompts"}


def check_disjoint(draw: Draw) -> None:
    """Checks that no prompt of a draw stands in two of: evaluation, downstream, references, safety pairs.

    Prompts are the same when they differ only in case and whitespace.

    Raises:
        DataError: One does.
    """
    roles = {
        "the evaluation": {prompt_key(prompt.messages): prompt.id for prompt in draw.prompts},
        "the downstream rows": {prompt_key(record.prompt): record.id for record in draw.downstream},
        "the safe anchor": {prompt_key(record.prompt): record.id for record in draw.safe_anchor},
        "the harmful reference": {prompt_key(record.prompt): record.id for record in draw.harmful_reference},
        "the safe reference": {prompt_key(record.prompt): record.id for record in draw.safe_reference},
        "the safety pairs": {prompt_key(record.prompt): record.id for record in draw.safety_pairs},
    }
    check_roles(roles, where=draw.name, remedy="remove them from one: no model is tested on what it was trained on")


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _row(record: Record, kind: str) -> dict[str, Any]:
    return {"id": record.id, "prompt": as_turns(record.prompt), "completion": record.completion, KIND: kind}
