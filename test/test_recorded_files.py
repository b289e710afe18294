"""Which files are recordings, of which types their messages are, and what is said of them."""

import shutil
import sqlite3

import numpy as np
import pytest
from recordings import (
    ACTION,
    PLUGINS,
    SECOND,
    STORE,
    image,
    joints,
    picture,
    robot,
    text,
    write_bag,
)
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vla_ros import cli
from vla_ros.training.data.alignment import Stream
from vla_ros.training.data.bag import Bag
from vla_ros.training.data.bag_report import BagReport
from vla_ros.training.data.recordings import Robot

ROBOT = Robot(ACTION, bag={"cameras": {"front": Stream("camera")}, "command": Stream("command")})


def loose(path, folder, name, storage="mcap"):
    """The file of a recording, without its metadata.yaml."""
    folder.mkdir(exist_ok=True)
    ending = {"mcap": "mcap", "sqlite3": "db3"}[storage]
    return shutil.move(next(path.glob(f"*.{ending}")), folder / f"{name}.{ending}")


def lengths(*paths) -> list[int]:
    return [len(one) for one in ROBOT.episodes(paths)]


def topics(path) -> dict:
    return {topic.name: topic for topic in BagReport.of(path).topics}


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize(("apart", "wanted"), [(0.3, [9]), (60.0, [3, 3, 3])])
def test_files_are_one_recording_if_each_goes_on_where_one_ended(tmp_path, storage, apart, wanted):
    for i in range(3):
        said = robot(3, start=100 + apart * i, first=3 * i)
        path = write_bag(tmp_path / f"part{i}", said, storage)
        loose(path, tmp_path / "all", f"run_{i}", storage)
    assert lengths(tmp_path / "all") == wanted
    if len(wanted) > 1:
        with pytest.raises(ValueError, match="holds 3 recordings: name one of run_0"):
            Bag(tmp_path / "all")


def test_everything_in_a_folder_is_read_and_the_rest_is_said(tmp_path, capsys):
    folder = tmp_path / "all"
    write_bag(folder / "rec0", robot(4))
    write_bag(folder / "deeper" / "rec1", robot(5))
    loose(write_bag(tmp_path / "other", robot(6)), folder, "extra")
    loose(write_bag(tmp_path / "more", robot(7)), folder, "run_1")
    loose(write_bag(tmp_path / "unlisted", robot(3)), folder / "rec0", "unlisted")
    (folder / "plots").mkdir()
    (folder / "plots" / "loss.png").touch()
    (folder / "old.bag").touch()
    assert lengths(folder) == [6, 7, 5, 4, 3]
    said = capsys.readouterr().err
    assert "plots holds no recording and is left out" in said
    assert "old.bag is a ROS 1 recording and left out" in said
    assert cli.main(["bag", "report", str(folder)]) == 0
    assert capsys.readouterr().out.count("messages\n") == 5


def test_what_is_there_twice_is_read_once_and_said(tmp_path, capsys):
    folder = tmp_path / "aufnahmen"
    write_bag(folder / "grün", robot(4))
    write_bag(folder / "rot", robot(5), "sqlite3")
    (folder / "round").symlink_to(folder)
    (folder / "same").symlink_to(folder / "rot")
    (folder / "gone").symlink_to(tmp_path / "gone")
    loose(write_bag(tmp_path / "other", robot(6)), folder, "EXTRA")
    (folder / "EXTRA.mcap").rename(folder / "EXTRA.MCAP")
    (folder / "again.mcap").symlink_to(folder / "EXTRA.MCAP")
    found = ROBOT.episodes([folder / "rot", folder, folder / "grün"])
    assert [len(episode) for episode in found] == [5, 6, 4]
    said = capsys.readouterr().err
    for name in ("round", "same", "again.mcap", "rot"):
        assert f"{name} is read already, and left out" in said
    assert "grün is given twice, and read once" in said
    assert "gone is a link to what is not there, and left out" in said
    assert cli.main(["bag", "report", str(folder)]) == 0
    assert capsys.readouterr().out.count("messages\n") == 3
    (folder / "gone.mcap").symlink_to(tmp_path / "gone")
    assert cli.main(["bag", "report", str(folder)]) == 1
    assert "gone.mcap is a link to what is not there: remove it" in capsys.readouterr().err


def test_a_recording_of_nothing_hinders_no_other(tmp_path, capsys):
    write_bag(tmp_path / "all" / "full", robot(4))
    write_bag(tmp_path / "all" / "nothing", [])
    assert lengths(tmp_path / "all") == [4]
    assert "nothing holds no messages: left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="nothing holds no messages"):
        lengths(tmp_path / "all" / "nothing")


