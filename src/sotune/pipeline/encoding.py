"""Second stage: records to representations, cached by content."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune import processes
from sotune.artifacts import RunFolder, contents_told, library_versions
from sotune.cluster import engine_of
from sotune.errors import ArtifactError, ConfigError
from sotune.models import resolve_device
from sotune.monitoring import Monitor
from sotune.pipeline.base_model import base_model
from sotune.pipeline.choosing import Choice, choose_encoder
from sotune.pipeline.first_look import FirstLook, fit_first_look
from sotune.pipeline.prompts_alone import sample_prompts
from sotune.pipeline.record_sets import read_records
from sotune.pipeline.shown_rows import ShownRows
from sotune.pipeline.stage import Figures, Stage
from sotune.pipeline.worst_views import HarmScore, WorstRead, pick_looks, read_worst
from sotune.record_store import Joined, Texts
from sotune.records import SET_NAMES, Record, SetName
from sotune.representations import (
    CacheIndex,
    CausalLMReadings,
    EncodedSet,
    Encoder,
    EncoderGroup,
    FrozenCausalLM,
    MappedSet,
    RepresentationCache,
    SentenceEncoder,
    candidate_layers,
    candidate_poolings,
    encode_with_cache,
    hex_keys,
    keys_from_hex,
    map_cache,
    shared_cache,
)
from sotune.run_files import ENCODING, FIRST_LOOK, REPRESENTATIONS
from sotune.settings import RepresentationSettings, RunConfig
from sotune.weights import Suspicion, fit_harm_score
from sotune.wording import counted

_SHARDS = "representations"
_CPU_BATCH_TOKENS = 1024
BLOCK_ROWS = 8192
"""Rows that are looked at together where all of them would not fit into memory."""
_SENTENCE_PREFIX = "sentence-transformers:"


def make_encoders(config: RunConfig) -> EncoderGroup:
    """Returns the encoders that the settings leave to choose among: the model itself, or another for the weights alone.

    Raises:
        ConfigError: The model cannot be found or has no such layer, or the encoder's name is not understood.
    """
    if config.encoder is not None:
        if not config.encoder.startswith(_SENTENCE_PREFIX):
            raise ConfigError(f"encoder must be {_SENTENCE_PREFIX}PATH. Got {config.encoder!r}")
        return SentenceEncoder(
            config.encoder.removeprefix(_SENTENCE_PREFIX),
            device=str(resolve_device(config.device)),
            batch_tokens=_batch_tokens(config),
            parts=config.encoder_parts,
        )
    if config.model is None:
        raise ConfigError("name a causal LM with model, or an encoder with encoder (sentence-transformers:PATH)")
    model = FrozenCausalLM(base_model(config), config, batch_tokens=_batch_tokens(config))
    with_safe_reference = config.safe_reference is not None or config.references is not None
    return CausalLMReadings(  # the paper's reading comes first
        model,
        layers=candidate_layers(model.n_layers) if config.layer == "auto" else (config.layer,),
        poolings=candidate_poolings(with_safe_reference=with_safe_reference)
        if config.pooling == "auto"
        else (config.pooling,),
    )


def _batch_tokens(config: RunConfig) -> int:
    """Returns how many tokens a pass may hold; on a CPU no more than its caches do."""
    on_cpu = resolve_device(config.device).type == "cpu"
    return min(config.batch_tokens, _CPU_BATCH_TOKENS) if on_cpu else config.batch_tokens


def chosen_encoder(config: RunConfig, run: RunFolder) -> Encoder:
    """Returns the encoder that a run's representations came from.

    Raises:
        ArtifactError: It is none of those that the settings name.
    """
    wanted = ENCODING.read(run)["fingerprint"]
    for encoder in make_encoders(config).members:
        if encoder.fingerprint == wanted:
            return encoder
    raise ArtifactError(f"the representations of {run.path} came from another model; run `sotune weigh` again")


def encode_records(config: RunConfig, run: RunFolder, records: Sequence[Record], monitor: Monitor) -> EncodedSet:
    """Encodes any records with the encoder that the run chose, through its cache."""
    encoder = chosen_encoder(config, run)
    return encode_with_cache(encoder, records, _cache(config, run), **_told(monitor, "encoding"))


def encode_worst(config: RunConfig, run: RunFolder, records: Sequence[Record], monitor: Monitor) -> WorstRead:
    """Reads any rows as the run would: as the worst look at each."""
    encoder, cache = chosen_encoder(config, run), _cache(config, run)

    def encode(records: Sequence[Record]) -> Tensor:
        return encode_with_cache(encoder, records, cache, **_told(monitor, "encoding")).values

    alone = reads_answers_alone(config, encoder)
    score = functools.partial(harm_score_of, config, run)
    look, most = first_look_of(config, run, encoder), config.max_windows
    return read_worst(encoder, records, encode, score, most=most, alone=alone, first_look=look)


def reads_answers_alone(config: RunConfig, encoder: Encoder) -> bool:
    """Tells whether one look at a row is its answer without its prompt."""
    return config.answer_alone and encoder.parts_alike


def first_look_of(config: RunConfig, run: RunFolder, encoder: Encoder) -> FirstLook | None:
    """Returns the first look at any rows that the run took at its own; ``None`` where it took none."""
    return FirstLook(encoder, Suspicion.restore(FIRST_LOOK.read(run))) if _looks_first(config, encoder) else None


def _looks_first(config: RunConfig, encoder: Encoder) -> bool:
    return config.max_windows > 1 and config.sentence_budget > 0 and encoder.glances


def harm_score_of(config: RunConfig, run: RunFolder) -> HarmScore:
    """Returns what orders the looks at a row, from the run's references as they are read whole."""
    found = {name: _members(config, run, name) for name in SET_NAMES[1:]}
    return _harm_score(
        {name: index.map(rows.whole, rows.ids).load().values for name, (index, rows) in found.items() if len(rows.ids)}
    )


