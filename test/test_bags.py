"""Recordings of ROS 2 become episodes: nothing is lost, nothing comes from the future."""

import os
import shutil
import sqlite3
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import (
    ACTION,
    PLUGINS,
    SECOND,
    STORE,
    image,
    joints,
    make,
    picture,
    robot,
    text,
    write_bag,
)
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

from vla_ros import cli
from vla_ros.robots import panda
from vla_ros.robots.action_config import ActionConfig
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.training.data.alignment import Align, Stream, newest
from vla_ros.training.data.bag import Bag
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bag_folders import recordings_in
from vla_ros.training.data.bag_report import BagReport
from vla_ros.training.data.bags import open_bag

STORAGES = ("mcap", "sqlite3")


def contract(**changes) -> Contract:
    values = {
        "action": ACTION,
        "cameras": {"front": Stream("camera")},
        "state": Stream("joint_states"),
        "command": Stream("command"),
    }
    return Contract(**{**values, **changes})


def only(path, **changes):
    (episode,) = open_bag(path, contract(**changes))
    return episode


def check_robot(episode, numbers) -> None:
    """The episode is that of recordings.robot, frames `numbers`."""
    assert episode.proprioception[:, 0].tolist() == list(numbers)
    assert episode.actions.tolist() == [[i + 1, -i - 1] for i in numbers]
    frames = list(episode.frames("front"))
    assert len(frames) == len(numbers)
    for number, frame in zip(numbers, frames, strict=True):
        np.testing.assert_array_equal(frame, picture(number))


@pytest.mark.parametrize("storage", STORAGES)
def test_a_recording_is_an_episode(tmp_path, storage):
    said = [text("/instruction", 99.0, " lift it "), *robot()]
    episode = only(write_bag(tmp_path / "bag", said, storage))
    check_robot(episode, range(6))
    assert (episode.instruction, episode.outcome, episode.notes) == ("lift it", None, ())
    np.testing.assert_allclose(episode.stamps, 100 + 0.1 * np.arange(6), atol=1e-6)
    np.testing.assert_array_equal(next(episode.frames("front", 4)), picture(4))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("mode", [CompressionMode.MESSAGE, CompressionMode.FILE])
@pytest.mark.parametrize("metadata", [True, False])
def test_zstd_by_message_and_by_file(tmp_path, storage, mode, metadata):
    path = write_bag(tmp_path / "bag", robot(), storage, (mode, CompressionFormat.ZSTD))
    if not metadata:
        (path / "metadata.yaml").unlink()
    check_robot(only(path), range(6))


def test_zstd_by_chunk(tmp_path):
    path = write_bag(
        tmp_path / "bag", robot(), "mcap", (CompressionMode.STORAGE, CompressionFormat.ZSTD)
    )
    check_robot(only(path), range(6))
    (file,) = path.glob("*.mcap")
    data = bytearray(file.read_bytes())
    data[data.index(b"\x28\xb5\x2f\xfd") + 4] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(ValueError, match="is corrupt: chunk at byte"):
        only(path)


def test_compressed_pictures(tmp_path):
    said = [s for s in robot() if s[0] != "/camera"]
    for i in range(6):
        data = np.frombuffer(cv2.imencode(".png", picture(i)[..., ::-1])[1], np.uint8)
        _, _, received, plain = image("/camera", 100 + 0.1 * i, picture(i))
        kind = "sensor_msgs/msg/CompressedImage"
        message = make(kind, header=plain.header, format="png", data=data)
        said.append(("/camera", kind, received, message))
    check_robot(only(write_bag(tmp_path / "bag", said)), range(6))


def test_padded_rows_are_not_part_of_the_picture(tmp_path):
    said = [s for s in robot() if s[0] != "/camera"]
    said += [image("/camera", 100 + 0.1 * i, picture(i), padding=5) for i in range(6)]
    check_robot(only(write_bag(tmp_path / "bag", said)), range(6))


