"""Units: what was recorded against what is declared, from both sides."""

import numpy as np
import pytest

from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.ranges import check_ranges, recorded_ranges, report

T = 200
TIME = np.arange(T) * 0.1
OPENS = (np.arange(T) // 20) % 2  # a gripper that opens and closes


def ranges(actions, bounds, binary=(), states=None, mode="joint_position"):
    """Of one episode; names are the keys."""
    states = states or {}
    columns = [
        np.stack([*one.values()], 1) if one else np.zeros((T, 0)) for one in (actions, states)
    ]
    contract = ActionConfig(
        "arm",
        len(actions),
        [bounds[name] for name in actions],
        (),
        tuple(actions),
        binary,
        tuple(states),
        mode,
        dt=0.1,
    )
    episode = Episode(
        "e", "arm", mode, "go", 0.1, tuple(actions), tuple(states), TIME, columns[1], columns[0],
        {},
    )  # fmt: skip
    return recorded_ranges([episode], contract)


@pytest.mark.parametrize(
    ("levels", "bounds", "word"),
    [
        ((0, 0.04), (0, 1), "never decide for the upper"),
        ((0, 0.4), (0, 1), "never decide for the upper"),
        ((0, 1), (-1, 1), "never decide for the lower"),
        ((0.45, 0.49), (0, 1), "never decide for the upper"),
        ((0.6, 0.64), (0, 1), "never decide for the lower"),
        ((-1, 1), (0, 1), "are both in the same unit"),
        ((0, 100), (0, 1), "are both in the same unit"),
        ((0, 255), (0, 1), "are both in the same unit"),
    ],
)
def test_a_gripper_that_could_never_be_decided_is_refused(levels, bounds, word):
    grip = np.where(OPENS, levels[1], levels[0])
    found = ranges({"grip": grip}, {"grip": bounds}, ("grip",))
    with pytest.raises(ValueError, match=f"grip .*{word}"):
        check_ranges(found)
    slow = np.convolve(np.pad(grip, 2, "edge"), np.ones(5) / 5, "valid")  # it takes its time
    with pytest.raises(ValueError, match=word):
        check_ranges(ranges({"grip": slow}, {"grip": bounds}, ("grip",)))
    check_ranges(ranges({"grip": grip}, {"grip": levels}, ("grip",)))


def test_honest_grippers_pass():
    rng = np.random.default_rng(0)
    still = np.zeros(T)
    for grip, bounds in (
        (OPENS, (0, 1)),
        (0.08 * OPENS, (0, 0.08)),
        (1 - 2.0 * OPENS, (-1, 1)),
        (np.where(OPENS, 0.7, 0.3), (0, 1)),  # it holds a thing, and opens no more than needed
        (still, (0, 1)),  # never used
        (still + 1, (0, 1)),
        (still + 0.02 + 0.01 * rng.standard_normal(T), (0, 1)),  # not used, but measured
    ):
        check_ranges(ranges({"grip": grip}, {"grip": bounds}, ("grip",)))


@pytest.mark.parametrize("factor", [180 / np.pi, np.pi / 180, 1000, 0.001])
@pytest.mark.parametrize("commanded", [0.5 * np.sin(TIME), np.full(T, 1.2)])
def test_a_joint_commanded_in_another_unit_than_measured_is_refused(factor, commanded):
    scale = 1 if factor > 1 else 1 / factor
    measured = factor * scale * np.roll(commanded, 2)  # it lags behind
    actions = {"j1": scale * commanded, "j2": np.cos(TIME)}
    states = {"j2": np.cos(TIME), "j1": measured}
    bounds = {"j1": (-1e4, 1e4), "j2": (-2, 2)}
    with pytest.raises(
        ValueError, match="j1 is commanded and measured in other units.*leave j1 out"
    ):
        check_ranges(ranges(actions, bounds, (), states))
    check_ranges(ranges(actions, bounds, (), states, "joint_velocity"))


def test_joints_that_hardly_move_or_lag_are_no_mistake():
    rng = np.random.default_rng(0)
    for commanded, measured in (
        (np.zeros(T), 1e-3 * rng.standard_normal(T)),
        (np.full(T, 0.0573), np.full(T, 0.001)),
        (0.5 * np.sin(TIME), 0.4 * np.sin(TIME - 0.3)),
        (OPENS, 0.04 * OPENS),  # told as a share, measured in m
        (np.full(T, 0.3), np.zeros(T)),
    ):
        found = ranges({"j": commanded}, {"j": (-3.2, 3.2)}, (), {"j": measured})
        check_ranges(found)


def test_every_dimension_is_in_the_report():
    actions = {"pan": 2 * np.sin(TIME), "finger": 0.02 + 0.01 * np.sin(TIME), "grip": OPENS}
    bounds = {"pan": (-3.2, 3.2), "finger": (-3.2, 3.2), "grip": (0, 1)}
    states = {"pan": 2 * np.sin(TIME), "lift": np.zeros(T)}
    lines = [*report(ranges(actions, bounds, ("grip",), states))]
    assert len(lines) == 1 + 3 + 2
    assert "action pan" in lines[1] and "-3.2 to 3.2, 62% used" in lines[1]
    assert "0% used; little of its bounds: the same unit?" in lines[2]
    assert "100% used; binary" in lines[3] and "state  pan" in lines[4]
    assert "state  lift" in lines[5] and lines[5].endswith("never moves")


@pytest.mark.parametrize(
    ("scale", "offset", "told"),
    [(31.4, 0.0, "moves 0.0318 times as far"), (15.9, 50.0, "0.0629"), (-1.0, 0.0, "moves -1 ")],
)
def test_a_joint_that_moves_otherwise_than_commanded_is_noted(scale, offset, told):
    states = {"j": np.sin(TIME)}
    wide = {"j": (min(-2, offset - abs(scale)), max(2, offset + abs(scale)))}
    (action, _) = ranges({"j": offset + scale * np.sin(TIME)}, wide, (), states)
    assert told in action.note
    (action, _) = ranges({"j": 1.2 * np.sin(TIME + 0.3)}, {"j": (-3.2, 3.2)}, (), states)
    assert not action.note
