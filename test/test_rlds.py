"""RLDS datasets: read as they were written, by whomever; every damage is one clear error."""

import json
import os
import pickle
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from episodes import assert_same, episode, reader

from vla_ros.training.data import bag_to_rlds
from vla_ros.training.data.bag_to_rlds import write_rlds
from vla_ros.training.data.rlds import RldsMapping, open_rlds
from vla_ros.training.data.tfrecord import (
    parse_example,
    read_records,
    serialize_example,
    write_record,
)

# What TensorFlow 2.21 writes for one Example: b = [b"ab", b""], e without values,
# f = [0.5, -2.0], i = [-1, 300].
_BY_TENSORFLOW = bytes.fromhex(
    "420000000000000079f36eaa0a400a0d0a016212080a060a0261620a000a050a016512000a110a0166120c120a0a08"
    "0000003f000000c00a150a016912101a0e0a0cffffffffffffffffff01ac02d31071ba"
)


def dataset(tmp_path, count=2, **options):
    return write_rlds(tmp_path, "toys", map(episode, range(count)), **options)


def data_file(folder):
    (path,) = folder.glob("*.tfrecord*")
    return path


# --- TFRecord -------------------------------------------------------------------------------------


def test_reads_and_writes_what_tensorflow_writes(tmp_path):
    path = tmp_path / "records"
    path.write_bytes(_BY_TENSORFLOW * 2)
    (first, data), (second, again) = read_records(path)
    assert (first, second) == (0, len(_BY_TENSORFLOW)) and data == again
    content = parse_example(data)
    assert list(content["b"]) == [b"ab", b""] and list(content["e"]) == []
    assert list(content["f"]) == [0.5, -2.0] and list(content["i"]) == [-1, 300]
    with open(path, "wb") as file:
        write_record(file, data)
    assert path.read_bytes() == _BY_TENSORFLOW
    del content["e"]
    made = {
        "i": np.array([[-1], [300]]),
        "f": np.array([0.5, -2.0], np.float64),
        "b": [b"ab", b""],
    }
    assert {k: list(v) for k, v in parse_example(serialize_example(made)).items()} == {
        k: list(v) for k, v in content.items()
    }


@pytest.mark.parametrize("kept", [5, 11, 40, len(_BY_TENSORFLOW) - 1])
def test_a_truncated_record_is_told(tmp_path, kept):
    path = tmp_path / "records"
    path.write_bytes(_BY_TENSORFLOW + _BY_TENSORFLOW[:kept])
    records = read_records(path)
    next(records)
    with pytest.raises(ValueError, match=f"records: truncated.*byte {len(_BY_TENSORFLOW)}"):
        next(records)


@pytest.mark.parametrize("place", range(0, len(_BY_TENSORFLOW), 5))
def test_a_flipped_bit_anywhere_is_told(tmp_path, place):
    damaged = bytearray(_BY_TENSORFLOW)
    damaged[place] ^= 0x10
    (tmp_path / "records").write_bytes(damaged)
    with pytest.raises(ValueError, match="byte 0 is corrupt"):
        list(read_records(tmp_path / "records"))


def test_what_is_no_example_is_told():
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
        parse_example(b"\x0a\xff\xff")


# --- a dataset of our own -------------------------------------------------------------------------


def test_episodes_come_back_as_they_were(tmp_path):
    folder = dataset(tmp_path, count=3)
    assert folder == tmp_path / "toys" / "1.0.0"
    read = list(open_rlds(folder))
    assert len(read) == 3
    for number, one in enumerate(read):
        assert_same(one, episode(number))
        assert one.name == f"{folder}:train[{number}]"
    np.testing.assert_array_equal([*read[1].frames("wrist", 1, 3)], [*read[1].frames("wrist")][1:3])