def test_a_topic_in_yuv_is_read(tmp_path):
    said = [s for s in robot() if s[0] != "/camera"]
    grey = np.full((8, 10, 2), (90, 128), np.uint8)  # Y and no colour, for every pixel
    for i in range(6):
        _, kind, received, plain = image("/camera", 100 + 0.1 * i, picture(i))
        fields = {n: getattr(plain, n) for n in ("header", "height", "width", "is_bigendian")}
        fields |= {"encoding": "yuv422_yuy2", "step": 20, "data": grey.reshape(-1)}
        said.append(("/camera", kind, received, make(kind, **fields)))
    frames = list(only(write_bag(tmp_path / "bag", said)).frames("front"))
    assert np.abs(np.array(frames).astype(int) - round((90 - 16) * 255 / 219)).max() <= 1


@pytest.mark.parametrize(
    ("kind", "damage", "problem"),
    [
        ("CompressedImage", {"data": np.empty(0, np.uint8)}, "format 'png' has no bytes"),
        ("CompressedImage", {"data": np.arange(99, dtype=np.uint8)}, "cannot be decoded"),
        ("Image", {"encoding": "h264"}, "encoding 'h264' is not supported"),
        ("Image", {"step": 7}, "does not fit its"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, kind, damage, problem):
    said = [s for s in robot() if s[0] != "/camera"]
    for i in range(6):
        _, _, received, plain = image("/camera", 100 + 0.1 * i, picture(i))
        fields = {n: getattr(plain, n) for n in plain.__dataclass_fields__ if n[0] != "_"}
        if kind == "CompressedImage":
            data = np.frombuffer(cv2.imencode(".png", picture(i))[1], np.uint8)
            fields = {"header": plain.header, "format": "png", "data": data}
        if i == 3:
            fields |= damage
        full = f"sensor_msgs/msg/{kind}"
        said.append(("/camera", full, received, make(full, **fields)))
    path = write_bag(tmp_path / "bag", said)
    with pytest.raises(ValueError, match=f"{path}: /camera, message 3 at 100.300 s: .*{problem}"):
        list(only(path).frames("front"))


# --- time ---------------------------------------------------------------------------------------


def test_newest_is_never_of_the_future():
    rng = np.random.default_rng(0)
    for _ in range(50):
        stamps = np.sort(rng.integers(0, 60, rng.integers(0, 30)))
        frames = rng.integers(-5, 70, 20)
        for tolerance in (None, 0, 7):
            for frame, found in zip(frames, newest(frames, stamps, tolerance), strict=True):
                limit = 10**9 if tolerance is None else tolerance
                there = [i for i, s in enumerate(stamps) if 0 <= frame - s <= limit]
                assert found == (there[-1] if there else -1)


@pytest.fixture
def silent(tmp_path):
    """The joints are silent between frames 2 and 5 of 8."""
    said = [s for s in robot(8) if not (s[0] == "/joint_states" and 100.2 < s[2] < 100.45)]
    return write_bag(tmp_path / "silent", said)


def test_hold_drop_and_as_of(silent):
    held = only(silent, state=Stream("joint_states", Align.HOLD))
    assert held.proprioception[:, 0].tolist() == [0, 1, 2, 2, 2, 5, 6, 7]
    before, after = open_bag(silent, contract(state=Stream("joint_states", Align.DROP, 0.15)))
    assert before.proprioception[:, 0].tolist() == [0, 1, 2, 2]
    assert before.notes == (
        "1 frame left out: without /joint_states of the last 0.15 s",
        "cut after 0.30 s: no frame for 0.20 s",
    )
    check_robot(after, range(5, 8))
    with pytest.raises(
        ValueError, match="the frame at 100.400 s is without /joint_states of the last 0.15"
    ):
        only(silent, state=Stream("joint_states", Align.AS_OF, 0.15))


def test_order_is_that_of_stamps_not_of_receipt(tmp_path):
    """Joints that arrive late still belong to their frame, and a later stamp is the future."""
    said = [s for s in robot() if s[0] != "/joint_states"]
    said += [
        joints("/joint_states", 100 + 0.1 * i, {"a": i, "b": -i}, received=100.09 + 0.1 * i)
        for i in range(6)
    ]
    said += [
        joints("/joint_states", 100.05 + 0.1 * i, {"a": 99, "b": 0}, received=100.001 + 0.1 * i)
        for i in range(6)
    ]
    check_robot(only(write_bag(tmp_path / "bag", said)), range(6))


def test_a_second_camera_is_paired_or_the_frame_left_out(tmp_path):
    said = [*robot(), *(image("/wrist", 100 + 0.1 * i, picture(50 + i)) for i in (0, 1, 3, 4, 5))]
    cameras = {"front": Stream("camera"), "wrist": Stream("wrist", tolerance=0.01)}
    path = write_bag(tmp_path / "bag", said)
    for episode, numbers in zip(
        open_bag(path, contract(cameras=cameras)), ((0, 1), (3, 4, 5)), strict=True
    ):
        check_robot(episode, numbers)
        for number, frame in zip(numbers, episode.frames("wrist"), strict=True):
            np.testing.assert_array_equal(frame, picture(50 + number))


def test_a_clock_that_jumps_back_ends_an_episode(tmp_path):
    """A simulation that is reset: stamps begin anew, receipt goes on."""
    first = [(t, k, received, m) for t, k, received, m in robot(8)]
    again = [(t, k, received + 3, m) for t, k, received, m in robot(5, first=20)]
    path = write_bag(tmp_path / "bag", [*first, *again])
    before, after = open_bag(path, contract())
    check_robot(before, range(8))
    check_robot(after, range(20, 25))
    assert before.stamps[0] == after.stamps[0]
    assert "a clock jumped before this episode" in after.notes
    (camera,) = (t for t in BagReport.of(path).topics if t.name == "/camera")
    (jump,) = camera.jumps
    assert (jump.step, jump.elapsed) == (pytest.approx(-0.7), pytest.approx(2.3))


def test_frames_are_thinned_to_dt_and_never_invented(tmp_path):
    said = list(robot(30, period=1 / 30))
    episode = only(write_bag(tmp_path / "fast", said))
    np.testing.assert_allclose(np.diff(episode.stamps), 0.1, atol=0.01)
    check_robot(episode, range(0, 30, 3))
    path = write_bag(tmp_path / "slow", robot(6, period=0.5))
    with pytest.raises(ValueError, match="2 pictures a second"):
        only(path)


def test_unset_stamps_are_noted(tmp_path):
    said = []
    for topic, kind, received, message in robot():
        message.header = make(
            "std_msgs/msg/Header",
            stamp=make("builtin_interfaces/msg/Time", sec=0, nanosec=0),
            frame_id="",
        )
        said.append((topic, kind, received, message))
    episode = only(write_bag(tmp_path / "bag", said))
    assert len(episode) == 6
    assert "/camera: header stamps are unset, times of receipt stand in" in episode.notes


def test_a_command_stamped_now_counts_from_its_receipt(tmp_path):
    said = list(robot())
    place = [i for i, one in enumerate(said) if one[0] == "/command"][3]
    topic, kind, received, message = said[place]
    zero = make("builtin_interfaces/msg/Time", sec=0, nanosec=0)
    message.header = make("std_msgs/msg/Header", stamp=zero, frame_id="")
    said[place] = (topic, kind, received, message)
    episode = only(write_bag(tmp_path / "bag", said))  # a jump of the clock would cut it in two
    check_robot(episode, range(6))


# --- what an episode says -----------------------------------------------------------------------


def test_every_instruction_is_an_episode_and_an_empty_one_none(tmp_path):
    said = [*robot(10), *(text("/instruction", t, s) for t, s in ((100.05, "go"), (100.65, "")))]
    said.append(text("/instruction", 100.85, "back"))
    first, second = open_bag(write_bag(tmp_path / "bag", said), contract())
    assert (first.instruction, second.instruction) == ("go", "back")
    check_robot(first, range(1, 7))
    check_robot(second, [9])
    assert "3 frames left out: without an instruction" in first.notes


def test_the_metadata_tells_what_no_topic_says(tmp_path):
    custom = {"instruction": "lift it", "outcome": "failed", "robot": "panda"}
    episode = only(write_bag(tmp_path / "bag", robot(), custom=custom))
    assert (episode.instruction, episode.outcome, episode.robot) == ("lift it", False, "panda")


def test_joints_become_ways_of_the_tool(tmp_path):
    """What the package's own arm learns: offsets of the tool from where it is, and the fingers."""
    action = ActionConfig.get_arm_config()
    there = panda.HOME + np.array([0.1, 0.05, 0, 0, 0, 0, 0, -0.03])
    now = dict(zip(panda.JOINT_NAMES, panda.HOME, strict=True))
    then = dict(zip(panda.JOINT_NAMES, there, strict=True))
    said = [
        image("/camera", 100.0, picture(0)),
        joints("/joint_states", 99.95, now),
        joints("/command", 99.99, then),
    ]
    episode = only(write_bag(tmp_path / "bag", said), action=action)
    kinematics = ArmKinematics()
    place, _ = kinematics.forward(panda.HOME[:-1])
    goal, _ = kinematics.forward(there[:-1])
    np.testing.assert_allclose(episode.proprioception[0], [*place, 0.04], atol=1e-6)
    np.testing.assert_allclose(episode.actions[0], [*(goal - place), 0.01], atol=1e-6)


def test_a_topic_of_another_type_is_named(tmp_path):
    path = write_bag(tmp_path / "bag", [*robot(), text("/words", 100.0, "hello")])
    with pytest.raises(ValueError, match="/words is std_msgs/msg/String; expected sensor_msgs"):
        only(path, cameras={"front": Stream("words")})
    with pytest.raises(ValueError, match="no topic depth; it has: /camera, /command"):
        only(path, depth={"front": Stream("depth")})


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.35, 0.6, 0.85, 0.999999])
def test_what_a_killed_recorder_wrote_is_read(tmp_path, keep):
    said = [image("/camera", 100 + 0.1 * i, picture(i, 300)) for i in range(20)]
    path = write_bag(tmp_path / "bag", said)
    (file,) = path.glob("*.mcap")
    whole = [bytes(data) for data in Bag(path).raw(Bag(path).topic("camera"))]
    (path / "metadata.yaml").unlink()
    os.truncate(file, int(keep * file.stat().st_size))
    bag = Bag(path)
    left = [bytes(data) for data in bag.raw(bag.topic("camera"))]
    assert left == whole[: len(left)]
    assert len(left) >= int(keep * 20) - 1  # all but the message that was being written
    assert ("breaks off" in " ".join(bag.notes)) == (keep < 0.99)  # beyond is only the index