def test_the_report_names_what_is_damaged_and_goes_on(tmp_path, capsys):
    for name in ("a", "b", "c", "d"):
        write_bag(tmp_path / "all" / name, robot(4))
    next((tmp_path / "all" / "b").glob("*.mcap")).unlink()
    next((tmp_path / "all" / "c").glob("*.mcap")).write_bytes(b"something else")
    assert cli.main(["bag", "report", str(tmp_path / "all")]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("messages\n") == 2 and captured.err.count("error: ") == 2
    with pytest.raises(ValueError, match="/b lacks b.mcap"):
        lengths(tmp_path / "all")


def test_what_is_left_out_is_said_once_for_each_kind(tmp_path, capsys):
    for i in range(6):
        said = [*robot(10), text("/instruction", 100.05 + 0.1 * (i % 2), "go")]
        write_bag(tmp_path / "all" / f"{i}", said)
    assert len(lengths(tmp_path / "all")) == 6
    said = capsys.readouterr().err
    assert said.count("left out: without an instruction") == 4
    assert "0, episode 0: 1 frame left out: without an instruction" in said
    assert "more episodes" in said


# --- types --------------------------------------------------------------------------------------


def range_message(store) -> bytes:
    values = {"radiation_type": 0, "field_of_view": 0.1, "min_range": 0.0, "max_range": 4.0}
    if "variance" in dict(store.fielddefs["sensor_msgs/msg/Range"][1]):
        values["variance"] = 0.5
    _, _, _, message = joints("", 1.0, {})
    kind = "sensor_msgs/msg/Range"
    message = store.types[kind](header=message.header, range=1.5, **values)
    return bytes(store.serialize_cdr(message, kind))


@pytest.mark.parametrize("distribution", [Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY])
def test_types_that_have_changed_are_read_by_the_definition_of_their_time(tmp_path, distribution):
    data = range_message(get_typestore(distribution))
    said = [("/distance", "sensor_msgs/msg/Range", 1.0 + i, data) for i in range(3)]
    bag = Bag(write_bag(tmp_path / "bag", said, "sqlite3"))
    assert [message.range for message in bag.messages(bag.topic("distance"))] == [1.5] * 3


def write_custom(path, kind, definition, data, plugin="mcap"):
    with Writer(path, version=9, storage_plugin=PLUGINS[plugin]) as writer:
        topic = writer.add_connection("/custom", kind, msgdef=definition, rihs01="RIHS01_0")
        writer.write(topic, SECOND, data)
    if plugin == "sqlite3":
        (file,) = path.glob("*.db3")
        with sqlite3.connect(file) as database:
            database.execute("DELETE FROM message_definitions")
        database.close()
    return path


@pytest.mark.parametrize("definition", ["", "std_msgs/Header header\nstring[] name\n"])
def test_a_definition_without_what_it_needs_is_completed(tmp_path, definition):
    """Or else the standard type serves."""
    _, kind, _, message = joints("/custom", 1.0, {"a": 0.25})
    data = bytes(STORE.serialize_cdr(message, kind))
    bag = Bag(write_custom(tmp_path / "bag", kind, definition, data))
    (read,) = bag.messages(bag.topic("custom"))
    assert (list(read.name), read.header.stamp.sec) == (["a"], 1)
    assert bag.topic("custom").stamped


def test_a_topic_of_another_type_is_skipped_by_the_report(tmp_path, capsys):
    said = [*robot(), ("/broken", "sensor_msgs/msg/Image", 100.0, b"\0\1\0\0abcd")]
    assert cli.main(["bag", "report", str(write_bag(tmp_path / "bag", said))]) == 0
    captured = capsys.readouterr()
    assert "skipped: /broken holds what is no sensor_msgs/msg/Image" in captured.out
    assert "/camera" in captured.out and not captured.err


def test_types_that_a_database_does_not_define_come_from_a_folder(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "src" / "my_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Inner.msg").write_text("float64 value\n")
    (folder / "Outer.msg").write_text("std_msgs/Header header\nmy_msgs/Inner[] inner\n")
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in ("Inner", "Outer"):
        kind = f"my_msgs/msg/{name}"
        store.register(get_types_from_msg((folder / f"{name}.msg").read_text(), kind))
    inner = [store.types["my_msgs/msg/Inner"](value=2.5)]
    _, _, _, stamped = joints("", 1.0, {})
    message = store.types[kind](header=stamped.header, inner=inner)
    data = bytes(store.serialize_cdr(message, kind))
    path = write_custom(tmp_path / "bag", kind, "x", data, "sqlite3")
    assert cli.main(["bag", "report", str(path)]) == 0
    assert "skipped: /custom: the bag does not define its type" in capsys.readouterr().out
    assert cli.main(["bag", "report", str(path), "--msg", str(tmp_path / "src")]) == 0
    assert "skipped" not in capsys.readouterr().out
    bag = Bag(path, [tmp_path / "src"])
    (read,) = bag.messages(bag.topic("custom"))
    assert read.inner[0].value == 2.5 and bag.topic("custom").stamped
    # Packages of the environment are known without a folder.
    shutil.copytree(tmp_path / "src", tmp_path / "install" / "share")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "install"))
    (read,) = Bag(path).messages(bag.topic("custom"))
    assert read.inner[0].value == 2.5
    with pytest.raises(ValueError, match="nothing is no folder of .msg files"):
        Bag(path, [tmp_path / "nothing"])


