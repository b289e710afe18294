"""Time in recordings: gaps, slower cameras, trajectories, deltas, instructions given again."""

import dataclasses

import numpy as np
import pytest
import recordings
from episodes import episode as made
from recordings import SECOND, image, joints, make, picture, robot, text, write_bag

from vla_ros.training.data.alignment import Align, Stream
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bags import open_bag
from vla_ros.training.data.clips import Clips
from vla_ros.training.data.episode_windows import action_chunks
from vla_ros.training.data.gaps import steady_parts
from vla_ros.training.data.shards import EpisodeShard, shard_folders, write_shards
from vla_ros.training.recorded_data import split

ACTION = dataclasses.replace(recordings.ACTION, horizon=4)


def contract(action=ACTION, **changes) -> Contract:
    values = {
        "action": action,
        "cameras": {"front": Stream("camera")},
        "command": Stream("command", Align.HOLD),
    }
    return Contract(**{**values, **changes})


def read(path, **changes) -> list:
    return [*open_bag(path, contract(**changes))]


def without_commands(count, **options) -> list:
    return [one for one in robot(count, **options) if one[0] != "/command"]


def trajectory(stamp, points, names=("a", "b"), received=None, velocities=None):
    """A JointTrajectory of {s from its start: positions}; stamp 0 is that of a message sent now."""
    place = make(
        "builtin_interfaces/msg/Time",
        sec=int(stamp),
        nanosec=round((stamp - int(stamp)) * SECOND),
    )
    message = make(
        "trajectory_msgs/msg/JointTrajectory",
        header=make("std_msgs/msg/Header", stamp=place, frame_id=""),
        joint_names=list(names),
        points=[
            make(
                "trajectory_msgs/msg/JointTrajectoryPoint",
                positions=np.array(positions, np.float64),
                velocities=np.array(velocities if velocities is not None else (), np.float64),
                accelerations=np.empty(0),
                effort=np.empty(0),
                time_from_start=make(
                    "builtin_interfaces/msg/Duration",
                    sec=int(at),
                    nanosec=round((at - int(at)) * SECOND),
                ),
            )
            for at, positions in points.items()
        ],
    )
    received = stamp + 0.001 if received is None else received
    return "/command", "trajectory_msgs/msg/JointTrajectory", received, message


# --- gaps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", ["/camera", "/joint_states"])
def test_an_episode_ends_where_the_camera_or_the_state_was_silent(tmp_path, silent):
    said = [one for one in robot(60) if not (one[0] == silent and 102 <= one[2] + 0.02 < 104)]
    before, after = read(write_bag(tmp_path / "bag", said))
    assert after.stamps[0] - before.stamps[-1] > 1.5
    for one in (before, after):
        assert np.diff(one.stamps).max() < 0.11
        chunks, known = action_chunks(one, ACTION)
        steps = np.diff(chunks, axis=1)[known[:, 1:]]
        assert set(np.abs(steps).ravel().tolist()) == {1.0}
    assert "no frame for" in before.notes[-1]
    np.testing.assert_array_equal(
        next(after.frames("front")), picture(round(after.actions[0, 0]) - 1)
    )


def test_parts_of_an_episode_are_its_frames_and_success_is_of_the_last(tmp_path):
    whole = made(0, 12)
    stamps = whole.stamps + np.where(np.arange(12) < 5, 0.0, 3.0)
    gapped = dataclasses.replace(whole, stamps=stamps, outcome=True)
    parts = [*steady_parts(gapped)]
    assert [(len(one), one.outcome) for one in parts] == [(5, None), (7, True)]
    for name in ("stamps", "proprioception", "actions"):
        joined = np.concatenate([getattr(one, name) for one in parts])
        np.testing.assert_array_equal(joined, getattr(gapped, name))
    for camera in whole.cameras:
        frames = [frame for one in parts for frame in one.frames(camera)]
        np.testing.assert_array_equal(frames, [*whole.frames(camera)])
        np.testing.assert_array_equal(next(parts[1].frames(camera, 3)), frames[8])
    failed = dataclasses.replace(gapped, outcome=False)
    assert [one.outcome for one in steady_parts(failed)] == [False, False]
    assert [*steady_parts(whole)] == [whole]


