"""Sizes, shapes and normalisation of the vision-language-action model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.models.config_fields import check_fields
from vla_ros.robots.action_config import ActionConfig

SMALL_ENCODER = {"model_type": "small", "image_size": 64, "channels": 32}
_WITH_PRETRAINED_VISION = {
    "vocab_size": 24_000,
    "heard_tokens": 24_000,
    "keypoint_width": 192,
    "instruction_width": 256,
    "text_width": 512,
    "text_layers": 2,
}
# Tiny is what ships; the others come to about 50, 150 and 350 million parameters.
SIZES = {
    "tiny": {"vision_model": SMALL_ENCODER, "d_model": 160, "n_layers": 2, "d_state": 32},
    "small": _WITH_PRETRAINED_VISION
    | {"vision_model": "dinov2-small", "d_model": 512, "n_layers": 4},
    "base": _WITH_PRETRAINED_VISION
    | {"vision_model": "dinov2-base", "d_model": 768, "n_layers": 6, "text_width": 640},
    "large": _WITH_PRETRAINED_VISION
    | {"vision_model": "dinov2-large", "d_model": 1024, "n_layers": 8},
}


@dataclass(frozen=True)
class VLAMConfig:
    """Shapes of the model and its contract with the robot; travels inside the checkpoint."""

    action: ActionConfig
    vision: dict  # the encoder's description, see vision.build_encoder
    d_model: int = 512
    n_layers: int = 4
    d_state: int = 64
    mixer: str = "mamba2"  # or "mamba1"
    vocab_size: int = 0
    heard_tokens: int = 0  # the first so many of them may come in instructions
    # An instruction must have one of them, and may then have words that were not taught.
    needed_words: tuple[str, ...] = ()
    # Trained without any instruction: it takes all and heeds none.
    language_conditioned: bool = True
    freeze_vision: bool = False
    cameras: tuple[str, ...] = ("camera",)
    keypoints: int = 16  # of each camera
    keypoint_width: int = 32
    instruction_width: int = 64
    text_width: int = 64
    text_layers: int = 1
    geometry: dict | None = None  # its encoder's description, see vision.build_geometry

    @classmethod
    def from_dict(cls, values: dict) -> VLAMConfig:
        """From what `dataclasses.asdict` and JSON leave of one. Raises ValueError."""
        # As in checkpoints without those fields.
        values = {"language_conditioned": True, "geometry": None, **values}
        check_fields(cls, values)
        tuples = {name: tuple(values[name]) for name in ("cameras", "needed_words")}
        return cls(**{**values, **tuples, "action": ActionConfig.from_dict(values["action"])})


@dataclass
class Statistics:
    """Normalisation of proprioception and actions, from the training data."""

    proprioception_mean: np.ndarray  # [P]
    proprioception_std: np.ndarray  # [P]
    action_offset: np.ndarray  # [K, A]
    action_scale: np.ndarray  # [K, A]

    def problem(self, action: ActionConfig) -> str:
        """What is wrong with them for these actions; "" if nothing is.

        Actions come out as offset + scale * (a number near 1), so both must be of the order of the
        bounds. A spread of proprioception beyond what any unit gives to a robot's state makes it
        vanish, or drown the rest.
        """
        low, high = np.array(action.action_bounds).T
        width = high - low
        free = ~np.array(action.binary)  # the others are decided, not scaled
        for name, value in vars(self).items():
            wanted = (len(action.proprioception_names),)
            if name.startswith("action"):
                wanted = (action.horizon, action.action_dim)
            if value.shape != wanted:
                return f"{name} has shape {list(value.shape)}, by its config.json {list(wanted)}"
            if not np.isfinite(value).all():
                return f"{name} is not finite"
        felt, scale, offset = self.proprioception_std, self.action_scale, self.action_offset
        for name, value, least, most in (
            ("proprioception_std", felt, 1e-6, 1e4),
            ("proprioception_mean", self.proprioception_mean, -1e6, 1e6),
            ("action_scale", scale[:, free], 1e-6 * width[free], 10 * width[free]),
            ("action_offset", offset[:, free], (low - 10 * width)[free], (high + 10 * width)[free]),
        ):
            wrong = (value < least) | (value > most)
            if wrong.any():
                where = tuple(np.argwhere(wrong)[0])
                least, most = (
                    np.broadcast_to(bound, value.shape)[where] for bound in (least, most)
                )
                return f"{name} has {value[where]:g}: it must be from {least:g} to {most:g}"
        return ""

    @classmethod
    def neutral(cls, action: ActionConfig) -> Statistics:
        """Nothing is known of the data: the middle and half the width of each action's bounds."""
        felt, low, high = len(action.proprioception_names), *np.array(action.action_bounds).T
        shape = (action.horizon, action.action_dim)
        return cls(
            np.zeros(felt),
            np.ones(felt),
            np.broadcast_to((low + high) / 2, shape).copy(),
            np.broadcast_to((high - low) / 2, shape).copy(),
        )