def test_a_robots_file_names_folders_of_types_from_where_it_lies(tmp_path):
    (tmp_path / "my_msgs" / "msg").mkdir(parents=True)
    (tmp_path / "my_msgs" / "msg" / "One.msg").write_text("float64 value\n")
    (tmp_path / "mine.yaml").write_text(
        "action: {robot_type: arm, action_names: [a], action_bounds: [-1, 1]}\nmsg: [my_msgs]\n"
    )
    assert [*Robot.load(str(tmp_path / "mine.yaml")).msg] == [tmp_path / "my_msgs"]
    (tmp_path / "mine.yaml").write_text(
        "action: {robot_type: arm, action_names: [a], action_bounds: [-1, 1]}\nmsg: [none]\n"
    )
    with pytest.raises(ValueError, match="mine.yaml describes no robot: .*none is no folder of"):
        Robot.load(str(tmp_path / "mine.yaml"))


# --- the report ---------------------------------------------------------------------------------


def test_bursts_are_no_drops_and_lost_messages_are(tmp_path):
    said = [text("/bursts", 100 + i + 0.001 * k, "x") for i in range(10) for k in range(10)]
    said += [text("/steady", 100 + 0.1 * i, "x") for i in range(100) if not 40 <= i < 50]
    report = topics(write_bag(tmp_path / "bag", said))
    assert report["/bursts"].drops is None and report["/steady"].drops == 10
    assert report["/bursts"].mean == pytest.approx(11, rel=0.02)
    assert report["/bursts"].rate == pytest.approx(1000, rel=0.02)
    assert report["/steady"].mean == pytest.approx(9, rel=0.02)


def test_lag_and_speed_of_clocks_are_reported(tmp_path, capsys):
    slow = [joints("/slow", 100 + 0.04 * i, {"a": 0}, received=100.3 + 0.1 * i) for i in range(60)]
    late = [image("/late", 100 + 0.1 * i, picture(i), received=100.05 + 0.1 * i) for i in range(60)]
    path = write_bag(tmp_path / "bag", [*slow, *late])
    report = topics(path)
    assert report["/late"].lag == pytest.approx(0.05, abs=1e-6)
    assert report["/late"].clock == pytest.approx(1.0) and report["/slow"].clock == pytest.approx(
        0.4, rel=1e-3
    )
    assert cli.main(["bag", "report", str(path)]) == 0
    said = capsys.readouterr().out
    assert "/slow: its stamps run at 0.40 of the time of receipt" in said
    assert said.count("of the time of receipt") == 1


def test_topics_of_a_simulation_that_run_alike_are_one_line_and_have_no_lag(tmp_path, capsys):
    now = 1_700_000_000.0
    slow = [
        joints(name, 5 + 0.05 * i * speed, {"a": 0}, received=now + 0.05 * i)
        for name, speed in (("/arm", 0.8), ("/gripper", 0.82), ("/wrong", 0.4))
        for i in range(60)
    ]
    path = write_bag(tmp_path / "bag", slow)
    assert all(np.isnan(topic.lag) for topic in topics(path).values())
    assert cli.main(["bag", "report", str(path)]) == 0
    said = capsys.readouterr().out
    assert "/arm, /gripper: stamps run at 0.80 to 0.82 of the time of receipt" in said
    assert "/wrong: its stamps run at 0.40 of the time of receipt" in said
    assert said.count("another clock than receipt") == 1


def test_an_instruction_alone_has_no_rates(tmp_path):
    (topic,) = topics(write_bag(tmp_path / "bag", [text("/instruction", 1.0, "go")])).values()
    assert all(np.isnan([topic.rate, topic.mean, topic.gap, topic.lag, topic.clock]))
