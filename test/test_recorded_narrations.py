"""Narrations of before they had cycle scores are read from recordings as they were written."""

from pathlib import Path

import numpy as np
import pytest
from recordings import PLUGINS, SECOND, STORE
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vla_ros import cli
from vla_ros.training.data.bag import Bag

KIND = "vla_ros/msg/Narration"
TEXT = (Path(__file__).parents[1] / "msg" / "Narration.msg").read_text()
OLD = "\n".join(line for line in TEXT.splitlines() if "cycle_score" not in line)


@pytest.mark.parametrize("storage", PLUGINS)
def test_narrations_without_cycle_scores_are_read(storage, tmp_path, capsys):
    types = get_typestore(Stores.ROS2_JAZZY)
    types.register(get_types_from_msg(OLD, KIND))
    assert "doubtful" not in dict(types.fielddefs[KIND][1])
    path = tmp_path / "old"
    message = types.types[KIND](
        header=STORE.types["std_msgs/msg/Header"](
            stamp=STORE.types["builtin_interfaces/msg/Time"](sec=7, nanosec=0), frame_id="camera"
        ),
        text="There is a red cube.", tokens=["<obj>"], scene=["<scene>"], instruction="",
        unknown_words=[], log_probability=-0.5, inference_time=0.25,
    )  # fmt: skip
    writer = Writer(path, version=9, storage_plugin=PLUGINS[storage])
    with writer:
        topic = writer.add_connection("/narration", KIND, typestore=types)
        for second in range(3):
            writer.write(topic, (7 + second) * SECOND, types.serialize_cdr(message, KIND))
    bag = Bag(path)
    read = [*bag.messages(bag.topic("/narration"))]
    assert [one.text for one in read] == ["There is a red cube."] * 3
    assert not hasattr(read[0], "cycle_score") and np.isclose(read[0].inference_time, 0.25)
    assert cli.main(["bag", "report", str(path)]) == 0
    assert "narration" in capsys.readouterr().out
