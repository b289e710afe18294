"""From end-effector actions to joint targets: the step between a policy and the command gate."""

from __future__ import annotations

import numpy as np

from vla_ros.robots.kinematics import ArmKinematics


def end_effector_chunk_to_joints(
    kinematics: ArmKinematics, measured: np.ndarray, actions: np.ndarray
) -> np.ndarray:
    """Turn an end-effector action chunk into joint position targets.

    Args:
        kinematics: of the arm's n joints.
        measured: joint positions at the observation [n + 1], rad; the last is the finger opening
            (m).
        actions: [K, 4]: x, y, z offsets (m, base frame) of the tool target from the tool position
            at the observation, and the finger opening (m).

    Returns:
        [K, n + 1] joint position targets, rad and m.
    """
    q = np.asarray(measured[:-1], dtype=np.float64)
    origin, _ = kinematics.forward(q)
    targets = np.empty((len(actions), len(measured)))
    for k, action in enumerate(actions):
        q = kinematics.solve(q, origin + action[:3])
        targets[k, :-1] = q
        targets[k, -1] = action[3]
    return targets