def _harm_score(whole: Mapping[SetName, Tensor]) -> HarmScore:
    """Returns what orders looks, from the references that have rows."""
    pull = torch.cat([values for name, values in whole.items() if name in ("safe_anchor", "safe_reference")])
    return fit_harm_score(pull, whole["harmful_reference"])


def load_representations(config: RunConfig, run: RunFolder, name: SetName) -> EncodedSet:
    """Reads the representations of one set of a run.

    Raises:
        ArtifactError: They are not all there.
    """
    return map_representations(config, run, name).load()


def map_representations(config: RunConfig, run: RunFolder, name: SetName) -> MappedSet:
    """Returns the representations of one set of a run as rows that are read when they are needed.

    Raises:
        ArtifactError: They are not all there.
    """
    index, rows = _members(config, run, name)
    keys = np.concatenate([rows.keys, rows.beside])
    found = index.map(keys, Joined([rows.ids, [rows.ids[row] for row in rows.joined.tolist()]]))
    return MappedSet(
        ids=rows.ids,
        hashes=rows.keys,
        values=found.values.looked_at(rows.alone, rows.joined),
        truncated=found.truncated[: len(rows.ids)],
        shards=found.shards,
    )


class _Members(NamedTuple):
    """The rows of one set, as the run's table of representations has them; those that another vector is half of."""

    ids: Sequence[str]
    keys: NDArray[np.uint8]
    whole: NDArray[np.uint8]
    joined: NDArray[np.int64]
    beside: NDArray[np.uint8]
    alone: NDArray[np.bool_]


def _members(config: RunConfig, run: RunFolder, name: SetName) -> tuple[CacheIndex, _Members]:
    with contents_told(run.path):
        return _read_members(config, run, name)