def test_what_an_episode_lacks_stays_away(tmp_path):
    bare = episode(
        0,
        proprioception_names=(),
        proprioception=np.empty((4, 0)),
        pictures={},
        depths={},
        instruction="",
    )
    (read,) = open_rlds(write_rlds(tmp_path, "bare", [bare]))
    assert_same(read, bare)


def test_jpeg_is_smaller_and_nearly_the_same(tmp_path):
    slope = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    pictures = np.stack([slope, slope + 30, 200 - slope], axis=-1)[None].repeat(2, 0)
    smooth = episode(0, 2, pictures={"front": reader(pictures)}, depths={})
    (read,) = open_rlds(write_rlds(tmp_path, "toys", [smooth], images="jpeg"))
    difference = np.array([*read.frames("front")]).astype(int) - pictures
    assert 0 < np.abs(difference).max() <= 6


def test_large_datasets_are_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(bag_to_rlds, "_SHARD", 5000)
    folder = dataset(tmp_path, count=5)
    files = sorted(path.name for path in folder.glob("*.tfrecord*"))
    assert len(files) > 2
    assert files[0] == f"toys-train.tfrecord-00000-of-{len(files):05d}"
    for number, one in enumerate(open_rlds(folder)):
        assert_same(one, episode(number))
    assert number == 4
    (folder / files[1]).unlink()
    with pytest.raises(ValueError, match=rf"{files[1]} is missing: .* {len(files)} files"):
        open_rlds(folder)


def test_readers_can_be_sent_to_other_processes(tmp_path):
    first = next(open_rlds(dataset(tmp_path)))
    sent = pickle.loads(pickle.dumps(first))
    assert_same(sent, first)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"action_names": ("x", "y", "z")},
            "made up 1: action_names .*'z'.* differs from the first",
        ),
        ({"robot": "other"}, "made up 1: robot other differs"),
        ({"depths": {}}, r"made up 1: depth cameras \(\) differs"),
        (
            {"depths": {"front": reader(np.ones((4, 3, 3), np.float32))}},
            r"made up 1: a picture of front_depth is \(3, 3\)",
        ),
    ],
)
def test_episodes_that_do_not_fit_together_are_told(tmp_path, changes, problem):
    with pytest.raises(ValueError, match=problem):
        write_rlds(tmp_path, "toys", [episode(0), episode(1, **changes)])
    assert not list((tmp_path / "toys").iterdir()), "half a dataset was left behind"


def test_a_dataset_is_neither_empty_nor_replaced(tmp_path):
    with pytest.raises(ValueError, match="no episodes"):
        write_rlds(tmp_path, "toys", [])
    with pytest.raises(ValueError, match="'My Toys': use lower case"):
        write_rlds(tmp_path, "My Toys", [episode()])
    dataset(tmp_path)
    with pytest.raises(ValueError, match=r"1\.0\.0 is there already"):
        dataset(tmp_path)


# --- datasets of others ---------------------------------------------------------------------------


def feature(kind, dtype="float32", dimensions=(), **content):
    shape = {"dimensions": [str(d) for d in dimensions]}
    return {"pythonClassName": "x", kind: {"shape": shape, "dtype": dtype, **content}}


def dictionary(**features):
    return {"pythonClassName": "x", "featuresDict": {"features": features}}


