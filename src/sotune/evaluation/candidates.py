"""Models to be measured: a base model, and what was tuned from it as an adapter or as a whole."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.artifacts import sha256_file
from sotune.errors import ConfigError
from sotune.freshness import check_adapter
from sotune.models import ModelSpec, load_adapted, model_fingerprint
from sotune.rendering import Renderer, load_renderer
from sotune.settings import ModelEvaluation, RenderingSettings

BASE = "base"
_ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True)
class Candidate:
    """One model to be measured: a base model as it is, or with an adapter on it.

    Attributes:
        name: What reports call it.
        spec: The model.
        adapter: The adapter's folder; None for the model alone.
        remote: Whether a server has the model, and nothing of it is here.
    """

    name: str
    spec: ModelSpec
    adapter: Path | None = None
    remote: bool = False

    @property
    def fingerprints(self) -> dict[str, str | None]:
        """What the model is by its content, apart from what the adapter is; of one that is not here, nothing."""
        if self.remote:
            return {"model": None, "adapter": None}
        return {"model": model_fingerprint(self.spec), "adapter": self._of_adapter()}

    def _of_adapter(self) -> str | None:
        if self.adapter is None:
            return None
        weights = self.adapter / _ADAPTER
        return sha256_file(weights) if weights.exists() else model_fingerprint(ModelSpec(str(self.adapter)))

    def load(self) -> Any:
        """Returns the model, frozen, with its adapter on it.

        Raises:
            ConfigError: The model could not be loaded.
        """
        return load_adapted(self.spec, self.adapter)

    @contextmanager
    def loaded(self, rendering: RenderingSettings) -> Iterator[tuple[Any, Renderer]]:
        """Yields the model and how it is rendered for, and lets go of them afterwards."""
        model = self.load()
        try:
            yield model, load_renderer(self.spec, rendering)
        finally:
            del model
            gc.collect()


def find_candidates(settings: ModelEvaluation) -> list[Candidate]:
    """Returns the base model and, under names that tell them apart, everything that is compared with it.

    Raises:
        ConfigError: An adapter's folder does not exist or holds neither an adapter nor a model.
        ArtifactError: An adapter of a run is stale.
    """
    base = ModelSpec(
        settings.model, settings.revision, settings.dtype, settings.device, trust_remote_code=settings.trust_remote_code
    )
    candidates = [Candidate(BASE, base, remote=_is_remote(settings.model, settings))]
    for name, path in zip(_names(settings.adapter), settings.adapter, strict=True):
        folder = Path(path).expanduser()
        if _is_remote(path, settings):
            candidates.append(Candidate(name, dataclasses.replace(base, name=path, revision=None), remote=True))
        elif (folder / "adapter_config.json").is_file():
            if not (folder / _ADAPTER).is_file():
                raise ConfigError(f"{path} has no {_ADAPTER}; save the adapter as safetensors")
            check_adapter(folder)
            candidates.append(Candidate(name, base, folder))
        elif (folder / "config.json").is_file():
            candidates.append(Candidate(name, dataclasses.replace(base, name=str(folder), revision=None)))
        else:
            raise ConfigError(f"{path} is neither a folder of a PEFT adapter nor one of a model; check the path")
    return candidates


def _is_remote(path: str, settings: ModelEvaluation) -> bool:
    """Tells whether only the server can know a model."""
    return settings.server_base_url is not None and not Path(path).expanduser().exists()


def _names(paths: Sequence[str]) -> list[str]:
    """Returns the folders' own names; a parent's where the own name is the same for all adapters, then numbered."""
    names: list[str] = []
    for path in paths:
        folder = Path(path).expanduser().resolve()
        generic = folder.name in ("adapter", "model") or folder.name.startswith("checkpoint-")
        name = f"{folder.parent.name}-{folder.name}".removesuffix("-adapter") if generic else folder.name
        while name in (*names, BASE):
            name += "-2"
        names.append(name)
    return names