def test_a_finished_recording_that_lost_its_end_is_an_error(tmp_path):
    path = write_bag(tmp_path / "bag", robot(20))
    (file,) = path.glob("*.mcap")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match="is truncated: .* move metadata.yaml away"):
        Bag(path)


def test_a_database_that_lost_its_end_is_an_error(tmp_path):
    path = write_bag(tmp_path / "bag", robot(200), "sqlite3")
    (file,) = path.glob("*.db3")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match="cannot be read: database disk image is malformed"):
        Bag(path)


def test_checksums_of_chunks_are_looked_at(tmp_path):
    path = write_bag(tmp_path / "bag", robot())
    (file,) = path.glob("*.mcap")
    data = bytearray(file.read_bytes())
    head = data.index(b"\x06", 8 + 9 + struct.unpack_from("<Q", data, 9)[0])
    size, start = struct.unpack_from("<Q", data, head + 25)[0], head + 9 + 40
    struct.pack_into("<I", data, head + 33, zlib.crc32(data[start : start + size]))
    file.write_bytes(data)
    check_robot(only(path), range(6))
    data[data.index(picture(3).tobytes()) + 7] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="is corrupt: chunk at byte .* checksum"):
        list(only(path).frames("front"))


def test_qos_of_the_metadata_does_not_hide_messages(tmp_path):
    path = write_bag(tmp_path / "bag", robot())
    metadata = path / "metadata.yaml"
    profile = (
        "[{history: keep_last, depth: 3, reliability: reliable, durability: volatile, deadline: "
        "{sec: 0, nsec: 0}, lifespan: {sec: 0, nsec: 0}, liveliness: automatic, "
        "liveliness_lease_duration: {sec: 0, nsec: 0}, avoid_ros_namespace_conventions: false}]"
    )
    before = metadata.read_text()
    metadata.write_text(
        before.replace("offered_qos_profiles: []", f"offered_qos_profiles: {profile}")
    )
    assert metadata.read_text() != before
    check_robot(only(path), range(6))


