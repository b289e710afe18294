"""Surprise: what is unexpected in a frame, what is rare, and episodes with something wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from episodes import episode

from vla_ros.models.genie.surprise import Unexpected, calibrated, rarity, unexpected
from vla_ros.sim.tasks import sample_task
from vla_ros.training.genie_faults import Fault, FaultyEpisode, FaultyWorld, collect, load

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import surprise  # noqa: E402

PLACES, VOCABULARY = 64, 10
BEFORE = torch.zeros(PLACES, dtype=torch.int64)
STILL = torch.zeros(8, 8)


def expecting(changes, sure=1.0):
    """Probabilities: a place keeps its token 0 with 1 - changes, else becomes 1 if that is sure."""
    changes = torch.as_tensor(changes, dtype=torch.float32).expand(PLACES)
    expected = torch.zeros(PLACES, VOCABULARY)
    expected[:, 0] = 1 - changes
    expected[:, 1] = changes * sure
    expected[:, 2:] = (changes * (1 - sure) / (VOCABULARY - 2))[:, None]
    return expected


def test_stillness_is_what_should_have_changed_and_did_not():
    arm = torch.zeros(PLACES)
    arm[:16] = 0.9
    moved = (arm > 0).long()
    came = unexpected(expecting(arm), moved, BEFORE, STILL)
    stood = unexpected(expecting(arm), BEFORE, BEFORE, STILL)
    assert stood.stillness == pytest.approx(16 * 0.9 / np.sqrt(16 * 0.09 + 1), rel=1e-5)
    assert came.stillness == pytest.approx(-16 * 0.1 / np.sqrt(16 * 0.09 + 1), rel=1e-4)
    resting = unexpected(expecting(0.0), BEFORE, BEFORE, STILL)
    assert resting.stillness == 0.0
    # The same number of missing changes says less when the model knew less.
    doubtful = unexpected(expecting(torch.full((PLACES,), 0.225)), BEFORE, BEFORE, STILL)
    assert 0 < doubtful.stillness < stood.stillness


def test_change_counts_where_the_model_was_sure():
    arm = torch.zeros(PLACES)
    arm[:16] = 0.9  # the two upper rows
    expected = expecting(arm, sure=0.2)
    expected = 0.99 * expected + 0.01 / VOCABULARY

    def change(*places, by=0.3, token=5):
        moved, tokens = torch.zeros(PLACES), BEFORE.clone()
        moved[list(places)], tokens[list(places)] = by, token
        return unexpected(expected, tokens, BEFORE, moved.reshape(8, 8)).change

    nothing = change()
    assert nothing == pytest.approx(np.log(1e-2))
    assert nothing < change(3) < change(19) < change(43)  # in the arm, beside it, far from it
    assert change(43) > nothing + 4
    assert change(43) == change(43, 44, 52)  # the place that tells most
    assert change(43, by=0.1) < change(43)
    assert change(43, token=0) < nothing + 0.5  # its token is the expected one


def test_rarity_is_in_decades_of_what_is_usual():
    rng = np.random.default_rng(0)
    draws = [rng.exponential((2.0, 0.1), (50_000, 2)) + (-3.0, 7.0) for _ in range(2)]
    calibration = calibrated([Unexpected(*row) for row in draws[0]])
    for column in range(2):
        low = [-1e9, -1e9]
        shares = []
        for decades in (1, 2, 3):
            found = []
            for x in draws[1][:, column]:
                low[column] = x
                found.append(rarity(Unexpected(*low), calibration) > decades)
            shares.append(np.mean(found))
        np.testing.assert_allclose(shares, (0.1, 0.01, 0.001), rtol=0.3)
    assert rarity(Unexpected(-1e9, -1e9), calibration) == 0.0
    both = Unexpected(*draws[1][0])
    assert rarity(both, calibration) == max(
        rarity(both._replace(change=-1e9), calibration),
        rarity(both._replace(stillness=-1e9), calibration),
    )


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ValueError, match="999 frames are too few"):
        calibrated([Unexpected(0.0, 1.0)] * 999)
    with pytest.raises(ValueError, match="equally unexpected"):
        calibrated([Unexpected(0.0, 1.0)] * 1000)


@pytest.fixture(scope="module")
def world():
    world = FaultyWorld(image_size=(32, 32))
    yield world
    world.close()


def run(world, fault, seconds=3.2):
    """Pictures, joints, places of objects and onset of an arm that is told to go up and down."""
    world.plan_fault(fault, np.random.default_rng(3))
    world.reset(sample_task("pick", 11))
    names, start = world.controller.names, world.joint_positions()
    pictures, joints, objects, times = [], [], [], []
    for tick in range(int(seconds * 100)):
        if tick % 5 == 0:
            target = start.copy()
            target[1] += 0.3 * np.sin(0.3 + tick / 40)
            world.controller.accept(names, target[None], np.array([0.05]), world.time, world.time)
            pictures.append(world.render("camera").copy())
            joints.append(world.joint_positions())
            objects.append(world.object_positions())
            times.append(tick / 100)
        world.tick()
    found = [np.stack(x) for x in (pictures, joints, objects)]
    return *found, np.array(times), world.onset


def test_without_a_fault_nothing_happens(world):
    pictures, joints, objects, _, onset = run(world, None)
    assert onset is None and world.progress == 0.0
    assert np.ptp(joints[:, 1]) > 0.3 and np.ptp(objects, axis=0).max() < 1e-3
    assert (pictures[1:] != pictures[:-1]).any(axis=(1, 2, 3)).mean() > 0.7


def test_a_frozen_camera_shows_the_same_picture_while_the_arm_moves(world):
    pictures, joints, _, times, onset = run(world, Fault.FROZEN)
    after = times > onset
    assert 5 < after.sum() < len(times) - 5
    assert (pictures[after] == pictures[after][0]).all() and np.ptp(joints[after, 1]) > 0.1
    assert (pictures[~after][1:] != pictures[~after][:-1]).any(axis=(1, 2, 3)).mean() > 0.7


def test_a_hand_moves_one_object_that_the_arm_is_not_near(world):
    _, _, objects, times, onset = run(world, Fault.MOVED)
    before, after = objects[times < onset][-1], objects[-1]
    way = np.linalg.norm((after - before)[:, :2], axis=1)
    assert sorted(way > 0.03).count(True) == 1 and np.sort(way)[-2] < 1e-3
    assert way.max() == pytest.approx(world.progress, abs=0.003)


def test_a_blocked_arm_stays_whatever_it_is_told(world):
    _, joints, objects, times, onset = run(world, Fault.BLOCKED)
    settled = joints[times > onset + 0.2]
    assert np.ptp(settled, axis=0).max() < 0.01 < 0.1 < np.ptp(joints[times < onset, 1])
    assert np.ptp(objects, axis=0).max() < 1e-3


def test_the_light_changes_at_once_and_is_as_before_in_the_next_episode(world):
    first = run(world, None, 0.2)[0]
    pictures, _, _, times, onset = run(world, Fault.LIGHT)
    bright = pictures.mean(axis=(1, 2, 3))
    steps = np.abs(np.diff(bright)) / bright[:-1]
    assert steps.argmax() == np.flatnonzero(times > onset)[0] - 1
    assert steps.max() > 0.1 > 5 * np.sort(steps)[-2]
    np.testing.assert_array_equal(run(world, None, 0.2)[0], first)


def test_faulty_episodes_are_kept_with_what_went_wrong(tmp_path):
    collect(tmp_path / "light", Fault.LIGHT, 2, 1, 32)
    collect(tmp_path / "light", Fault.LIGHT, 3, 1, 32)  # is there already
    found = load(tmp_path / "light", Fault.LIGHT)
    assert len(found) == 2
    for one in found:
        frames = np.stack(list(one.episode.frames("camera", 0, len(one.episode))))
        jump = np.abs(np.diff(frames.mean(axis=(1, 2, 3)))).argmax()
        steps = [one.shows(i, i + 4) for i in range(len(one.episode) - 4)]
        assert [i for i, shown in enumerate(steps) if shown] == list(range(jump - 3, jump + 1))
        assert abs(one.episode.stamps[jump] - one.onset) <= 0.05 + 1e-6
        assert one.episode.stamps[-1] - one.onset < 1.5


def test_a_fault_shows_only_while_something_moves_or_is_told_to():
    def made(fault, asked, tool, progress):
        count = len(progress)
        proprioception = np.zeros((count, 4), np.float32)
        proprioception[:, 0] = tool
        actions = np.zeros((count, 4), np.float32)
        actions[:, 0] = asked
        one = episode(
            length=count, dt=0.05, control_mode="end_effector_offset",
            action_names=("x", "y", "z", "finger_opening"),
            proprioception_names=("tool_x", "tool_y", "tool_z", "finger_opening"),
            stamps=0.05 * np.arange(count), proprioception=proprioception, actions=actions,
        )  # fmt: skip
        return FaultyEpisode(one, fault, 0.05 * int(np.argmax(progress)), np.array(progress))

    on = np.r_[np.zeros(8), np.ones(32)]
    going = np.linspace(0, 0.4, 40)
    frozen = made(Fault.FROZEN, 0.03, going, on)
    assert [frozen.shows(i, i + 4) for i in (4, 8, 24, 28)] == [False, True, True, False]
    assert not made(Fault.FROZEN, 0.03, 0 * going, on).shows(8, 12)
    assert made(Fault.BLOCKED, 0.03, 0 * going, on).shows(8, 12)
    assert not made(Fault.BLOCKED, 0.001, 0 * going, on).shows(8, 12)
    way = np.r_[np.zeros(8), np.linspace(0, 0.04, 8), np.full(24, 0.04)]
    moved = made(Fault.MOVED, 0.0, 0 * going, way)
    assert [moved.shows(i, i + 4) for i in (4, 8, 12, 16)] == [False, True, True, False]
    assert not made(None, 0.03, going, 0 * on).shows(8, 12)


def watched(number, values, onset=None, shows=()):
    """An episode of the benchmark: of steps that end at 0.2 s, 0.4 s, ..."""
    count = len(values)
    end = 0.2 * np.arange(1, count + 1)
    shown = np.isin(np.arange(count), shows)
    since = end - (np.inf if onset is None else onset)
    return surprise.Watched(
        number, end, shown, since, np.array(values), np.zeros((count, 2)), {}, np.zeros(count)
    )


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    high, low = rng.integers(3, 12, 40), rng.integers(0, 9, 70)
    pairs = high[:, None] - low
    wanted = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert surprise.auroc(high, low) == pytest.approx(wanted)
    assert surprise.auroc(low, high) == pytest.approx(1 - wanted)
    normal = {i: rng.normal(size=30) for i in range(10)}
    faulty = {i: rng.normal(2.0, size=4) for i in range(10)}
    whole, least, most = surprise.resampled(faulty, normal)
    assert 0.8 < least < whole < most < 1.0


def test_a_fault_is_found_by_an_alarm_in_the_second_after_its_onset():
    normal = [watched(i, np.r_[np.full(9, 0.5), 1.5]) for i in range(5)]
    found = watched(0, [9, 0, 0, 3, 3, 0, 0, 0, 0, 9], onset=0.5, shows=(2, 3))
    missed = watched(1, [9, 0, 0, 2, 0, 0, 0, 0, 0, 9], onset=0.5, shows=(2, 3))
    unseen = watched(2, [9, 9, 9, 9, 9, 9, 9, 9, 9, 9], onset=0.5)
    row = surprise.fault_row(surprise.Fault.FROZEN, [found, missed, unseen], normal, hold=2.5)
    _, steps, each, whole, above, episodes, delay = row
    assert (steps, above, episodes, delay) == ("4", "25%", "50%", "2.0")
    assert each.startswith("0.500 ") and whole.startswith("1.000 ")