def _read_members(config: RunConfig, run: RunFolder, name: SetName) -> tuple[CacheIndex, _Members]:
    parts = [*REPRESENTATIONS.parts_of(run, "id", "key", "beside", "whole", "alone", where={"set": [name]})]
    summary = ENCODING.read(run)
    # Only the shards that this run read: another plan's may hold the same text with other last bits.
    index = _own_cache(config, run).index(summary["fingerprint"], summary["shards"])
    # The hexadecimal texts of a part at a time become bytes.
    keys = [[keys_from_hex(part[column].to_pylist()) for part in parts] for column in ("key", "whole")]
    beside = [keys_from_hex(part["beside"].drop_null().to_pylist()) for part in parts]
    joined = [~part["beside"].is_null().to_numpy() for part in parts]
    alone = [part["alone"].to_numpy() for part in parts]
    ids = Texts.of(part["id"] for part in parts)
    nothing = np.zeros((0, 32), np.uint8)
    key, whole, other = (np.concatenate([nothing, *column]) for column in (*keys, beside))
    places, flags = (np.concatenate([np.zeros(0, np.bool_), *column]) for column in (joined, alone))
    return index, _Members(ids, key, whole, np.flatnonzero(places), other, flags)


def _own_cache(config: RunConfig, run: RunFolder) -> RepresentationCache:
    """Returns where the representations of a run lie."""
    return RepresentationCache(Path(config.cache_dir) if config.cache_dir else run.file(_SHARDS))


def _cache(config: RunConfig, run: RunFolder) -> RepresentationCache:
    """Returns where representations are looked for and written: what all runs share, where that can be written."""
    own, shared = _own_cache(config, run), shared_cache()
    return RepresentationCache(shared) if config.cache and not config.cache_dir and _is_writable(shared) else own


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _key(config: RunConfig) -> dict[str, Any]:
    # Shared or not, what a run read lies in its folder.
    settings = config.part(RepresentationSettings).model_dump(mode="json", exclude={"cache"})
    return {
        "settings": settings,
        "fingerprints": [encoder.fingerprint for encoder in make_encoders(config).members],
        "libraries": library_versions("torch", "transformers"),
        "threads": config.threads,
    }


class _Encoded(NamedTuple):
    """What lies in the cache when all processes are done."""

    encoder: Encoder
    choice: Choice | None
    sizes: dict[SetName, int]
    filled: Iterator[MappedSet]
    look: Suspicion | None
    shown: ShownRows
    viewed: Iterator[MappedSet]
    prompts: Iterator[MappedSet]


