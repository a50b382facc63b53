"""Second stage: records to representations, cached by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune.artifacts import RunFolder, library_versions, read_json, read_parquet, write_json, write_parquet
from sotune.config import RepresentationSettings, RunConfig
from sotune.errors import ArtifactError, ConfigError
from sotune.pipeline.record_sets import read_records
from sotune.pipeline.stage import Figures, Monitor, Stage
from sotune.records import SET_NAMES, Record, SetName

if TYPE_CHECKING:
    from sotune.representations import CacheIndex, EncodedSet, Encoder, MappedRows, RepresentationCache

_INDEX, _SUMMARY, _SHARDS = "representations.parquet", "representations.json", "representations"
_SENTENCE_PREFIX = "sentence-transformers:"


def make_encoder(config: RunConfig) -> Encoder:
    """Returns the encoder that the settings name: the model itself, or another one for the weights alone.

    Raises:
        ConfigError: The model cannot be found, or the encoder's name is not understood.
    """
    from sotune.models import ModelSpec, resolve_device
    from sotune.representations import CausalLMEncoder, SentenceEncoder

    if config.encoder is not None:
        if not config.encoder.startswith(_SENTENCE_PREFIX):
            raise ConfigError(f"encoder must be {_SENTENCE_PREFIX}PATH. Got {config.encoder!r}")
        return SentenceEncoder(
            config.encoder.removeprefix(_SENTENCE_PREFIX),
            device=str(resolve_device(config.device)),
            batch_tokens=config.batch_tokens,
            parts=config.encoder_parts,
        )
    if config.model is None:
        raise ConfigError("name a causal LM with model, or an encoder with encoder (sentence-transformers:PATH)")
    spec = ModelSpec(config.model, config.revision, config.dtype, config.device, config.trust_remote_code)
    return CausalLMEncoder(
        spec,
        layer=config.layer,
        template=config.template,
        max_length=config.max_length,
        batch_tokens=config.batch_tokens,
    )


def encode_records(config: RunConfig, run: RunFolder, records: Sequence[Record], monitor: Monitor) -> EncodedSet:
    """Encodes any records with the run's encoder, through its cache."""
    from sotune.representations import encode_with_cache

    return encode_with_cache(make_encoder(config), records, _cache(config, run), progress=_told(monitor, "encoding"))


def load_representations(config: RunConfig, run: RunFolder, name: SetName) -> EncodedSet:
    """Reads the representations of one set of a run.

    Raises:
        ArtifactError: They are not all there.
    """
    index, keys, ids = _members(config, run, name)
    return index.load(keys, ids)


def map_representations(config: RunConfig, run: RunFolder, name: SetName) -> tuple[list[str], MappedRows]:
    """Returns the ids of one set of a run, and its representations as rows that are read when they are needed.

    Raises:
        ArtifactError: They are not all there.
    """
    index, keys, ids = _members(config, run, name)
    return ids, index.map(keys, ids)


def _members(config: RunConfig, run: RunFolder, name: SetName) -> tuple[CacheIndex, list[str], list[str]]:
    columns = read_parquet(run.file(_INDEX))
    members = [i for i, set_name in enumerate(columns["set"]) if set_name == name]
    summary = read_json(run.file(_SUMMARY))
    # Only the shards that this run read: another plan's may hold the same text with other last bits.
    index = _cache(config, run).index(summary["fingerprint"], summary["shards"])
    return index, [columns["key"][i] for i in members], [columns["id"][i] for i in members]


def _cache(config: RunConfig, run: RunFolder) -> RepresentationCache:
    from sotune.representations import RepresentationCache

    return RepresentationCache(Path(config.cache_dir) if config.cache_dir else run.file(_SHARDS))


def _key(config: RunConfig) -> dict[str, Any]:
    settings = {name: getattr(config, name) for name in RepresentationSettings.model_fields}
    return {
        "settings": settings,
        "fingerprint": make_encoder(config).fingerprint,
        "libraries": library_versions("torch", "transformers"),
        "threads": config.threads,
    }


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    from sotune.representations import encode_with_cache

    encoder, cache = make_encoder(config), _cache(config, run)
    sets = read_records(run)
    # One call for all three sets, so that rows of like length share batches whatever set they are in.
    everything = [record for name in SET_NAMES for record in sets[name]]
    encoded = encode_with_cache(encoder, everything, cache, progress=_told(monitor, "encoding"))
    if not encoded.values.isfinite().all():
        raise ArtifactError(f"the cache in {cache.folder} holds values that are not finite; delete it and run again")
    write_parquet(
        run.file(_INDEX),
        {
            "set": [name for name in SET_NAMES for _ in sets[name]],
            "id": list(encoded.ids),
            "key": list(encoded.keys),
        },
    )
    if encoded.n_truncated:
        monitor.warn(
            f"{encoded.n_truncated:,} of {len(everything):,} rows are longer than the encoder reads; they keep the end "
            f"of the prompt and the start of the completion (see max_length)"
        )
    write_json(
        run.file(_SUMMARY),
        {
            "fingerprint": encoder.fingerprint,
            "description": dict(encoder.description),
            "dimension": encoded.values.shape[1],
            "n_rows": len(everything),
            "n_truncated": encoded.n_truncated,
            "shards": list(encoded.shards),
        },
    )
    if config.cache_dir:  # shards outside the run folder are no artefacts of the run
        return [_INDEX, _SUMMARY]
    read = [p for p in cache.shards(encoder.fingerprint) if p.stem.removeprefix("shard-") in encoded.shards]
    return [_INDEX, _SUMMARY, *(str(path.relative_to(run.path)) for path in read)]


def _told(monitor: Monitor, label: str) -> Any:
    return lambda done, total: monitor.progress(label, done, total)


def _summarize(run: RunFolder) -> Figures:
    summary = read_json(run.file(_SUMMARY))
    return {"representations": f"{summary['n_rows']:,} × {summary['dimension']}"}


REPRESENTATIONS = Stage("representations", "encode", "records", _key, _work, _summarize)
