"""End-effector actions and joint targets: the step between a policy and the command gate."""

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


def joint_chunk_to_end_effector(
    kinematics: ArmKinematics, measured: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """What `end_effector_chunk_to_joints` was given, from what it returned.

    Args:
        kinematics: of the arm's n joints.
        measured: joint positions [n + 1], rad and m, from whose tool position offsets are told.
        points: [K, n + 1] joint position targets, rad and m.

    Returns:
        [K, 4]: offsets of the tool target (m, base frame) and the finger opening (m).
    """
    origin, _ = kinematics.forward(measured[:-1])
    tools = [kinematics.forward(point[:-1])[0] for point in points]
    return np.column_stack([np.array(tools) - origin, points[:, -1]])
