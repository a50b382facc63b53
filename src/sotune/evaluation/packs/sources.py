"""From what a user names, packs and files, to one list of prompts that is the same for every model."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sotune.artifacts import sha256_file, sha256_json
from sotune.errors import ConfigError, DataError
from sotune.evaluation.packs.pack import ANY_COLUMN, Pack, PackPart, load_pack, pack_names, read_row
from sotune.evaluation.prompts import load_prompts
from sotune.evaluation.protocol import EvalPrompt, index_unique
from sotune.sources.filters import RowFilter
from sotune.sources.opening import READERS, open_source
from sotune.sources.options import SourceOptions
from sotune.sources.rows import check_row


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
        where = str(self.path) if self.path is not None else self.pack.hub_id if self.pack else self.name
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
    if own in pack_names() and not Path(name).exists():
        pack = load_pack(own)
        if pack.scored_by is not None:
            raise ConfigError(
                f"{pack.title} has its own checker, which lm-evaluation-harness runs: lm_eval run --model hf "
                f"--model_args pretrained=BASE,peft=ADAPTER --tasks {pack.scored_by} (pip install 'sotune[eval]')"
            )
        if file and not Path(file).exists():
            raise DataError(f"{file}, named for the task pack {own}, does not exist; check the path")
        return PromptSource(own, pack, Path(file) if file else None)
    path = Path(name)
    if not path.is_file():
        if path.suffix or "/" in name:
            raise DataError(f"the evaluation prompts {name} do not exist; check the path")
        raise ConfigError(f"{name!r} is neither a file nor a task pack; there are {', '.join(pack_names())}")
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
        found = list(_read_pack(source)) if source.pack is not None else load_prompts(_file(source))
        if not found:
            raise DataError(f"{source.name} gives no prompts: no row passes its filters; name another file or revision")
        if len(sources) > 1 and source.pack is None:
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


def _file(source: PromptSource) -> Path:
    if source.path is None:
        raise ConfigError(f"{source.name} has no file to read")
    return source.path


def _read_pack(source: PromptSource) -> Iterator[EvalPrompt]:
    pack = source.pack
    if pack is None:
        raise ConfigError(f"{source.name} is no task pack")
    for number, part in enumerate(pack.parts):
        for split in part.splits if source.path is None or source.path.is_dir() else part.splits[:1]:
            tag = f"{pack.name}/{part.kind}-{number}" + (f"-{split}" if len(part.splits) > 1 else "")
            for line, row in _rows(source, pack, part, split):
                yield read_row(pack, part, row, id=f"{tag}-{line:06d}", place=f"{pack.name}:{split}:{line}")


def _rows(source: PromptSource, pack: Pack, part: PackPart, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    options = SourceOptions(split=split, subset=pack.subset, data_dir=pack.data_dir)
    keep = RowFilter(part.where)
    name = f"hf:{pack.hub_id}" if source.path is None else str(source.path)
    if source.path is not None and source.path.is_file() and Path(name.removesuffix(".gz")).suffix not in READERS:
        raise DataError(
            f"{name} is no file that the task pack {pack.name} can be read from; known: {', '.join(READERS)}"
        )
    try:
        for line, value in open_source(name, options).rows:
            row = check_row(value, max_bytes=options.max_row_bytes)
            if part.prompt == ANY_COLUMN and line == 1 and row:
                yield 0, {"": next(iter(row))}  # the first prompt was taken for the header
            if keep.keeps(row):
                yield line, row
    except DataError as error:
        if source.path is not None:
            raise
        gate = ", ask its owner for access and log in (hf auth login)" if pack.gated else ""
        raise DataError(
            f"{pack.title} ({pack.hub_id}, {pack.licence}) cannot be read from the Hub: {error}. On a machine with "
            f"network{gate}, download it; then name the file or the folder that save_to_disk wrote: "
            f"{pack.name}=PATH"
        ) from error
