"""Which model a run fine-tunes."""

from __future__ import annotations

from sotune.errors import ConfigError
from sotune.models import ModelSpec
from sotune.settings import RunConfig

NO_MODEL = "training and evaluation need a causal LM; name it with model (the encoder only weighs)"


def base_model(config: RunConfig) -> ModelSpec:
    """Returns the model that is fine-tuned.

    Raises:
        ConfigError: Only an encoder is named, which cannot be fine-tuned.
    """
    if config.model is None:
        raise ConfigError(NO_MODEL)
    return ModelSpec(config.model, config.revision, config.dtype, config.device, config.trust_remote_code)
