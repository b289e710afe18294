"""Pictures of one moment: live as they arrive, and the same from recordings."""

import numpy as np
import pytest
from recordings import image, joints, picture, write_bag

from vla_ros.cameras import PicturePairs
from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.alignment import Stream
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bags import open_bag

PERIOD = 0.05


def paired(arrivals) -> list[list[float]]:
    """Stamps of the pictures that are seen together, of (arrival, camera, stamp)."""
    pairs = PicturePairs(2)
    return [
        found for _, camera, stamp in sorted(arrivals) for found in pairs.add(camera, stamp, stamp)
    ]


def stream(camera, period, count, delay=0.02, phase=0.0, without=()):
    return [
        (10 + phase + period * k + delay, camera, 10 + phase + period * k)
        for k in range(count)
        if k not in without
    ]


@pytest.mark.parametrize(("first", "second"), [(0.02, 0.03), (0.03, 0.02)])
def test_pictures_of_one_stamp_belong_together_whichever_comes_first(first, second):
    found = paired([*stream(0, PERIOD, 30, first), *stream(1, PERIOD, 30, second)])
    assert found == [[stamp, stamp] for _, _, stamp in stream(0, PERIOD, 30)]


def test_a_picture_that_did_not_come_is_waited_for_until_the_next_moment():
    found = paired([*stream(0, PERIOD, 12), *stream(1, PERIOD, 12, 0.03, without=(5, 8, 9))])
    stamps = [stamp for _, _, stamp in stream(0, PERIOD, 12)]
    assert [one[0] for one in found] == [stamps[k] for k in range(12) if k != 9]
    seen = dict(found)
    assert seen[stamps[5]] == stamps[4] and seen[stamps[8]] == stamps[7]
    assert all(seen[stamps[k]] == stamps[k] for k in (0, 4, 6, 10, 11))


def test_a_clock_that_begins_anew_forgets_the_pictures_before():
    pairs = PicturePairs(2)
    for stamp in (10.0, 10.05, 1.0):
        pairs.add(1, stamp, stamp)
    assert pairs.add(0, 1.0, 1.0) == [[1.0, 1.0]]
    assert pairs.add(0, 0.2, 0.2) == []


@pytest.mark.parametrize(
    ("period", "phase"),
    [(0.05, 0.0), (0.05, 0.02), (0.05, 0.005), (0.1, 0.0), (0.1, 0.03), (0.13, 0)],
)
def test_recordings_give_the_pictures_that_were_seen_live(tmp_path, period, phase):
    """But for the first ones, as nobody knows a camera's period before its second picture."""
    count = 24
    first = stream(0, PERIOD, count)
    second = stream(1, period, round(count * PERIOD / period), phase=phase)
    live = {round(a, 6): b for a, b in paired([*first, *second])}
    said = [
        image(f"/{'ab'[c]}", stamp, picture(round(1000 * stamp)))
        for _, c, stamp in (*first, *second)
    ]
    said += [joints("/joint_states", stamp - 0.001, {"j": 0.0}) for _, _, stamp in first]
    action = ActionConfig(
        robot_type="arm",
        action_dim=1,
        action_bounds=(-1.0, 1.0),
        joint_names=("j",),
        dt=PERIOD,
    )
    contract = Contract(
        action,
        cameras={"a": Stream("a"), "b": Stream("b")},
        command=Stream("joint_states"),
    )
    *_, one = open_bag(write_bag(tmp_path / "bag", said), contract)
    compared = 0
    for stamp, frame in zip(one.stamps, one.frames("b"), strict=True):
        if 10.3 < stamp < 10.0 + (count - 1) * PERIOD:
            compared += 1
            np.testing.assert_array_equal(frame, picture(round(1000 * live[round(stamp, 6)])))
    assert compared >= 14