def test_less_than_the_metadata_counts_is_lost(tmp_path):
    path = write_bag(tmp_path / "bag", robot(), "sqlite3")
    (file,) = path.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("DELETE FROM messages WHERE id IN (3, 4)")
    database.close()
    with pytest.raises(ValueError, match="lacks messages: metadata.yaml counts 6 on"):
        Bag(path)


def test_types_without_msg_and_bytes_after_messages(tmp_path):
    said = [(t, k, r, bytes(STORE.serialize_cdr(m, k)) + bytes(8)) for t, k, r, m in robot()]
    path = write_bag(tmp_path / "bag", said, "sqlite3")
    (file,) = path.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
    database.close()
    check_robot(only(path), range(6))
    assert any("8 bytes after the end" in note for note in BagReport.of(path).notes)


def test_a_write_ahead_log_is_part_of_the_recording(tmp_path):
    path = write_bag(tmp_path / "bag", robot(), "sqlite3")
    (file,) = path.glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.execute(
        "INSERT INTO messages SELECT 1000 + id, topic_id, timestamp, data FROM messages"
    )
    database.commit()
    killed = shutil.copytree(path, tmp_path / "killed")  # as it lies when the recorder is killed
    database.close()
    assert sum(map(len, Bag(killed).topics.values())) == 2 * 18


