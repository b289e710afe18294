"""Which steps of an RLDS record have an action to learn, and where its episodes begin."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from episodes import assert_same, episode

from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.words import words_of
from vla_ros.training.data.bag import Bag
from vla_ros.training.data.bag_to_rlds import write_rlds
from vla_ros.training.data.bags import open_bag
from vla_ros.training.data.episode_windows import EpisodeWindows, action_chunks
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.rlds import RldsMapping, open_rlds
from vla_ros.training.data.rlds_to_bag import contract_of, write_bags
from vla_ros.training.data.shards import EpisodeShard, write_shards
from vla_ros.training.data.tfrecord import serialize_example, write_record

LENGTH = 5
CONTRACT = ActionConfig(
    robot_type="arm",
    action_dim=2,
    action_bounds=(-1.0, 1.0),
    joint_names=(),
    action_names=("a", "b"),
    proprioception_names=("a", "b"),
    horizon=3,
    dt=0.1,
)
MAPPING = RldsMapping(dt=0.1, action_names=("a", "b"), proprioception_names=("a", "b"))


def feature(kind, dtype="float32", dimensions=(), **content):
    shape = {"dimensions": [str(d) for d in dimensions]}
    return {"pythonClassName": "x", kind: {"shape": shape, "dtype": dtype, **content}}


def dictionary(**features):
    return {"pythonClassName": "x", "featuresDict": {"features": features}}


def dataset(folder, actions, times=None, instruction=b"go", **flags):
    """One record whose step i shows grey level 10 i; `flags` are is_first and the like.

    `times` are of the steps: a name, a type and values.
    """
    pictures = [
        cv2.imencode(".png", np.full((4, 4, 3), 10 * i, np.uint8))[1].tobytes()
        for i in range(len(actions))
    ]
    steps = dictionary(
        action=feature("tensor", dimensions=(2,)),
        language_instruction={"pythonClassName": "x", "text": {}},
        observation=dictionary(
            state=feature("tensor", dimensions=(2,)), eye=feature("image", "uint8", (4, 4, 3))
        ),
        **{name: feature("tensor", "bool") for name in flags},
        **({times[0]: feature("tensor", times[1])} if times else {}),
    )
    layout = dictionary(steps={"sequence": {"feature": steps}})
    (folder / "features.json").write_text(json.dumps(layout))
    lengths = [{"name": "train", "shardLengths": ["1"]}]
    (folder / "dataset_info.json").write_text(json.dumps({"name": "tiny", "splits": lengths}))
    content = {
        "steps/action": np.array(actions, np.float32),
        "steps/language_instruction": [instruction] * len(actions),
        "steps/observation/state": np.zeros((len(actions), 2), np.float32),
        "steps/observation/eye": pictures,
        **{f"steps/{name}": np.array(values, int) for name, values in flags.items()},
        **({f"steps/{times[0]}": np.array(times[2], times[1])} if times else {}),
    }
    with open(folder / "tiny-train.tfrecord-00000-of-00001", "wb") as file:
        write_record(file, serialize_example(content))
    return folder


def last_only(length=LENGTH):
    return [0] * (length - 1) + [1]


@pytest.mark.parametrize("undefined", [0.0, 99.0, np.nan])
@pytest.mark.parametrize("flag", ["is_last", "is_terminal"])
def test_the_action_of_the_last_step_is_no_label_but_its_picture_stays(tmp_path, flag, undefined):
    actions = np.full((LENGTH, 2), 0.5)
    actions[-1] = undefined
    (one,) = open_rlds(dataset(tmp_path, actions, **{flag: last_only()}), MAPPING)
    assert one.actions_known.tolist() == [True] * 4 + [False]
    assert "action of the last step is not known" in one.notes[0]
    chunks, known = action_chunks(one, CONTRACT)
    assert (chunks == 0.5).all(), "nothing of the undefined action is left"
    assert known.sum(1).tolist() == [3, 3, 2, 1, 0]
    assert [int(picture[0, 0, 0]) for picture in one.frames("eye")] == [0, 10, 20, 30, 40]


def test_all_steps_of_an_episode_that_was_cut_off_are_learnt(tmp_path):
    actions = np.random.default_rng(0).normal(size=(LENGTH, 2)).astype(np.float32)
    flags = {"is_first": [1, 0, 0, 0, 0], "is_last": [0] * 5, "is_terminal": [0] * 5}
    (one,) = open_rlds(dataset(tmp_path, actions, **flags), MAPPING)
    assert one.actions_known.all() and one.notes == ()
    np.testing.assert_array_equal(one.actions, actions)


@pytest.mark.parametrize(
    "flags",
    [{"is_first": [1, 0, 0, 1, 0]}, {"is_last": [0, 0, 1, 0, 1]}],
    ids=["another first step", "a last step within"],
)
def test_an_episode_that_begins_within_a_record_is_one_of_its_own(tmp_path, flags):
    actions = np.repeat(np.arange(5.0)[:, None], 2, axis=1)
    first, second = open_rlds(dataset(tmp_path, actions, **flags), MAPPING)
    assert (len(first), len(second)) == (3, 2)
    assert first.name.endswith("train[0], part 0") and "2 episodes" in first.notes[-1]
    np.testing.assert_array_equal(second.actions[0], [3, 3])
    assert [int(picture[0, 0, 0]) for picture in second.frames("eye", 1)] == [40]
    chunks, _ = action_chunks(first, CONTRACT)
    assert chunks.max() <= 2, "no chunk crosses into the next episode"


def test_flags_that_are_true_of_all_steps_tell_nothing(tmp_path):
    (one,) = open_rlds(dataset(tmp_path, np.ones((5, 2)), is_first=[1] * 5), MAPPING)
    assert len(one) == 5 and one.notes == ("steps/is_first is true of all steps and tells nothing",)


def test_an_unknown_action_stays_unknown_through_shards_and_datasets(tmp_path):
    known = np.array([True, True, True, False])
    one = episode(1, actions_known=known)
    write_shards(tmp_path / "shards", [one], ["front"], 6)
    (read,) = EpisodeShard.load(tmp_path / "shards" / "00000").episodes()
    (again,) = open_rlds(write_rlds(tmp_path, "toys", [one]))
    assert_same(again, one)
    for found in (read, again):
        np.testing.assert_array_equal(found.actions_known, known)


def test_a_recording_has_no_message_for_an_unknown_action(tmp_path):
    one = episode(1, actions_known=np.array([True, True, True, False]))
    write_bags(tmp_path / "bags", [one])
    path = tmp_path / "bags" / "episode_00000"
    (read,) = open_bag(path, contract_of(Bag(path)))
    assert len(read) == 3 and read.actions_known.all()
    np.testing.assert_array_equal(read.actions, one.actions[:3])


def test_batches_weigh_an_unknown_action_with_nothing(tmp_path):
    one = episode(1, 40, actions_known=np.arange(40) != 39, depths={})
    contract = replace(
        CONTRACT,
        action_dim=3,
        action_names=("x", "y", "grip"),
        action_bounds=(-1.0, 1.0),
        control_mode="end_effector_delta",
    )
    windows = EpisodeWindows([one], contract, ["front"], {one.instruction: [3]}, np.ones(2))
    (batch,) = windows.whole(40)
    assert batch["known"].shape == (1, 40, 3)
    assert batch["known"][0, 36:].sum(1).tolist() == [3, 2, 1, 0]


# --- when steps were ----------------------------------------------------------------------------

TIMES = 3.0 + 0.1 * np.array([0, 1, 2, 7, 8])


@pytest.mark.parametrize(
    ("kind", "unit"), [("float32", 1.0), ("float64", 1.0), ("int64", 1e-3), ("int64", 1e-9)]
)
def test_an_episode_is_cut_where_steps_are_missing(tmp_path, kind, unit):
    times = ("timestamp", kind, np.round(TIMES / unit, 6))
    path = dataset(tmp_path, [[i, 0] for i in range(5)], times, is_last=last_only())
    before, after = open_rlds(path, MAPPING)
    np.testing.assert_allclose(before.stamps, [0.0, 0.1, 0.2], atol=1e-5)
    assert after.actions[:, 0].tolist() == [3, 3] and after.actions_known.tolist() == [True, False]
    assert [frame[0, 0, 0] for frame in after.frames("eye")] == [30, 40]
    assert "no frame for 0.50 s" in " ".join(before.notes)


def test_times_that_are_none_are_noted_or_refused(tmp_path):
    path = dataset(tmp_path, np.zeros((5, 2)), ("time", "float32", np.arange(5) * 0.3))
    (one,) = open_rlds(path, MAPPING)
    np.testing.assert_allclose(np.diff(one.stamps), 0.1)
    assert "'steps/time' tells no times with steps of 0.1 s" in " ".join(one.notes)
    with pytest.raises(ValueError, match="'steps/time' tells no times .* correct dt"):
        [*open_rlds(path, replace(MAPPING, stamp="steps/time"))]
    (one,) = open_rlds(path, replace(MAPPING, stamp=""))
    assert not one.notes
    with pytest.raises(ValueError, match="'steps/clock' does not exist"):
        open_rlds(path, replace(MAPPING, stamp="steps/clock"))


def test_a_time_that_comes_twice_hides_no_gap(tmp_path):
    times = ("timestamp", "float64", [0.0, 0.1, 0.1, 0.2, 3.2, 3.3])
    first, second = open_rlds(dataset(tmp_path, np.zeros((6, 2)), times), MAPPING)
    assert (len(first), len(second)) == (4, 2)


def test_of_a_datasets_versions_the_newest_is_read_and_the_rest_is_said(tmp_path, capsys):
    for number, version in enumerate(("1.9.0", "1.10.0", "0.1.0")):
        (tmp_path / "tiny" / version).mkdir(parents=True)
        dataset(tmp_path / "tiny" / version, np.full((LENGTH, 2), 0.1 * number))
    robot = Robot(CONTRACT)
    (one,) = robot.episodes([tmp_path])
    np.testing.assert_allclose(one.actions, 0.1)
    said = capsys.readouterr().err
    for version in ("1.9.0", "0.1.0"):
        assert f"{version} is older than 1.10.0, and left out: name it to read it" in said
    (old,) = robot.episodes([tmp_path / "tiny" / "0.1.0"])
    np.testing.assert_allclose(old.actions, 0.2)


def test_instructions_that_are_no_utf_8_stay_apart(tmp_path):
    read = []
    for number, text in enumerate(("öffne", "äffne", "öffne")):
        folder = tmp_path / str(number)
        folder.mkdir()
        coded = text.encode("utf-8" if number == 2 else "latin-1")
        (one,) = open_rlds(dataset(folder, np.zeros((2, 2)), instruction=coded), MAPPING)
        read.append(one.instruction)
    assert len({tuple(words_of(text)) for text in read}) == 3 and read[2] == "öffne"
