"""Shapes of a whole world model, and its sizes: nano ships, small is for one GPU, and paper has the
layers, widths and codes of Genie's largest (Bruce et al. 2024, appendix), at 64 pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vla_ros.models.genie.dynamics import DynamicsConfig
from vla_ros.models.genie.latent_actions import LatentActionConfig
from vla_ros.models.genie.robot_actions import RobotActionConfig
from vla_ros.models.genie.surprise import Calibration
from vla_ros.models.genie.tokenizer import TokenizerConfig
from vla_ros.models.part import config_from

# What differs from the defaults of each part's configuration.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "nano": {"tokenizer": {}, "latent_actions": {}, "dynamics": {}},
    "small": {
        "tokenizer": {
            "patch": 4, "channels": (128,), "width": 256, "heads": 8, "encoder_layers": 4,
            "decoder_width": 256, "decoder_heads": 8, "decoder_layers": 6, "window": 8,
        },
        "latent_actions": {
            "width": 256, "heads": 8, "encoder_layers": 6, "decoder_layers": 6,
            "encoder_window": 8, "decoder_window": 4,
        },
        "dynamics": {"width": 384, "heads": 12, "layers": 8, "window": 16},
    },
    "paper": {
        "tokenizer": {
            "patch": 4, "channels": (), "width": 512, "heads": 8, "encoder_layers": 12,
            "decoder_width": 1024, "decoder_heads": 16, "decoder_layers": 20, "window": 16,
            "quantizer": "vq",
        },
        "latent_actions": {
            "patch": 16, "width": 1024, "heads": 16, "encoder_layers": 20, "decoder_layers": 20,
            "encoder_window": 16, "decoder_window": 16,
        },
        "dynamics": {"width": 5120, "heads": 40, "layers": 48, "window": 16},
    },
}  # fmt: skip


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
        if not 0.0 < self.dt <= 60.0 or self.longest < 1:
            raise ValueError(
                f"dt is {self.dt}, longest {self.longest}: give seconds, and 1 or more"
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


def part(size: str, name: str) -> dict[str, Any]:
    """What differs from the defaults in a part of a size. Raises ValueError: no such size."""
    if size not in SIZES:
        raise ValueError(f"no size {size!r}: choose {', '.join(SIZES)}")
    return SIZES[size][name]