def test_parts_of_an_episode_are_held_out_together_or_not_at_all():
    whole = [made(number, 12) for number in range(40)]
    gaps = np.where(np.arange(12) < 5, 0.0, 3.0)
    episodes = [
        part
        for number, one in enumerate(whole)
        for part in steady_parts(
            dataclasses.replace(one, stamps=one.stamps + gaps * (number % 2), outcome=None)
        )
    ]
    trained, held = split(episodes, 0.1)
    assert len(trained) + len(held) == 60
    names = [{one.name.partition(", part")[0] for one in part} for part in (trained, held)]
    assert not names[0] & names[1] and len(names[1]) == 4


def test_shards_and_clips_hold_no_gap(tmp_path):
    """Not even shards that were written with one."""
    whole = made(0, 12)
    gapped = dataclasses.replace(
        whole, stamps=whole.stamps + np.where(np.arange(12) < 5, 0.0, 3.0), depths={}
    )
    write_shards(tmp_path / "shards", [gapped], whole.cameras[:1], 4)
    (folder,) = shard_folders(tmp_path / "shards")
    found = [*EpisodeShard.load(folder).episodes()]
    assert [len(one) for one in found] == [5, 7]
    clips = Clips(found, whole.cameras[0], whole.dt)
    assert [index.tolist() for _, index in clips.sequences()] == [[*range(5)], [*range(7)]]


def test_a_wrong_dt_is_no_gap_but_an_error():
    slow = made(0, 12)
    with pytest.raises(ValueError, match="has a frame every .* correct dt"):
        [*steady_parts(dataclasses.replace(slow, stamps=3 * slow.stamps))]


@pytest.mark.parametrize("rate", [8.1, 9.0, 10.0, 10.1, 11.5, 12.0, 15.0, 18.0, 24.0, 30.0])
def test_a_steady_camera_of_any_rate_is_one_episode(tmp_path, rate):
    said = robot(round(20 * rate), period=1 / rate)
    (one,) = read(write_bag(tmp_path / "bag", said))
    assert len(one) == pytest.approx(20 * min(rate, 10), rel=0.16)


