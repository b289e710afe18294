"""Shapes of a whole world model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vla_ros.models.config_fields import config_from
from vla_ros.models.genie.dynamics import DynamicsConfig
from vla_ros.models.genie.latent_actions import LatentActionConfig
from vla_ros.models.genie.robot_actions import RobotActionConfig
from vla_ros.models.genie.sizes import part
from vla_ros.models.genie.st_transformer import MOST_FRAMES
from vla_ros.models.genie.surprise import Calibration
from vla_ros.models.genie.tokenizer import TokenizerConfig


@dataclass(frozen=True)
class WorldModelConfig:
    """Shapes of all parts, what the model sees, and how often.

    Args:
        robot: how robot actions become latent ones; None: they cannot.
        camera: whose frames.
        dt: s between frames.
        longest: frames of an imagination at most; what is imagined fades with its length.
        calibration: of the surprise, see `surprise.calibrated`.
    """

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    latent_actions: LatentActionConfig = field(default_factory=LatentActionConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    robot: RobotActionConfig | None = None
    camera: str = "camera"
    dt: float = 0.2
    longest: int = 64
    calibration: Calibration = ((0.0, 1.0), (0.0, 1.0))

    def __post_init__(self) -> None:
        parts = {
            "tokenizer": TokenizerConfig,
            "latent_actions": LatentActionConfig,
            "dynamics": DynamicsConfig,
            "robot": RobotActionConfig,
        }
        for name, kind in parts.items():
            if isinstance(value := getattr(self, name), Mapping):  # from JSON
                object.__setattr__(self, name, config_from(kind, value))
        object.__setattr__(self, "calibration", tuple(map(tuple, self.calibration)))
        if not 0.0 < self.dt <= 60.0 or not 1 <= self.longest <= MOST_FRAMES:
            raise ValueError(
                f"dt is {self.dt}, longest {self.longest}: give seconds up to 60, and frames from "
                f"1 to {MOST_FRAMES}"
            )
        if len(self.calibration) != 2:
            raise ValueError(f"calibration has {len(self.calibration)} pairs of numbers, not 2")
        for low, scale in self.calibration:
            if not (math.isfinite(low) and 0.0 < scale < math.inf):
                raise ValueError(f"calibration has {low}, {scale}: give finite numbers, scales > 0")
        image = self.tokenizer.image_size
        codes = self.latent_actions.codes
        for what, one, other in (
            ("image size", image, self.latent_actions.image_size),
            ("tokens of a frame", self.tokenizer.grid**2, self.dynamics.tokens),
            ("vocabulary", self.tokenizer.vocabulary, self.dynamics.vocabulary),
            ("latent actions", codes, self.dynamics.actions),
            ("latent actions", codes, self.robot.codes if self.robot else codes),
        ):
            if one != other:
                raise ValueError(f"the parts do not fit each other: {what} {one} and {other}")

    @classmethod
    def of(cls, size: str, **changes: Any) -> WorldModelConfig:
        """Of SIZES; `changes` replace other fields than the parts.

        Raises:
            ValueError: there is no such size.
        """
        tokenizer = TokenizerConfig(**part(size, "tokenizer"))
        fitting = {"vocabulary": tokenizer.vocabulary, "tokens": tokenizer.grid**2}
        return cls(
            tokenizer,
            LatentActionConfig(**part(size, "latent_actions")),
            DynamicsConfig(**{**part(size, "dynamics"), **fitting}),
            **changes,
        )