def test_parts_of_a_recording_without_metadata(tmp_path):
    """Part 10 comes after part 2, and a part may begin before the last one ended."""
    folder = tmp_path / "bag"
    folder.mkdir()
    parts = {"2": robot(3), "10": robot(3, start=100.3, first=3)}
    for number, said in parts.items():
        part = write_bag(tmp_path / f"part{number}", said)
        shutil.copy(next(part.glob("*.mcap")), folder / f"bag_{number}.mcap")
    check_robot(only(folder), range(6))


def test_an_unknown_type_is_skipped_and_said(tmp_path, capsys):
    path = tmp_path / "bag"
    with Writer(path, version=9, storage_plugin=PLUGINS["mcap"]) as writer:
        event = writer.add_connection(
            "/add/_service_event",
            "my_msgs/srv/Add_Event",
            msgdef="service_msgs/ServiceEventInfo info\nmy_msgs/Add_Request[<=1] request\n",
            rihs01="RIHS01_0",
        )
        camera = writer.add_connection("/camera", "sensor_msgs/msg/Image", typestore=STORE)
        writer.write(event, SECOND, b"\0\1\0\0" + bytes(40))
        _, kind, _, message = image("/camera", 1.0, picture(0))
        writer.write(camera, SECOND, STORE.serialize_cdr(message, kind))
    assert cli.main(["bag", "report", str(path)]) == 0
    assert "skipped: /add/_service_event: the bag does not define" in capsys.readouterr().out