def test_no_frame_follows_another_at_once(tmp_path):
    """Pictures that come in pairs have the rate of the pairs."""
    said = [one for one in robot(60, period=0.05) if not (one[0] == "/camera" and one[2] > 101)]
    late = [image("/camera", 101.2 + 0.05 * i, picture(0)) for i in range(20)]
    for one in read(write_bag(tmp_path / "late", [*said, *late])):
        assert np.diff(one.stamps).min(initial=1.0) > 0.09
    said = [one for one in robot(40, period=0.1) if one[0] != "/camera"]
    pairs = [
        image("/camera", 100 + 0.2 * (i // 2) + 0.002 * (i % 2), picture(0)) for i in range(40)
    ]
    with pytest.raises(ValueError, match="has a frame every 0.2 s, though its dt is 0.1 s"):
        read(write_bag(tmp_path / "pairs", [*said, *pairs]))


# --- cameras ------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [0.0, 0.004])
def test_a_slower_second_camera_is_held(tmp_path, late):
    said = [
        *robot(20),
        *(image("/wrist", 100 + late + 0.2 * i, picture(50 + i)) for i in range(10)),
    ]
    path = write_bag(tmp_path / "bag", said)
    (one,) = read(path, cameras={"front": Stream("camera"), "wrist": Stream("wrist")})
    assert len(one) == 20
    for number, frame in enumerate(one.frames("wrist")):
        np.testing.assert_array_equal(frame, picture(50 + number // 2))
    strict = {"front": Stream("camera"), "wrist": Stream("wrist", tolerance=0.01)}
    with pytest.raises(ValueError, match="/wrist is too slow .* 10 of 20 frames are left"):
        read(path, cameras=strict)


def test_a_second_camera_that_pauses_is_not_held_for_long(tmp_path):
    wrist = (image("/wrist", 100 + 0.1 * i, picture(50 + i)) for i in range(40) if not 10 < i < 30)
    path = write_bag(tmp_path / "bag", [*robot(40), *wrist])
    before, after = read(path, cameras={"front": Stream("camera"), "wrist": Stream("wrist")})
    assert (len(before), len(after)) == (12, 10)
    assert before.notes[0] == "18 frames left out: without /wrist of the last 0.15 s"


# --- commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stamp", [100.0, 0.0])
def test_a_trajectory_is_read_at_the_time_of_each_frame(tmp_path, stamp):
    points = {k / 10: (k, -k) for k in range(9)}
    said = [*without_commands(12), trajectory(stamp, points, received=100.0)]
    (one,) = read(write_bag(tmp_path / "bag", said))
    expected = np.minimum(np.arange(12), 8)  # its last point holds when it is over
    np.testing.assert_allclose(one.actions[:, 0], expected, atol=0.03)  # 2 ms until the receipt
    np.testing.assert_allclose(one.actions[:, 1], -expected, atol=0.03)


def test_a_trajectory_is_new_enough_as_long_as_it_goes_on(tmp_path):
    said = [*without_commands(20), trajectory(100.0, {0.0: (0, 0), 1.0: (10, 0)})]
    path = write_bag(tmp_path / "bag", said)
    (one,) = read(path, command=Stream("command", tolerance=0.25))
    assert len(one) == 13 and one.notes == (
        "7 frames left out: without /command of the last 0.25 s",
    )
    np.testing.assert_allclose(one.actions[:, 0], np.minimum(np.arange(13), 10), atol=1e-4)


def test_a_new_trajectory_replaces_the_one_before(tmp_path):
    first = trajectory(100.0, {0.0: (0, 0), 1.0: (10, 0)})
    second = trajectory(100.5, {0.0: (50, 1), 1.0: (60, 1)})
    (one,) = read(write_bag(tmp_path / "bag", [*without_commands(12), first, second]))
    expected = [0, 1, 2, 3, 4, 50, 51, 52, 53, 54, 55, 56]
    np.testing.assert_allclose(one.actions[:, 0], expected, atol=1e-4)


def test_points_far_apart_are_joined_as_a_controller_does(tmp_path):
    at_rest = trajectory(100.0, {0.0: (0, 0), 1.0: (1, 0)}, velocities=(0, 0))
    (one,) = read(write_bag(tmp_path / "smooth", [*without_commands(11), at_rest]))
    way = np.arange(11) / 10
    np.testing.assert_allclose(one.actions[:, 0], way**2 * (3 - 2 * way), atol=1e-5)
    # The state at 100.0 s is a = 0, b = 0; the first point is due later.
    later = trajectory(100.0, {0.5: (10, 5), 1.0: (20, 5)})
    (one,) = read(write_bag(tmp_path / "later", [*without_commands(11), later]))
    np.testing.assert_allclose(one.actions[:, 0], 2 * np.arange(11), atol=1e-4)


@pytest.mark.parametrize("times", [(0.0, 1.0), (0.0, 0.35, 0.5, 1.0)])
def test_accelerations_of_points_are_met_as_by_a_controller(tmp_path, times):
    """A way of the fifth degree is itself between any of its points."""
    way = np.polynomial.Polynomial([0.2, -0.5, 1.0, 2.0, -3.0, 1.5])
    points = {at: (way(at), 0) for at in times}
    told = trajectory(100.0, points)
    for point, at in zip(told[3].points, times, strict=True):
        point.velocities = np.array([way.deriv(1)(at), 0.0])
        point.accelerations = np.array([way.deriv(2)(at), 0.0])
    (one,) = read(write_bag(tmp_path / "bag", [*without_commands(11), told]))
    np.testing.assert_allclose(one.actions[:, 0], way(np.arange(11) / 10), atol=1e-5)


def test_a_stream_of_short_trajectories_is_its_first_points(tmp_path):
    """As a policy's chunks: of each, the point that is due next."""
    said = without_commands(6)
    for i in range(6):
        stamp = 100 + 0.1 * i
        points = {0.1 * (k + 1): (10 * i + k, 0) for k in range(4)}
        said.append(trajectory(stamp, points, received=stamp + 0.001))
    (one,) = read(write_bag(tmp_path / "bag", said))
    np.testing.assert_allclose(one.actions[:, 0], 10 * np.arange(6), atol=1e-4)


def test_a_trajectory_without_positions_is_one_line(tmp_path):
    said = [*without_commands(6), trajectory(99.9, {0.0: ()}, velocities=(0.1, 0.2))]
    path = write_bag(tmp_path / "bag", said)
    with pytest.raises(ValueError, match="/command: a joint trajectory has velocities .* choose"):
        read(path)
    action = dataclasses.replace(ACTION, control_mode="joint_velocity")
    (one,) = read(path, action=action)
    np.testing.assert_allclose(one.actions, [[0.1, 0.2]] * 6)


@pytest.mark.parametrize(("every", "wanted"), [(0.02, 5.0), (0.1, 1.0)])
def test_deltas_between_frames_add_up(tmp_path, every, wanted):
    action = dataclasses.replace(
        ACTION, action_names=("x", "gripper"), joint_names=(), control_mode="end_effector_delta"
    )
    said = without_commands(20)
    count = round(2.0 / every)
    said += [
        joints("/command", 99.999 + every * k, {"x": 1.0, "gripper": 0.5}) for k in range(count)
    ]
    (one,) = read(write_bag(tmp_path / "bag", said), action=action)
    np.testing.assert_allclose(one.actions[:, 0], wanted)
    np.testing.assert_allclose(one.actions[:, 1], 0.5)
    assert one.actions[:, 0].sum() == pytest.approx(count)
    assert any("are added up" in note for note in one.notes) == (every < 0.1)


def test_a_delta_told_once_moves_once(tmp_path):
    action = dataclasses.replace(ACTION, control_mode="joint_delta")
    said = without_commands(8)
    said += [joints("/command", stamp, {"a": 2.0, "b": 0.0}) for stamp in (99.99, 100.33, 100.36)]
    (one,) = read(write_bag(tmp_path / "bag", said), action=action)
    assert one.actions[:, 0].tolist() == [2, 0, 0, 2, 2, 0, 0, 0]


# --- instructions and outcomes ------------------------------------------------------------------


def flag(received, value, topic="/success"):
    return topic, "std_msgs/msg/Bool", received, make("std_msgs/msg/Bool", data=value)


def test_the_same_instruction_again_goes_on_and_after_an_end_begins_anew(tmp_path):
    again = [text("/instruction", 99.5 + 0.25 * i, "pick ") for i in range(12)]
    (one,) = read(write_bag(tmp_path / "again", [*robot(20), *again]))
    assert (len(one), one.instruction) == (20, "pick")
    stopped = [
        text("/instruction", t, s) for t, s in ((99, "pick"), (100.55, ""), (101.05, "pick"))
    ]
    assert [len(e) for e in read(write_bag(tmp_path / "stop", [*robot(20), *stopped]))] == [6, 9]
    done = [text("/instruction", t, "pick") for t in (99.0, 101.05)]
    path = write_bag(tmp_path / "done", [*robot(20), *done, flag(100.9, True)])
    first, second = read(path, task_status="success")
    assert (len(first), len(second), first.outcome) == (11, 9, True)


def test_a_topic_that_is_named_and_not_there_is_noted_with_what_there_is(tmp_path):
    path = write_bag(tmp_path / "bag", [*robot(6), text("/task/told", 99.0, "pick")])
    (one,) = read(path, instruction="/task/tolt", task_status="done")
    there = "there are /camera, /command, /joint_states, /task/told"
    assert one.notes == (
        f"there is no topic /task/tolt, so no instruction; {there}",
        f"there is no topic done, so no outcome; {there}",
    )
    assert read(path)[0].notes == ()


def test_a_flag_that_is_false_ends_nothing_and_an_old_one_tells_of_no_new_task(tmp_path):
    again = [text("/instruction", 99.5 + 0.25 * i, "pick") for i in range(12)]
    flags = [flag(99.0 + 0.1 * i, i > 30) for i in range(40)]
    (one,) = read(write_bag(tmp_path / "flag", [*robot(20), *again, *flags]), task_status="success")
    assert (len(one), one.outcome) == (20, True)
    said = [text("/instruction", t, "pick") for t in (99.0, 101.05, 101.3, 101.6)]
    flags = [flag(99.0 + 0.1 * i, 18 < i < 24) for i in range(40)]
    path = write_bag(tmp_path / "lingers", [*robot(20), *said, *flags])
    first, second = read(path, task_status="success")
    assert (len(first), first.outcome, len(second), second.outcome) == (11, True, 9, False)


def test_a_topic_of_instructions_without_any_is_named(tmp_path):
    path = write_bag(tmp_path / "bag", [*robot(), text("/instruction", 200.0, "late")])
    with pytest.raises(ValueError, match="6 frames left out: without an instruction"):
        read(path)


def test_an_outcome_may_be_a_flag_of_which_the_last_counts(tmp_path):
    for values, wanted in (((False, False, True), True), ((False,), False), ((), None)):
        flags = [flag(100.1 + 0.1 * i, value) for i, value in enumerate(values)]
        path = write_bag(tmp_path / f"{len(values)}", [*robot(), *flags])
        assert [one.outcome for one in read(path, task_status="success")] == [wanted]


def test_topics_of_other_types_are_named(tmp_path):
    path = write_bag(tmp_path / "bag", [*robot(), flag(99.0, True)])
    with pytest.raises(ValueError, match="/success is std_msgs/msg/Bool; expected std_msgs/msg/S"):
        read(path, instruction="success")
    with pytest.raises(ValueError, match="/joint_states is sensor_msgs/msg/JointState; expected"):
        read(path, task_status="joint_states")
