"""From records to vectors, with a frozen model, cached on disk."""

from sotune.representations.cache import (
    CacheIndex,
    MappedRows,
    MappedSet,
    RepresentationCache,
    answers_alone,
    is_intact_shard,
    shared_cache,
)
from sotune.representations.causal_lm import (
    CausalLMEncoder,
    CausalLMReadings,
    FrozenCausalLM,
    candidate_layers,
    candidate_poolings,
)
from sotune.representations.encoder import (
    EncodedSet,
    Encoder,
    EncoderGroup,
    OnProgress,
    encode_group,
    hex_keys,
    keys_from_hex,
)
from sotune.representations.filling import encode_with_cache, fill_cache, map_cache
from sotune.representations.hidden_states import POOLINGS, Pooling, Reading
from sotune.representations.sentence import SentenceEncoder

__all__ = [
    "answers_alone",
    "POOLINGS",
    "CacheIndex",
    "CausalLMEncoder",
    "CausalLMReadings",
    "EncodedSet",
    "Encoder",
    "EncoderGroup",
    "FrozenCausalLM",
    "MappedRows",
    "MappedSet",
    "OnProgress",
    "Pooling",
    "Reading",
    "RepresentationCache",
    "SentenceEncoder",
    "candidate_layers",
    "candidate_poolings",
    "encode_group",
    "encode_with_cache",
    "fill_cache",
    "hex_keys",
    "is_intact_shard",
    "keys_from_hex",
    "map_cache",
    "shared_cache",
]