def broken(folder: Path) -> dict[str, Path]:
    """A recording of each kind of damage that leaves nothing to read."""
    paths = {name: folder / name for name in ("nothing", "empty folder", "no MCAP")}
    paths["empty folder"].mkdir()
    paths["no MCAP"].mkdir()
    (paths["no MCAP"] / "a.mcap").write_bytes(b"something else entirely")
    paths["empty"] = write_bag(folder / "empty", [])
    paths["zero bytes"] = folder / "zero.mcap"
    paths["zero bytes"].touch()
    paths["metadata"] = write_bag(folder / "metadata", robot())
    (paths["metadata"] / "metadata.yaml").write_text("a: [")
    paths["lost part"] = write_bag(folder / "lost part", robot())
    next(paths["lost part"].glob("*.mcap")).unlink()
    return paths


def test_one_clear_error_for_each_damage(tmp_path, capsys):
    messages = {
        "nothing": "does not exist",
        "empty folder": "holds no recording",
        "no MCAP": "is not an MCAP file",
        "empty": "holds no messages",
        "zero bytes": "is empty",
        "metadata": "metadata.yaml is damaged",
        "lost part": "a part that metadata.yaml names",
    }
    for name, path in broken(tmp_path).items():
        assert cli.main(["bag", "report", str(path)]) == 1, name
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1, name
        assert captured.err.startswith("error: ") and messages[name] in captured.err, name


def test_a_damaged_recording_hides_no_other(tmp_path, capsys):
    whole = write_bag(tmp_path / "whole", robot())
    assert cli.main(["bag", "report", str(tmp_path / "gone"), str(whole)]) == 1
    captured = capsys.readouterr()
    assert str(whole) in captured.out and captured.err.count("error: ") == 1


# --- the report ---------------------------------------------------------------------------------


def test_the_report_counts_gaps_and_drops(tmp_path, capsys):
    said = [s for s in robot(50) if not (s[0] == "/camera" and 101 < s[2] < 101.35)]
    path = write_bag(tmp_path / "bag", [*said, text("/instruction", 100.5, "go")])
    report = {topic.name: topic for topic in BagReport.of(path).topics}
    camera = report["/camera"]
    assert (camera.count, camera.drops) == (46, 4)
    assert camera.rate == pytest.approx(10) and camera.gap == pytest.approx(0.5)
    assert report["/joint_states"].drops == 0
    assert cli.main(["bag", "report", str(path)]) == 0
    assert "/camera" in capsys.readouterr().out


def test_a_leap_of_the_clock_is_reported(tmp_path):
    said = [
        (t, k, r if r < 100.25 else r - 5.0, m)
        for t, k, r, m in (*robot(3), *robot(3, start=105.3, first=3))
    ]
    path = write_bag(tmp_path / "bag", said)
    (camera,) = (t for t in BagReport.of(path).topics if t.name == "/camera")
    (jump,) = camera.jumps
    assert (jump.step, jump.elapsed) == (pytest.approx(5.1), pytest.approx(0.1))
    assert len(list(open_bag(path, contract()))) == 2


@pytest.mark.skipif(
    "VLA_ROS_RECORDINGS" not in os.environ,
    reason="VLA_ROS_RECORDINGS names no folder of real recordings",
)
def test_real_recordings_are_read_whole():
    found = 0
    for file in sorted(Path(os.environ["VLA_ROS_RECORDINGS"]).rglob("*")):
        if file.suffix not in (".mcap", ".db3") or "empty" in file.name:
            continue
        for path in (file, *recordings_in(file.parent)):
            for topic in (bag := Bag(path)).topics.values():
                try:
                    topic.check()
                except ValueError:
                    continue
                assert len(list(bag.messages(topic))) == len(topic)
                found += len(topic)
    assert found > 10_000
