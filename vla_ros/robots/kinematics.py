"""Forward kinematics and damped-least-squares inverse kinematics of an arm, on pinocchio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pinocchio

from vla_ros.robots import panda

# The hand points straight down and the fingers open along base y: the orientation every task keeps.
TOOL_DOWN = np.diag([1.0, -1.0, -1.0])


def check_known(joint_names: Sequence[str]) -> None:
    """Raises ValueError if tool places of a robot with these joints in this order are not known."""
    if tuple(joint_names) != panda.JOINT_NAMES:
        raise ValueError(
            f"the place of the tool is known of the joints {', '.join(panda.JOINT_NAMES)} (Franka "
            f"Panda) alone, joint_names are {', '.join(joint_names)}: learn joint positions "
            "(control_mode: joint_position, with the joints as action_names and "
            "proprioception_names), or leave joint_names out if the tool itself was recorded"
        )


class ArmKinematics:
    """Kinematics of the chain from the URDF's root to `tool_frame`.

    Positions are in metres in the root frame, joints in radians in the order of `joints`.

    Raises:
        ValueError: the URDF lacks the tool frame, or its moving joints are not exactly `joints`.
    """

    def __init__(
        self,
        urdf: Path = panda.URDF,
        tool_frame: str = panda.TOOL_FRAME,
        joints: Sequence[str] = panda.ARM_JOINTS,
    ) -> None:
        self._model = pinocchio.buildModelFromUrdf(str(urdf))
        self._data = self._model.createData()
        if not self._model.existFrame(tool_frame):
            raise ValueError(
                f"{urdf} has no frame '{tool_frame}': name the tool link of this robot"
            )
        moving = list(self._model.names)[1:]
        if moving != list(joints):
            raise ValueError(f"{urdf} moves {moving}, expected {list(joints)} in this order")
        self._tool = self._model.getFrameId(tool_frame)
        self.lower = np.array(self._model.lowerPositionLimit)
        self.upper = np.array(self._model.upperPositionLimit)
        self.velocity = np.array(self._model.velocityLimit)

    def forward(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tool position [3] and rotation [3, 3] at joint positions q [n]."""
        pinocchio.framesForwardKinematics(self._model, self._data, np.asarray(q, dtype=np.float64))
        pose = self._data.oMf[self._tool]
        return pose.translation.copy(), pose.rotation.copy()

    def solve(
        self,
        q: np.ndarray,
        position: np.ndarray,
        rotation: np.ndarray = TOOL_DOWN,
        *,
        iterations: int = 4,
        damping: float = 0.02,
    ) -> np.ndarray:
        """Joint positions [n] that bring the tool to a pose near the one at q [n].

        Damped least squares (Nakamura and Hanafusa 1986): dq = J^T (J J^T + damping^2 I)^-1 e. A
        few iterations suffice because successive targets are centimetres apart. The result is
        clipped to the joint limits; an unreachable target yields the nearest pose the iterations
        found.
        """
        q = np.array(q, dtype=np.float64)
        target = pinocchio.SE3(rotation, np.asarray(position, dtype=np.float64))
        for _ in range(iterations):
            pinocchio.framesForwardKinematics(self._model, self._data, q)
            pose = self._data.oMf[self._tool]
            error = pinocchio.log6(pose.actInv(target)).vector
            if error @ error < 1e-10:
                break
            jacobian = pinocchio.computeFrameJacobian(
                self._model, self._data, q, self._tool, pinocchio.LOCAL
            )
            gram = jacobian @ jacobian.T
            gram[np.diag_indices(6)] += damping**2
            q += jacobian.T @ np.linalg.solve(gram, error)
            np.clip(q, self.lower, self.upper, out=q)
        return q
