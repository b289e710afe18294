"""Franka Panda with the Franka hand: names, limits and home pose.

Figures are the maker's published joint limits ("Robot and interface specifications"). Order of
every
array: panda_joint1..panda_joint7 (rad), then panda_finger_joint1 (m; 0 closed, 0.04 fully open).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

BASE_FRAME = "panda_link0"
TOOL_FRAME = "panda_tcp"
URDF = Path(__file__).with_name("panda.urdf")

ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
GRIPPER_JOINT = "panda_finger_joint1"
JOINT_NAMES = (*ARM_JOINTS, GRIPPER_JOINT)

GRIPPER_OPEN = 0.04
GRIPPER_CLOSED = 0.0

LOWER = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973, 0.0])
UPPER = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973, 0.04])
VELOCITY = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61, 0.2])
# What the command gate leaves of the position limits, and how far a joint may be from its command
# before it counts as blocked (a finger that grips never reaches its command).
MARGIN = np.array([0.05] * 7 + [0.0])
TRACKING = np.array([0.5] * 7 + [1.0])

# Tool 0.2 m above the table at (0.45, 0), hand pointing straight down, fingers opening along base
# y.
HOME = np.array([0.0, -0.0871, 0.0, -2.5418, 0.0, 2.4546, 0.785398, GRIPPER_OPEN])
