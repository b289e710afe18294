"""From what a robot is told to do to the latent actions of the world model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_ros.models.part import Part

_OFFSET_NAMES = ("x", "y", "z")


@dataclass(frozen=True)
class RobotActionConfig:
    """What the robot's actions are; as in `ActionConfig`."""

    action_names: tuple[str, ...]
    control_mode: str
    proprioception_names: tuple[str, ...]
    points: int = 4  # P, actions during one step of the world model
    dt: float = 0.05  # s between them
    codes: int = 8  # latent actions
    width: int = 128

    def __post_init__(self) -> None:
        for name in ("action_names", "proprioception_names"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.points < 1 or not self.action_names:
            raise ValueError("a robot action has a name or more, a step a point or more")
        if not 0.0 < self.dt < math.inf:
            raise ValueError(f"dt is {self.dt}: give seconds")


class RobotActions(Part):
    """A distribution over latent actions, of the robot's actions during one step and of what it
    feels at its beginning. Trained on the latent actions inferred from video."""

    Config = RobotActionConfig

    def __init__(self, config: RobotActionConfig) -> None:
        super().__init__()
        self.config = c = config
        known = c.points * len(c.action_names) + len(c.proprioception_names)
        self.register_buffer("mean", torch.zeros(known))
        self.register_buffer("std", torch.ones(known))
        self.layers = nn.Sequential(
            nn.Linear(known, c.width),
            nn.SiLU(),
            nn.Linear(c.width, c.width),
            nn.SiLU(),
            nn.Linear(c.width, c.codes),
        )

    def problem(self) -> str:
        return "" if (self.std > 0).all() else "std of the robot's actions must be positive"

    def forward(self, actions: Tensor, proprioception: Tensor) -> Tensor:
        """Logits [..., codes] of actions [..., P, A] and proprioception [..., F], physical units.

        Offsets from the tool are told from where it is at the step's beginning.
        """
        known = torch.cat([actions.flatten(-2), proprioception], dim=-1)
        return self.layers((known - self.mean) / self.std)

    def rollout(self, actions: Tensor, proprioception: Tensor) -> Tensor:
        """Probabilities float [H, codes] of the latent actions of H steps.

        Args:
            actions: [H * P, A], a plan: offsets from the tool are told from where it is now.
            proprioception: [F], felt now.

        Raises:
            ValueError: wrong shapes, or not finite.
        """
        c = self.config
        wanted = f"[H * {c.points}, {len(c.action_names)}] ({', '.join(c.action_names)})"
        if actions.ndim != 2 or actions.shape[1] != len(c.action_names):
            raise ValueError(f"robot actions are {list(actions.shape)}: give {wanted}")
        if not len(actions) or len(actions) % c.points:
            raise ValueError(
                f"{len(actions)} robot actions, {c.dt:g} s apart, are no whole number of steps of "
                f"{c.points * c.dt:g} s: give a multiple of {c.points}"
            )
        if proprioception.shape != (len(c.proprioception_names),):
            raise ValueError(
                f"proprioception is {list(proprioception.shape)}: give "
                f"[{len(c.proprioception_names)}] ({', '.join(c.proprioception_names)})"
            )
        if not (torch.isfinite(actions).all() and torch.isfinite(proprioception).all()):
            raise ValueError("robot actions or proprioception hold NaN or infinity")
        found = []
        felt = proprioception.clone()
        for plan in actions.clone().split(c.points):
            plan = plan.clone()
            moved = felt - proprioception  # where the tool will be by then, from where it is
            if c.control_mode == "end_effector_offset":
                for name in _OFFSET_NAMES:
                    plan[:, c.action_names.index(name)] -= moved[self._felt(name)]
            found.append(self(plan, felt).softmax(-1))
            felt = self._after(plan, felt)
        return torch.stack(found)

    def _felt(self, name: str) -> int:
        return self.config.proprioception_names.index(f"tool_{name}")

    def _after(self, plan: Tensor, felt: Tensor) -> Tensor:
        """What the robot will feel after a step: it gets where it was told to be."""
        c = self.config
        felt = felt.clone()
        for i, name in enumerate(c.action_names):
            if c.control_mode == "end_effector_offset" and name in _OFFSET_NAMES:
                felt[self._felt(name)] += plan[-1, i]
            elif name in c.proprioception_names:
                felt[c.proprioception_names.index(name)] = plan[-1, i]
        return felt
