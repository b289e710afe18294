"""Unitree G1 with 29 joints: names and position limits (rad), the maker's published figures."""

from __future__ import annotations

_LEG = {
    "hip_pitch": (-2.5307, 2.8798),
    "hip_roll": (-0.5236, 2.9671),
    "hip_yaw": (-2.7576, 2.7576),
    "knee": (-0.087267, 2.8798),
    "ankle_pitch": (-0.87267, 0.5236),
    "ankle_roll": (-0.2618, 0.2618),
}
_WAIST = {
    "waist_yaw": (-2.618, 2.618),
    "waist_roll": (-0.52, 0.52),
    "waist_pitch": (-0.52, 0.52),
}
_ARM = {
    "shoulder_pitch": (-3.0892, 2.6704),
    "shoulder_roll": (-1.5882, 2.2515),
    "shoulder_yaw": (-2.618, 2.618),
    "elbow": (-1.0472, 2.0944),
    "wrist_roll": (-1.97222, 1.97222),
    "wrist_pitch": (-1.61443, 1.61443),
    "wrist_yaw": (-1.61443, 1.61443),
}


def _side(side: str, limb: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """A limb of one side. Limits are the left limb's; rolls of the right one are mirrored."""
    mirrored = side == "right"
    return {
        f"{side}_{name}": (-high, -low) if mirrored and name.endswith("roll") else (low, high)
        for name, (low, high) in limb.items()
    }


_ALL = (
    _side("left", _LEG) | _side("right", _LEG) | _WAIST | _side("left", _ARM) | _side("right", _ARM)
)
# Joint name -> (lower, upper), in the order of the robot's motors.
HUMANOID_JOINTS = {f"{name}_joint": limits for name, limits in _ALL.items()}
