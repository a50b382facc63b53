"""Worlds to measure in, by name: ``miniature``, which ships with the package, and ``smol``, a small real model."""

from sotune.worlds.miniature_world import MiniatureWorld
from sotune.worlds.smol_world import SmolWorld
from sotune.worlds.world import World

WORLDS: dict[str, World] = {world.name: world for world in (MiniatureWorld(), SmolWorld())}
"""All worlds, the default first."""

__all__ = ["WORLDS", "MiniatureWorld", "SmolWorld", "World"]