def foreign(tmp_path, content, split="train", **info):
    """A dataset as tensorflow-datasets writes it, with what `content` changes in its episode."""
    png = cv2.imencode(".png", np.full((3, 4, 3), (10, 20, 30), np.uint8))[1].tobytes()
    millimetres = np.array([[0, 1500], [700, 2]], np.uint16)
    observation = dictionary(
        cam=dictionary(rgb=feature("image", "uint8", (-1, -1, 3), encodingFormat="png")),
        side_depth=feature("image", "uint16", (2, 2, 1)),
        side=feature("image", "uint8", (3, 4, 3)),
        pose=feature("tensor", "float64", (2, 2), encoding="zlib"),
        closed=feature("tensor", "bool"),
        tokens={"pythonClassName": "y.Sequence", "sequence": {"feature": feature("tensor")}},
        natural_language_instruction={"pythonClassName": "x", "text": {}},
    )
    action = dictionary(
        xyz=feature("tensor", dimensions=(3,)), grip=feature("tensor", "int8", (1,))
    )
    steps = {"sequence": {"feature": dictionary(observation=observation, action=action)}}
    episode_of_two = {
        "steps/observation/cam/rgb": [png, png],
        "steps/observation/side": [png, png],
        "steps/observation/side_depth": [cv2.imencode(".png", millimetres)[1].tobytes()] * 2,
        "steps/observation/pose": [zlib.compress(np.arange(4.0).tobytes())] * 2,
        "steps/observation/closed": np.array([0, 1]),
        "steps/observation/natural_language_instruction": [b"open it"] * 2,
        "steps/action/xyz": np.arange(6.0),
        "steps/action/grip": np.array([-1, 1]),
    } | content
    (tmp_path / "features.json").write_text(json.dumps(dictionary(steps=steps)))
    lengths = [{"name": split, "shardLengths": ["1"]}]
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"name": "others", "splits": lengths, **info})
    )
    with open(tmp_path / f"others-{split}.tfrecord-00000-of-00001", "wb") as file:
        write_record(
            file, serialize_example({k: v for k, v in episode_of_two.items() if v is not None})
        )
    return tmp_path


_POSE = "steps/observation/pose"
_MAPPING = RldsMapping(
    dt=0.2,
    state=(_POSE, "steps/observation/closed"),
    action=("steps/action/xyz", "steps/action/grip"),
)


def test_a_foreign_layout_is_mapped(tmp_path):
    (one,) = open_rlds(foreign(tmp_path, {}), _MAPPING)
    assert one.cameras == ("cam/rgb", "side") and set(one.depths) == {"side"}
    assert one.instruction == "open it" and one.outcome is None and one.dt == 0.2
    np.testing.assert_array_equal(one.stamps, [0.0, 0.2])
    np.testing.assert_array_equal(one.actions, [[0, 1, 2, -1], [3, 4, 5, 1]])
    np.testing.assert_array_equal(one.proprioception, [[0, 1, 2, 3, 0], [0, 1, 2, 3, 1]])
    assert one.proprioception_names == tuple(f"state_{i}" for i in range(5))
    for camera in one.cameras:  # cv2 wrote blue, green, red
        np.testing.assert_array_equal(next(one.frames(camera)), np.full((3, 4, 3), (30, 20, 10)))
    depth = np.array([[np.nan, 1.5], [0.7, 0.002]], np.float32)
    np.testing.assert_allclose([*one.depth("side")], [depth, depth], rtol=1e-6)


