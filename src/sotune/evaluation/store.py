"""Responses and verdicts on disk, and generation that a kill at any moment cannot make answer twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune import processes
from sotune.artifacts import sha256_json
from sotune.errors import ArtifactError
from sotune.evaluation.metrics import JUDGE_ROLES, JudgeRole
from sotune.evaluation.protocol import EvalPrompt, Response, Verdict, index_unique
from sotune.run_files import RESPONSES, VERDICTS

AnswerAll = Callable[[Sequence[Sequence[EvalPrompt]]], Iterable[tuple[int, list[Response]]]]


def save_responses(path: Path, responses: Sequence[Response]) -> None:
    """Writes responses as Parquet: id, text, n_tokens, finished."""
    columns = {name: [getattr(response, name) for response in responses] for name in RESPONSES.columns}
    RESPONSES.named(path.name).write(path.parent, columns)


def load_responses(path: Path) -> list[Response]:
    """Reads what ``save_responses`` wrote.

    Raises:
        ArtifactError: The file is missing, or holds something else.
    """
    return [Response(**row) for row in RESPONSES.named(path.name).rows_of(path.parent)]


def save_verdicts(path: Path, verdicts: Mapping[JudgeRole, Sequence[Verdict]]) -> None:
    """Writes verdicts as Parquet: role, id, score (null where unscored), label, explanation."""
    rows = [(role, verdict) for role, held in verdicts.items() for verdict in held]
    columns: dict[str, list[Any]] = {"role": [role for role, _ in rows]}
    for name in ("id", "score", "label", "explanation"):
        columns[name] = [getattr(verdict, name) for _, verdict in rows]
    VERDICTS.named(path.name).write(path.parent, columns)


def load_verdicts(path: Path) -> dict[JudgeRole, tuple[Verdict, ...]]:
    """Reads what ``save_verdicts`` wrote.

    Raises:
        ArtifactError: The file is missing, or holds something else.
    """
    verdicts: dict[str, list[Verdict]] = {}
    for row in VERDICTS.named(path.name).rows_of(path.parent):
        verdicts.setdefault(row.pop("role"), []).append(Verdict(**row))
    return {role: tuple(verdicts[role]) for role in JUDGE_ROLES if role in verdicts}


@dataclass(frozen=True, slots=True)
class ResponseShards:
    """The finished parts of a generation, each one Parquet file, in a folder named by what they depend on.

    Attributes:
        folder: Where parts lie; any number of evaluations may share it.
        key: Everything that a response depends on besides its prompt: model, adapter, template, token budget,
            batch size. JSON.
        shard_size: Prompts per part: what a kill can cost.
    """

    folder: Path
    key: Mapping[str, Any]
    shard_size: int

    def complete(
        self,
        prompts: Sequence[EvalPrompt],
        answer: Callable[[Sequence[EvalPrompt]], list[Response]],
        *,
        answer_all: AnswerAll | None = None,
    ) -> list[Response]:
        """Returns a response for each prompt: those on disk, and those that ``answer`` gives now.

        Parts are a fixed function of the prompts, so that a resumed run asks for the same batches. Several processes
        share them out.

        Args:
            prompts: What to ask.
            answer: Answers one part, joined by id.
            answer_all: Answers many parts instead, in any order, each with its number.

        Raises:
            ArtifactError: A part does not hold the responses of its prompts.
            DataError: An id occurs twice.
        """
        index_unique("prompts", prompts)
        parts = list(self._parts(prompts))
        missing = [(path, part) for path, part in processes.share(parts) if not path.exists()]
        asked = [part for _, part in missing]
        for number, answers in enumerate(map(answer, asked)) if answer_all is None else answer_all(asked):
            save_responses(missing[number][0], answers)
        processes.barrier()
        return [response for path, part in parts for response in _of_these_prompts(path, part)]

    def n_done(self, prompts: Sequence[EvalPrompt]) -> int:
        """Returns how many of the prompts have their response on disk."""
        return sum(len(part) for path, part in self._parts(prompts) if path.exists())

    def _parts(self, prompts: Sequence[EvalPrompt]) -> Iterator[tuple[Path, Sequence[EvalPrompt]]]:
        """Yields the file of each part and its prompts."""
        current = self.folder / self._digest(prompts)
        for number, start in enumerate(range(0, len(prompts), self.shard_size)):
            yield current / f"{number:05d}.parquet", prompts[start : start + self.shard_size]

    def _digest(self, prompts: Sequence[EvalPrompt]) -> str:
        asked = [
            [prompt.id, [[m.role, m.content] for m in prompt.messages], *([prompt.tools] if prompt.tools else [])]
            for prompt in prompts
        ]
        return sha256_json([dict(self.key), self.shard_size, asked])[:16]


def _of_these_prompts(path: Path, prompts: Sequence[EvalPrompt]) -> list[Response]:
    by_id = index_unique("responses", load_responses(path))
    if by_id.keys() != {prompt.id for prompt in prompts}:
        raise ArtifactError(
            f"{path} does not hold the responses to its {len(prompts)} prompts; delete it and run again"
        )
    return [by_id[prompt.id] for prompt in prompts]
