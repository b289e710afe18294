"""What a model's output means to a robot: names, bounds, control mode, timing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum

from vla_ros.robots import panda
from vla_ros.robots.humanoid import HUMANOID_JOINTS

Bounds = tuple[float, float]


class RobotType(str, Enum):
    ARM = "arm"
    HUMANOID = "humanoid"
    MOBILE_MANIPULATOR = "mobile_manipulator"


_LONGEST_DT = 60.0  # s


@dataclass(frozen=True)
class ActionConfig:
    """The contract between a policy and a robot; travels inside the checkpoint.

    Args:
        robot_type: kind of robot.
        action_dim: size A of an action.
        action_bounds: (low, high) of each dimension in its unit (rad, m, m/s), or one pair for all.
        joint_names: the robot's joints, in the order in which it is commanded and measured.
        action_names: what each dimension of an action is; the joints if left out.
        binary_names: those of the dimensions that are decided between their bounds (a gripper).
        proprioception_names: what the robot feels beside its cameras; none by default.
        control_mode: what an action is, such as "joint_position" or "end_effector_offset".
        horizon: actions K of a chunk.
        dt: s between the actions of a chunk, and between observations.

    Raises:
        ValueError: the sizes do not agree, a name is unknown or doubled, or a bound is not finite.
    """

    robot_type: RobotType
    action_dim: int
    action_bounds: Sequence[Bounds] | Bounds
    joint_names: Sequence[str]
    action_names: Sequence[str] = ()
    binary_names: Sequence[str] = ()
    proprioception_names: Sequence[str] = ()
    control_mode: str = "joint_position"
    horizon: int = 8
    dt: float = 0.05

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        settle("robot_type", RobotType(self.robot_type))
        for field in ("joint_names", "binary_names", "proprioception_names"):
            settle(field, tuple(getattr(self, field)))
        settle("action_names", tuple(self.action_names) or self.joint_names)
        bounds = self.action_bounds
        if len(bounds) == 2 and not any(isinstance(bound, Sequence) for bound in bounds):
            bounds = [bounds] * self.action_dim
        settle("action_bounds", tuple((float(low), float(high)) for low, high in bounds))
        self._check()

    def _check(self) -> None:
        if type(self.horizon) is not int or type(self.action_dim) is not int:
            raise ValueError("action_dim and horizon must be whole numbers")
        names = (*self.joint_names, *self.action_names, *self.proprioception_names)
        if not all(isinstance(name, str) for name in (*names, self.control_mode)):
            raise ValueError("names and control_mode must be text")
        for what, count in (
            ("action_names", len(self.action_names)),
            ("action_bounds", len(self.action_bounds)),
        ):
            if count != self.action_dim:
                raise ValueError(
                    f"action_dim is {self.action_dim}, but {what} has {count}: give one of each "
                    "for every dimension"
                )
        if self.action_dim < 1 or self.horizon < 1 or not 0.0 < self.dt < math.inf:
            raise ValueError("action_dim, horizon and dt must be positive")
        if self.dt > _LONGEST_DT:
            raise ValueError(f"dt is {self.dt:g} s: it must be {_LONGEST_DT:g} s or less")
        for field in ("joint_names", "action_names", "proprioception_names"):
            names = getattr(self, field)
            if len(set(names)) != len(names):
                raise ValueError(f"{field} names one thing twice: {', '.join(names)}")
        if unknown := set(self.binary_names) - set(self.action_names):
            raise ValueError(f"binary_names are not among action_names: {', '.join(unknown)}")
        for name, (low, high) in zip(self.action_names, self.action_bounds, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"bounds of {name} are [{low}, {high}]: give a finite range")

    @property
    def binary(self) -> tuple[bool, ...]:
        """Which of the dimensions are binary."""
        return tuple(name in self.binary_names for name in self.action_names)

    @classmethod
    def from_dict(cls, values: dict) -> ActionConfig:
        """From what `dataclasses.asdict` and JSON leave of one. Raises ValueError."""
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            wrong = ", ".join(sorted(set(values) ^ known))
            raise ValueError(f"unexpected or missing action settings: {wrong}")
        return cls(**values)

    @classmethod
    def get_arm_config(cls) -> ActionConfig:
        """The package's arm, a Franka Panda: offsets of the tool (m, base frame) and the fingers'
        opening (m). See `get_joint_arm_config` for joints."""
        reach = (-0.16, 0.16)
        return cls(
            robot_type=RobotType.ARM,
            action_dim=4,
            action_bounds=(reach, reach, reach, (panda.GRIPPER_CLOSED, panda.GRIPPER_OPEN)),
            joint_names=panda.JOINT_NAMES,
            action_names=("x", "y", "z", "finger_opening"),
            binary_names=("finger_opening",),
            proprioception_names=("tool_x", "tool_y", "tool_z", "finger_opening"),
            control_mode="end_effector_offset",
        )

    @classmethod
    def get_joint_arm_config(cls) -> ActionConfig:
        """A Franka Panda in joint positions (rad, m), its limits as bounds."""
        return cls(
            robot_type=RobotType.ARM,
            action_dim=len(panda.JOINT_NAMES),
            action_bounds=tuple(zip(panda.LOWER, panda.UPPER, strict=True)),
            joint_names=panda.JOINT_NAMES,
            binary_names=(panda.GRIPPER_JOINT,),
            proprioception_names=panda.JOINT_NAMES,
        )

    @classmethod
    def get_humanoid_config(cls) -> ActionConfig:
        """A Unitree G1 with 29 joints, in joint positions (rad)."""
        return cls(
            robot_type=RobotType.HUMANOID,
            action_dim=len(HUMANOID_JOINTS),
            action_bounds=tuple(HUMANOID_JOINTS.values()),
            joint_names=tuple(HUMANOID_JOINTS),
            proprioception_names=tuple(HUMANOID_JOINTS),
        )

    @classmethod
    def get_mobile_manipulator_config(cls) -> ActionConfig:
        """A Panda on a differential drive: velocities of the base (m/s, rad/s), then joints."""
        return cls(
            robot_type=RobotType.MOBILE_MANIPULATOR,
            action_dim=2 + len(panda.JOINT_NAMES),
            action_bounds=((-1.0, 1.0), (-2.0, 2.0), *zip(panda.LOWER, panda.UPPER, strict=True)),
            joint_names=panda.JOINT_NAMES,
            action_names=("base_linear_x", "base_angular_z", *panda.JOINT_NAMES),
            binary_names=(panda.GRIPPER_JOINT,),
            proprioception_names=panda.JOINT_NAMES,
            control_mode="base_velocity_and_joint_position",
        )