def changed(**changes):
    return RldsMapping(**({name: getattr(_MAPPING, name) for name in vars(_MAPPING)} | changes))


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        (changed(dt=None), "does not say how fast it was recorded: give dt"),
        (
            changed(cameras=["steps/observation/front"]),
            "'steps/observation/front' does not exist, so it is not a camera; those are: "
            "steps/observation/cam/rgb, steps/observation/side$",
        ),
        (changed(state=None), "'steps/observation/state' does not exist, .*those are: .*pose"),
        (changed(state=["steps/observation/tokens"]), "tokens' is Sequence, so it is not numbers"),
        (changed(state=["steps/observation/side"]), "side' is image uint8 3x4x3, so it is not num"),
        (changed(instruction=_POSE), "pose' is tensor float64 2x2, so it is not a text; those are"),
        (changed(action=()), "at least one feature as the action"),
        (changed(action_names=["x", "y"]), r"2 action_names were given for the 4 numbers of steps"),
    ],
)
def test_a_wrong_mapping_is_told_at_once(tmp_path, mapping, problem):
    foreign(tmp_path, {})
    with pytest.raises(ValueError, match=problem):
        open_rlds(tmp_path, mapping)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({_POSE: None}, r"train\[0\] has no 'steps/observation/pose'"),
        ({_POSE: [b"no zlib"] * 2}, "pose' cannot be decoded"),
        ({_POSE: [zlib.compress(bytes(8))] * 2}, "pose' cannot be decoded"),
        ({_POSE: np.arange(8.0)}, "pose' is not stored as a tensor float64 2x2"),
        ({"steps/action/xyz": np.arange(5.0)}, "xyz' has 5 numbers, not T x 3"),
        ({"steps/action/grip": np.arange(3)}, "grip' has 3 steps, not 2"),
        ({"steps/action/xyz": np.full(6, np.nan)}, "actions hold NaN or infinity in frame 0"),
        (
            {"steps/observation/natural_language_instruction": [b"open it", b"close it"]},
            "changes within the episode: 'close it', 'open it'",
        ),
        ({"steps/observation/side": [b"no image"] * 2}, "side' of step 0 cannot be decoded"),
        ({"steps/observation/side_depth": [b""] * 2}, "side_depth' of step 0 has no bytes"),
    ],
)
def test_a_record_that_is_not_as_promised_is_told(tmp_path, content, problem):
    foreign(tmp_path, content)
    with pytest.raises(ValueError, match=problem):
        for one in open_rlds(tmp_path, _MAPPING):
            [*one.frames("cam/rgb"), *one.frames("side"), *one.depth("side")]


def test_an_episode_without_steps_is_an_empty_one(tmp_path):
    nothing = dict.fromkeys(("cam/rgb", "side", "side_depth", "pose"), [])
    nothing |= {"closed": np.empty(0, int), "natural_language_instruction": []}
    content = {f"steps/observation/{name}": value for name, value in nothing.items()}
    content |= {"steps/action/xyz": np.empty(0), "steps/action/grip": np.empty(0, int)}
    (one,) = open_rlds(foreign(tmp_path, content), _MAPPING)
    assert len(one) == 0 and one.actions.shape == (0, 4) and not [*one.frames("side")]
    with pytest.raises(ValueError, match="has no frames"):
        write_rlds(tmp_path, "toys", [episode(), episode(1, 0)])


@pytest.mark.parametrize(("channels", "kind"), [(1, ".png"), (1, ".jpg"), (3, ".jpg"), (4, ".png")])
def test_rgba_and_grey_are_read_as_rgb(tmp_path, channels, kind):
    stored = np.full((3, 4, channels), 90, np.uint8)
    if channels > 1:
        stored[..., :3] = (10, 20, 30)  # blue, green, red
    picture = cv2.imencode(kind, stored)[1].tobytes()
    folder = foreign(tmp_path, {"steps/observation/side": [picture] * 2})
    for declared in (channels, 3):  # some datasets declare three and store another number
        features = json.loads((folder / "features.json").read_text())
        steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]
        observation = steps["featuresDict"]["features"]["observation"]["featuresDict"]["features"]
        observation["side"] = feature("image", "uint8", (3, 4, declared))
        (folder / "features.json").write_text(json.dumps(features))
        for mapping in (_MAPPING, changed(cameras=["steps/observation/side"])):
            (one,) = open_rlds(folder, mapping)
            wanted = (90, 90, 90) if channels == 1 else (30, 20, 10)
            for frame in one.frames("side"):
                assert frame.dtype == np.uint8 and frame.shape == (3, 4, 3)
                assert np.abs(frame.astype(int) - wanted).max() <= (2 if kind == ".jpg" else 0)


def test_only_the_frames_asked_for_are_decoded(tmp_path):
    good = cv2.imencode(".png", np.zeros((3, 4, 3), np.uint8))[1].tobytes()
    small = cv2.imencode(".png", np.zeros((2, 4, 3), np.uint8))[1].tobytes()
    (one,) = open_rlds(foreign(tmp_path, {"steps/observation/side": [good, small]}), _MAPPING)
    assert len([*one.frames("side", 0, 1)]) == 1
    with pytest.raises(ValueError, match="side' of step 1 is uint8 2x4x3, but .* uint8 3x4x3"):
        [*one.frames("side", 1, 2)]


