"""From records to vectors, with a frozen model, cached on disk."""

from sotune.representations.base import EncodedSet, Encoder
from sotune.representations.cache import CacheIndex, MappedRows, RepresentationCache, encode_with_cache
from sotune.representations.causal_lm import CausalLMEncoder
from sotune.representations.sentence import SentenceEncoder

__all__ = [
    "CacheIndex",
    "CausalLMEncoder",
    "EncodedSet",
    "Encoder",
    "MappedRows",
    "RepresentationCache",
    "SentenceEncoder",
    "encode_with_cache",
]