def _encode(config: RunConfig, run: RunFolder, monitor: Monitor) -> _Encoded:
    """Fills the cache with all that the run reads, whoever computes which part of it."""
    group, cache = make_encoders(config), _cache(config, run)
    sets, engine = read_records(run), engine_of(config, threads=config.threads, device=config.device)
    encoder, choice = group.members[0], None
    if len(group.members) > 1:
        choice = choose_encoder(group, sets, cache, **_told(monitor, "comparing representations"), engine=engine)
        # Main's choice: elsewhere the last bits of a figure may differ.
        encoder = group.members[processes.gather(group.members.index(choice.encoder))[0]]
    # One call for all sets, so that rows of like length share batches whatever set they are in.
    sizes, everything = {name: len(sets[name]) for name in SET_NAMES}, Joined(sets[name] for name in SET_NAMES)
    filled = map_cache(encoder, everything, cache, **_told(monitor, "encoding"), engine=engine)
    look = None
    if _looks_first(config, encoder):
        # Main's: elsewhere the last bits of a score may differ.
        look = processes.gather(fit_first_look(encoder, sets, config.sentence_budget))[0]
    first_look = None if look is None else FirstLook(encoder, look)
    shown = ShownRows(encoder, everything, most=config.max_windows, first_look=first_look)
    viewed: Iterator[MappedSet] = iter(())
    if len(shown.records):
        viewed = map_cache(encoder, shown.records, cache, **_told(monitor, "encoding parts"), engine=engine)
    prompts: Iterator[MappedSet] = iter(())
    if config.prompt_control:  # here, where the model is loaded; the weights are compared later
        alone = [record for rows in sample_prompts(sets).values() for record in rows]
        prompts = map_cache(encoder, alone, cache, **_told(monitor, "encoding prompts alone"), engine=engine)
    return _Encoded(encoder, choice, sizes, filled, look, shown, viewed, prompts)


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    encoder, choice, sizes, filled, look, shown, viewed, prompts = processes.together(
        "representations", lambda: _encode(config, run, monitor)
    )
    cache = _cache(config, run)
    if choice is not None and not choice.measured:
        monitor.warn(
            f"no layer or pooling could be chosen ({choice.candidates[0].reason}); the last layer's last token "
            f"represents the rows, unless layer or pooling say otherwise"
        )
    (encoded,) = filled
    if not all(encoded.values[rows].isfinite().all() for rows in _blocks(len(encoded.ids))):
        raise ArtifactError(f"the cache in {cache.folder} holds values that are not finite; delete it and run again")
    parts = next(viewed, None)
    looked = _looked_at(config, encoder, sizes, encoded, shown, parts)
    others = [shard for found in (*prompts, *([parts] if parts else ())) for shard in found.shards]
    n_unread = int(looked.unread.sum())
    if n_unread and config.max_windows > 1 and config.unread == "flag":
        monitor.warn(
            f"{n_unread:,} of {len(encoded.ids):,} rows are so long that {config.max_windows} parts do not show all "
            f"that is learned; harm may stand in the rest. Raise max_windows, or leave them out with unread: drop"
        )
    n_truncated = int(encoded.truncated.sum())
    if n_truncated:
        where = "in parts" if look is None else "where it looks the most suspicious"
        parts_too = f"; the rest of the answers is read {where}" if config.max_windows > 1 else ""
        monitor.warn(
            f"{n_truncated:,} of {len(encoded.ids):,} rows are longer than the encoder can read at once; they "
            f"keep the end of the prompt and the start of the completion (see max_length){parts_too}"
        )
    summary = {
        "fingerprint": encoder.fingerprint,
        "description": dict(encoder.description),
        "dimension": encoded.values.shape[1],
        "answer_from": encoder.answer_from,
        "n_rows": len(encoded.ids),
        "n_truncated": n_truncated,
        "n_unread": n_unread,
        "n_read_in_parts": len(torch.unique(shown.owner)),
        "n_parts": len(shown.records),
        "n_by_part": sum(view != "" for view in looked.view),
        "shards": sorted({*encoded.shards, *(parts.shards if parts else ())}),
        "choice": None if choice is None else choice.as_dict(),
    }
    index = REPRESENTATIONS.write_parts(run, _index(sizes, encoded, looked))
    written = [index, ENCODING.write(run, summary), *([FIRST_LOOK.write(run, look.state())] if look else ())]
    if config.cache_dir:  # shards outside the run folder are no artefacts of the run
        return written
    shards = sorted({*encoded.shards, *others})
    read = cache.hand_over(encoder.fingerprint, shards, to=_own_cache(config, run))
    return [*written, *(str(path.relative_to(run.path)) for path in read)]


def _blocks(n: int) -> Iterator[slice]:
    """Yields slices of some rows, which are looked at one after another."""
    return (slice(start, min(n, start + BLOCK_ROWS)) for start in range(0, n, BLOCK_ROWS))


class _Looked(NamedTuple):
    """Which look represents each row: the columns of the run's table of representations that say so.

    ``joined`` are the places of those rows that another vector is half of, and ``beside`` is which, for each of them.
    """

    keys: NDArray[np.uint8]
    joined: NDArray[np.int64]
    beside: NDArray[np.uint8]
    alone: NDArray[np.bool_]
    view: Sequence[str]
    unread: NDArray[np.bool_]


