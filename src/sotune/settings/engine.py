"""Where the long work is computed; no result depends on it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

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

    @model_validator(mode="after")
    def _of_ray(self) -> Self:
        """Refuses what would silently count for nothing."""
        of_ray = [name for name in ("ray_address", "ray_train_workers") if getattr(self, name) not in (None, 1)]
        if of_ray and self.engine != "ray":
            raise ValueError(f"{' and '.join(of_ray)} count only with engine: ray; set it, or leave them out")
        return self
