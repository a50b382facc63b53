"""One draw of the data, and its files: what `sotune run` reads in every cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune.artifacts import sha256_file, sha256_json, sha256_text, write_text
from sotune.mixing import prompt_key, require_disjoint
from sotune.records import as_turns

if TYPE_CHECKING:
    from sotune.evaluation import EvalPrompt
    from sotune.records import Record

KIND = "kind"
"""Column of a row's kind: ``harmful``, ``refusal`` and so on for downstream rows, the set's name for others."""


@dataclass(frozen=True)
class Draw:
    """One draw of a contaminated data set with its references and its evaluation prompts.

    Attributes:
        dataset: Its name.
        harmful_fraction: Share of harmful rows.
        seed: What it was drawn with; also the seed of training and of methods that draw.
        downstream: The rows to fine-tune on.
        safe_anchor: Trusted rows.
        harmful_reference: Harmful rows.
        prompts: Evaluation prompts; none of them occurs in the three sets.
        kind: What each downstream row is, by id (``harmful``, ``refusal``, …). No method sees it but the oracles.
        safety_pairs: Harmful prompts with refusals, for methods that train on such; see `sotune.methods.Tools`.
    """

    dataset: str
    harmful_fraction: float
    seed: int
    downstream: Sequence[Record]
    safe_anchor: Sequence[Record]
    harmful_reference: Sequence[Record]
    prompts: Sequence[EvalPrompt]
    kind: Mapping[str, str]
    safety_pairs: Sequence[Record] = ()

    @property
    def name(self) -> str:
        """Names the draw's folder."""
        return self.name_of(self.dataset, self.harmful_fraction, self.seed)

    @staticmethod
    def name_of(dataset: str, harmful_fraction: float, seed: int) -> str:
        """Returns the name of a draw."""
        return f"{dataset}-p{harmful_fraction:g}-s{seed}"

    def texts(self) -> dict[str, str]:
        """Returns the files of the draw by their setting's name, as JSON lines; sets without rows are left out."""
        sets = {name: getattr(self, name) for name in ("safe_anchor", "harmful_reference", "safety_pairs")}
        texts = {
            "data": _lines(_row(record, self.kind[record.id]) for record in self.downstream),
            **{name: _lines(_row(record, name) for record in records) for name, records in sets.items()},
            "eval_prompts": _lines(map(_prompt, self.prompts)),
        }
        return {name: text for name, text in texts.items() if text}


@dataclass(frozen=True)
class DrawFiles:
    """A draw on disk: all that a cell needs to know of it.

    Attributes:
        name: The draw.
        dataset: Its data set.
        harmful_fraction: Share of harmful rows.
        seed: What it was drawn with.
        n: Its downstream rows.
        digests: SHA-256 of each file, by its setting's name.
        paths: Where each file lies, by its setting's name.
    """

    name: str
    dataset: str
    harmful_fraction: float
    seed: int
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
            draw.name,
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
        return sha256_json({name: self.digests[name] for name in ("data", "safe_anchor", "harmful_reference")})


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
        "the safety pairs": {prompt_key(record.prompt): record.id for record in draw.safety_pairs},
    }
    require_disjoint(draw.name, roles, "remove them from one, or the model is tested or weighed on what it trains on")


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _row(record: Record, kind: str) -> dict[str, Any]:
    return {"id": record.id, "prompt": as_turns(record.prompt), "completion": record.completion, KIND: kind}


def _prompt(prompt: EvalPrompt) -> dict[str, Any]:
    own = {"id": prompt.id, "kind": prompt.kind, "messages": as_turns(prompt.messages), "reference": prompt.reference}
    return {**prompt.meta, **own}