def _looked_at(
    config: RunConfig,
    encoder: Encoder,
    sizes: Mapping[SetName, int],
    whole: MappedSet,
    shown: ShownRows,
    parts: MappedSet | None,
) -> _Looked:
    """Returns which look represents each row."""
    n = len(whole.ids)
    if config.max_windows == 1:
        nowhere = np.zeros(0, np.int64)
        flags = np.zeros(n, np.bool_)
        return _Looked(whole.hashes, nowhere, whole.hashes[nowhere], flags, [""] * n, whole.truncated)

    @functools.cache
    def harm_score() -> HarmScore:
        ends = dict(zip(SET_NAMES, itertools.accumulate(sizes[name] for name in SET_NAMES), strict=True))
        return _harm_score(
            {name: whole.values[ends[name] - sizes[name] : ends[name]] for name in SET_NAMES[1:] if sizes[name]}
        )

    hashes, flags, view = whole.hashes.copy(), np.zeros(n, np.bool_), list[str]()
    joined, beside = [np.zeros(0, np.int64)], [whole.hashes[:0]]
    for rows in _blocks(n):
        some, first, last = shown.of(rows)
        viewed = parts.values[first:last] if parts is not None and first < last else None
        alone = reads_answers_alone(config, encoder)
        looks = pick_looks(whole.values[rows], viewed, some, harm_score, alone=alone)
        picked = np.flatnonzero(looks.view.numpy() >= 0)
        if parts is not None and len(picked):
            hashes[rows.start + picked] = parts.hashes[first + looks.view.numpy()[picked]]
        stretched = np.flatnonzero(looks.stretch.numpy() >= 0)
        if parts is not None and len(stretched):
            joined.append(rows.start + stretched)
            beside.append(parts.hashes[first + looks.stretch.numpy()[stretched]])
        flags[rows] = looks.alone.numpy()
        view += [sys.intern(looks.place(row, some)) for row in range(len(looks.view))]
    return _Looked(hashes, np.concatenate(joined), np.concatenate(beside), flags, view, ~shown.complete)


def _index(sizes: Mapping[SetName, int], encoded: MappedSet, looked: _Looked) -> Iterator[dict[str, Any]]:
    """Yields the run's table of representations, part by part."""
    names = Joined([name] * sizes[name] for name in SET_NAMES)
    for rows in _blocks(len(names)):
        first, last = np.searchsorted(looked.joined, [rows.start, rows.stop])
        beside: list[str | None] = [None] * (rows.stop - rows.start)
        for row, key in zip(looked.joined[first:last].tolist(), hex_keys(looked.beside[first:last]), strict=True):
            beside[row - rows.start] = key
        yield {
            "set": [*names[rows]],
            "id": [*encoded.ids[rows]],
            "key": hex_keys(looked.keys[rows]),
            "beside": beside,
            "whole": hex_keys(encoded.hashes[rows]),
            "alone": looked.alone[rows],
            "view": looked.view[rows],
            "unread": looked.unread[rows],
        }


def _told(monitor: Monitor, label: str) -> dict[str, Any]:
    """Returns how the work speaks: how far it is and, if it takes minutes, one line about them."""
    return {
        "progress": lambda done, total: monitor.progress(label, done, total),
        "announce": lambda line: monitor.stage(f"{label}: {line}", "running"),
    }


def _summarize(run: RunFolder) -> Figures:
    summary = ENCODING.read(run)
    figures = {"representations": f"{summary['n_rows']:,} × {summary['dimension']}"}
    if summary.get("choice"):
        description, n = summary["description"], len(summary["choice"]["candidates"])
        figures["read at"] = f"layer {description['layer']}, {description['pooling']} (best of {n})"
    if summary["n_by_part"]:
        figures["represented by a part or by the answer alone"] = counted(summary["n_by_part"], "row")
    if summary["n_unread"]:
        figures["not wholly read"] = counted(summary["n_unread"], "row")
    return figures


_SURVIVES = "all shards that were written are kept, and are not encoded again"
ENCODE = Stage(
    "representations", "encode", "records", _key, _work, _summarize, version=5, survives=_SURVIVES, shared=_encode
)
