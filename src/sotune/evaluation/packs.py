"""From what a user names, task packs and files, to one list of prompts that is the same for every model.

A task pack is the evaluation view of a data set of the catalogue.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from sotune.artifacts import sha256_file, sha256_json
from sotune.catalogue import ANY_COLUMN, DataSet, Evaluation, Part, data_set_names, list_known, load_data_set
from sotune.errors import ConfigError, DataError
from sotune.evaluation.prompts import load_prompts
from sotune.evaluation.protocol import EvalPrompt, index_unique
from sotune.records import Message
from sotune.sources.filters import RowFilter
from sotune.sources.opening import OpenedSource, open_source
from sotune.sources.options import SourceOptions
from sotune.sources.rows import RawRow, check_row


class Pack(NamedTuple):
    """One public data set as prompts."""

    data_set: DataSet
    view: Evaluation


def pack_names() -> list[str]:
    """Returns the names of all packs, sorted."""
    return [name for name in data_set_names() if load_data_set(name).evaluation]


def find_pack(name: str) -> Pack | None:
    """Returns the pack of that name; None where there is none.

    Raises:
        ConfigError: Its file is faulty.
    """
    data_set = load_data_set(name) if name in data_set_names() else None
    return None if data_set is None or data_set.evaluation is None else Pack(data_set, data_set.evaluation)


@dataclass(frozen=True, slots=True)
class PromptSource:
    """One thing that prompts come from.

    Attributes:
        name: The pack's name, or the file's.
        pack: The pack; None for a file of prompts in the package's own form.
        path: The file; for a pack, the file or saved folder that stands in for the Hub, or None.
    """

    name: str
    pack: Pack | None
    path: Path | None

    @property
    def digest(self) -> str:
        """Names the source by its content, or by its id on the Hub."""
        if self.path is not None and self.path.is_file():
            return sha256_file(self.path)
        where = str(self.path) if self.path is not None else self.pack.data_set.hub_id if self.pack else self.name
        return sha256_json([self.name, where])


def parse_sources(text: str) -> list[PromptSource]:
    """Reads names with commas between them: a JSONL file, a pack, or ``PACK=FILE`` for a pack read from a file.

    Raises:
        ConfigError: A name is neither, or occurs twice, or its pack is scored elsewhere.
        DataError: A file does not exist.
    """
    names = [text] if Path(text).exists() else [name.strip() for name in text.split(",") if name.strip()]
    sources = [_source(name) for name in names]
    if not sources or len({source.name for source in sources}) < len(sources):
        raise ConfigError(f"evaluation prompts must name at least one source, each once. Got {text!r}")
    return sources


def _source(name: str) -> PromptSource:
    own, _, file = name.partition("=")
    pack = find_pack(own)
    if pack is not None and not Path(name).exists():
        if pack.view.scored_by is not None:
            raise ConfigError(
                f"{pack.data_set.title} has its own checker, which lm-evaluation-harness runs: lm_eval run --model hf "
                f"--model_args pretrained=BASE,peft=ADAPTER --tasks {pack.view.scored_by} (pip install 'sotune[eval]')"
            )
        if file and not Path(file).exists():
            raise DataError(f"{file}, named for the task pack {own}, does not exist; check the path")
        return PromptSource(own, pack, Path(file) if file else None)
    path = Path(name)
    if not path.is_file():
        if path.suffix or "/" in name:
            raise DataError(f"the evaluation prompts {name} do not exist; check the path")
        raise ConfigError(f"{name!r} is neither a file nor a task pack; {list_known(name, pack_names())}")
    return PromptSource(path.name, None, path)


def load_sources(sources: Sequence[PromptSource], *, limit: int | None, seed: int) -> list[EvalPrompt]:
    """Reads all prompts, at most ``limit`` of each kind of each source.

    The sample depends on the ids and the seed alone, not on the order of rows or on the other sources, so that every
    model that is compared is asked the same. With several sources the ids begin with the source's name.

    Raises:
        DataError: A source cannot be read, a row is faulty, or a source gives no prompt.
    """
    prompts: list[EvalPrompt] = []
    for source in sources:
        pack, path = source.pack, source.path
        found = list(_read_pack(pack, path)) if pack else load_prompts(path or Path(source.name))
        if not found:
            raise DataError(f"{source.name} gives no prompts: no row passes its filters; name another file or revision")
        if len(sources) > 1 and pack is None:
            found = [replace(prompt, id=f"{source.name}/{prompt.id}") for prompt in found]
        prompts += sample(found, limit=limit, seed=seed)
    index_unique("prompts", prompts)
    return prompts


def sample(prompts: Sequence[EvalPrompt], *, limit: int | None, seed: int) -> list[EvalPrompt]:
    """Returns at most ``limit`` prompts of each kind, drawn by the seed from the sorted ids, in their old order."""
    if limit is None:
        return list(prompts)
    chosen: set[str] = set()
    for kind in dict.fromkeys(prompt.kind for prompt in prompts):
        ids = sorted(prompt.id for prompt in prompts if prompt.kind == kind)
        chosen.update(random.Random(f"{seed}/{kind}").sample(ids, min(limit, len(ids))))
    return [prompt for prompt in prompts if prompt.id in chosen]


def _read_pack(pack: Pack, path: Path | None) -> Iterator[EvalPrompt]:
    name, splits = pack.data_set.name, pack.view.splits
    for number, part in enumerate(pack.view.parts):
        for split in splits if path is None or path.is_dir() else splits[:1]:
            tag = f"{name}/{part.kind}-{number}" + (f"-{split}" if len(splits) > 1 else "")
            for line, row in _rows(pack, path, part, split):
                yield _read_row(pack, part, row, id=f"{tag}-{line:06d}", place=f"{name}:{split}:{line}")


def _rows(pack: Pack, path: Path | None, part: Part, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    public = pack.data_set
    options = SourceOptions(split=split, subset=pack.view.subset or public.subset, revision=public.revision)
    keep = RowFilter(part.where)
    name = f"hf:{public.hub_id}" if path is None else str(path)
    try:
        for line, value in _numbered(open_source(name, options)):
            row = check_row(value, max_bytes=options.max_row_bytes).row
            if ANY_COLUMN in part.columns and line == 1 and row:
                yield 0, {"": next(iter(row))}  # the first prompt was taken for the header
            if keep.keeps(row):
                yield line, row
    except DataError as error:
        if path is not None:
            raise
        gate = ", ask its owner for access and log in (hf auth login)" if public.gated else ""
        raise DataError(
            f"{public.title} ({public.hub_id}, {public.licence}) cannot be read from the Hub: {error}. On a machine "
            f"with network{gate}, download it; then name the file or the folder that save_to_disk wrote: "
            f"{pack.data_set.name}=PATH"
        ) from error


def _numbered(source: OpenedSource) -> Iterator[RawRow]:
    """Yields the rows of a source; the numbers go on from one file to the next."""
    before = last = 0
    current = source.parts[0]
    for part, (line, value) in source.rows():
        if part is not current:
            current, before = part, last
        last = before + line
        yield RawRow(last, value)


def _read_row(pack: Pack, part: Part, row: Mapping[str, Any], *, id: str, place: str) -> EvalPrompt:
    try:
        meta = {"pack": pack.data_set.name, **part.read(row)}
    except DataError as error:
        raise DataError(f"{place}: {error}. It is not the file of the pack, or the data set has changed") from None
    prompt, answer = meta.pop("prompt").strip(), meta.pop("completion", None)
    if not prompt:
        raise DataError(f"{place}: the prompt is empty; the data set may have changed: name another revision or file")
    meta |= {"match": pack.view.match} if pack.view.match else {}
    meta |= {"choices": part.choices} if part.choices else {}
    return EvalPrompt(id, part.kind, (Message("user", prompt),), None if answer is None else answer.strip(), meta)