# --- folders --------------------------------------------------------------------------------------


def rewritten(folder, file, **changes):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))


def spoil(folder, how):
    if how == "counts":
        rewritten(folder, "dataset_info.json", splits=[{"name": "train", "shardLengths": ["3"]}])
    elif how == "empty":
        rewritten(folder, "dataset_info.json", splits=[{"name": "train"}, {"name": "val"}])
    elif how == "format":
        rewritten(folder, "dataset_info.json", fileFormat="array_record")
    elif how == "steps":
        (folder / "features.json").write_text(json.dumps(dictionary(image=feature("image"))))
    elif how == "json":
        (folder / "features.json").write_text("{")
    elif how == "features":
        (folder / "features.json").unlink()
    elif how == "cut":
        data_file(folder).write_bytes(data_file(folder).read_bytes()[:-100])
    elif how == "bit":
        data = bytearray(data_file(folder).read_bytes())
        data[len(data) // 2] ^= 1
        data_file(folder).write_bytes(data)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("counts", "holds 2 episodes, not the 3 that dataset_info.json counts"),
        ("empty", r"split 'train' is empty; splits and their episodes: train \(0\), val \(0\)"),
        ("format", "is stored as array_record: convert it to tfrecord"),
        ("steps", "has no steps: it is not an RLDS dataset"),
        ("json", "features.json is not JSON"),
        ("features", "has no features.json, so it is not an RLDS dataset"),
        ("cut", "truncated in the record at byte"),
        ("bit", r"record at byte \d+ is corrupt"),
    ],
)
def test_a_damaged_folder_is_told(tmp_path, how, problem):
    folder = dataset(tmp_path)
    spoil(folder, how)
    with pytest.raises(ValueError, match=problem) as error:
        list(open_rlds(folder))
    assert str(folder) in str(error.value)


def test_the_right_folder_and_split_are_named(tmp_path):
    folder = dataset(tmp_path)
    with pytest.raises(
        ValueError, match=f"toys has no dataset_info.json, .*: name one of {folder}"
    ):
        open_rlds(folder.parent)
    with pytest.raises(ValueError, match=r"split 'test' does not exist; .*: train \(2\)"):
        open_rlds(folder, split="test")


def test_a_file_that_shrinks_after_it_was_opened_is_told(tmp_path):
    folder = dataset(tmp_path)
    *_, last = open_rlds(folder)
    data_file(folder).write_bytes(b"")
    with pytest.raises(ValueError, match="no record at byte"):
        next(last.frames("front"))


# --- recordings of a real robot -------------------------------------------------------------------


@pytest.mark.skipif(
    "VLA_ROS_RECORDINGS" not in os.environ, reason="VLA_ROS_RECORDINGS names no folder"
)
def test_the_bridge_sample_reads():
    folder = Path(os.environ["VLA_ROS_RECORDINGS"], "octo_bridge_rlds", "bridge_dataset")
    content = {}
    for split in ("train", "val"):
        episodes = list(open_rlds(folder / "1.0.0", RldsMapping(dt=0.2), split))
        content[split] = {one.actions.tobytes() for one in episodes}
        assert len(episodes) == 25 and {len(one) for one in episodes} == {10}
        assert len({one.instruction for one in episodes}) == 4
    assert content["train"] == content["val"]  # in another order
    for one in episodes:
        assert set(one.cameras) == {f"image_{i}" for i in range(4)}
        for camera in one.cameras:
            pictures = np.array([*one.frames(camera)])
            assert pictures.shape == (10, 64, 64, 3)
            assert pictures.any() == (camera != "image_3")
