"""The contract with a robot: presets are sound, what does not agree is refused by name."""

import json
from dataclasses import asdict, replace

import pytest

from vla_ros import ActionConfig, RobotType
from vla_ros.robots import panda

PRESETS = {
    "arm": ActionConfig.get_arm_config(),
    "joint arm": ActionConfig.get_joint_arm_config(),
    "humanoid": ActionConfig.get_humanoid_config(),
    "mobile manipulator": ActionConfig.get_mobile_manipulator_config(),
}


def custom(**changes) -> ActionConfig:
    settings = {"action_dim": 2, "action_bounds": (-1, 1), "joint_names": ("a", "b")}
    return ActionConfig(**{"robot_type": "arm", **settings, **changes})


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_presets_travel_through_json(config):
    values = json.loads(json.dumps({**asdict(config), "robot_type": config.robot_type.value}))
    assert ActionConfig.from_dict(values) == config


def test_presets_know_their_robots():
    assert {config.robot_type for config in PRESETS.values()} == set(RobotType)
    joints = PRESETS["joint arm"]
    assert joints.joint_names == panda.JOINT_NAMES
    assert [low for low, _ in joints.action_bounds] == list(panda.LOWER)
    base = PRESETS["mobile manipulator"]
    assert base.action_names[:2] == ("base_linear_x", "base_angular_z") and base.action_dim == 10


def test_the_humanoid_is_symmetric():
    config = PRESETS["humanoid"]
    assert config.action_dim == 29
    bounds = dict(zip(config.action_names, config.action_bounds, strict=True))
    left = [name for name in bounds if name.startswith("left_")]
    assert len(left) == 13
    for name in left:
        low, high = bounds[name.replace("left_", "right_", 1)]
        mirrored = (-high, -low) if "_roll_" in name else (low, high)
        assert bounds[name] == mirrored, name


def test_one_pair_of_bounds_serves_all_dimensions():
    assert custom().action_bounds == ((-1.0, 1.0), (-1.0, 1.0))
    assert custom().action_names == custom().joint_names
    assert custom(binary_names=["b"]).binary == (False, True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"action_dim": 3, "action_bounds": [(-1, 1)] * 3}, "action_dim is 3, but action_names"),
        ({"action_bounds": [(-1, 1)] * 3}, "action_dim is 2, but action_bounds has 3"),
        ({"joint_names": ("a", "a")}, "joint_names names one thing twice"),
        ({"binary_names": ("grip",)}, "binary_names are not among action_names: grip"),
        ({"action_bounds": (1, -1)}, "bounds of a"),
        ({"action_bounds": [(-1, 1), (0, float("inf"))]}, "bounds of b"),
        ({"robot_type": "submarine"}, "submarine"),
        ({"horizon": 0}, "must be positive"),
        ({"dt": float("nan")}, "must be positive"),
    ],
)
def test_what_does_not_agree_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        custom(**changes)


def test_unknown_settings_are_named():
    values = {**asdict(custom()), "wings": 2}
    with pytest.raises(ValueError, match="wings"):
        ActionConfig.from_dict(values)
    assert replace(custom(), horizon=4).horizon == 4
