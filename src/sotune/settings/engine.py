"""Where the long work is computed; no result depends on it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sotune.settings.schema import StageSettings


class EngineSettings(StageSettings):
    """Engine: where the long work is computed."""

    engine: Literal["local", "ray"] = Field(
        "local",
        description="local: this process, or those that torchrun or accelerate launched; ray: a Ray cluster encodes, "
        "trains, answers, and measures the cells of a comparison.",
    )
    ray_address: str | None = Field(
        None,
        description="Address of the Ray cluster, like auto or ray://HOST:10001; default: the cores of this machine.",
    )
    ray_train_workers: int = Field(
        1,
        ge=1,
        description="Workers of the Ray cluster that train together by DDP, each with a GPU if there are some; the "
        "adapter is that of as many processes under torchrun. Cells of a comparison are tasks of one worker each.",
    )
