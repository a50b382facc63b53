"""A real model and real text: SmolLM2-135M-Instruct out of a package, aligned here, tuned on public data sets.

Nothing of the data ships with sotune: a user names the folder that holds it, and licences are in ``sources.yaml``.
"""

from sotune.worlds.smol.smol_world import SmolWorld

__all__ = ["SmolWorld"]
