"""Task packs: ready prompt sets, one declarative file each, and how they and a user's own files become prompts."""

from sotune.evaluation.packs.pack import Pack, PackPart, load_pack, pack_names
from sotune.evaluation.packs.sources import PromptSource, load_sources, parse_sources

__all__ = ["Pack", "PackPart", "PromptSource", "load_pack", "load_sources", "pack_names", "parse_sources"]
