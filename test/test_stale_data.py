"""Shards are of the recordings as they are now, or the run says what it has in their place."""

import json
import os
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from recordings import robot as recorded
from recordings import write_bag

from vla_ros.robots.action_config import ActionConfig
from vla_ros.training import recorded_data, run_folder
from vla_ros.training.data.alignment import Stream
from vla_ros.training.data.provenance import FILE, Provenance, _with_imports, code
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.shards import EpisodeShard, shard_folders, write_shards

SIZE = 8
ROBOT = Robot(
    ActionConfig(
        robot_type="arm",
        action_dim=2,
        action_bounds=(-50.0, 50.0),
        joint_names=("a", "b"),
        proprioception_names=("a", "b"),
        horizon=2,
        dt=0.1,
    ),
    bag={
        "cameras": {"front": Stream("/camera")},
        "state": Stream("/joint_states"),
        "command": Stream("/command"),
    },
)


@pytest.fixture
def place(tmp_path):
    """Two recordings of which the shards of a run were made."""
    for name, first in (("one", 0), ("two", 20)):
        write_bag(tmp_path / "bags" / name, recorded(first=first))
    shards(tmp_path)
    return tmp_path


def shards(place, robot=ROBOT, size=SIZE):
    """First positions of the joint a in the shards of a run in place/run."""
    folder = recorded_data.shards(robot, [place / "bags"], place / "run", size)
    loaded = [EpisodeShard.load(part) for part in shard_folders(folder)]
    return [float(e.proprioception[0, 0]) for shard in loaded for e in shard.episodes()]


def begin(place):
    """As if training had begun."""
    (place / "run" / "resume" / "step-00000002").mkdir(parents=True)


def made(place):
    return (place / "run" / "data" / FILE).stat().st_ino


def add(place):
    write_bag(place / "bags" / "three", recorded(first=40))


def remove(place):
    shutil.rmtree(place / "bags" / "one")


def exchange(place):
    """Another recording of the same name and size, with the same times as far as a user can set."""
    old = place / "bags" / "one"
    times = {file.name: file.stat() for file in old.iterdir()}
    shutil.rmtree(old)
    write_bag(old, recorded(first=3))
    for name, status in times.items():
        os.utime(old / name, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "first", "said"),
    [
        (add, [0, 40, 20], r"2 files are new \(bags/three/.*\)"),
        (remove, [20], r"2 files are gone \(bags/one/"),
        (exchange, [3, 20], r"(1 file is|2 files are) changed \(bags/one/"),
    ],
)
def test_changed_recordings_make_other_shards_before_training_begins(
    place, capsys, change, first, said
):
    assert shards(place) == [0, 20]
    change(place)
    assert shards(place) == first
    assert re.search(f"is made anew: {said}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add, r"2 files are new \(bags/three/.*\)"),
        (remove, r"2 files are gone \(bags/one/"),
        (exchange, r"(1 file is|2 files are) changed \(bags/one/"),
    ],
)
def test_a_run_that_has_begun_says_what_changed_and_what_to_do(place, change, said):
    begin(place)
    before = made(place)
    change(place)
    with pytest.raises(ValueError, match=f"other data: {said}.*name another folder by --out, or"):
        shards(place)
    assert made(place) == before, "nothing is removed"


def test_what_did_not_change_is_read_once(place):
    before = made(place)
    begin(place)
    assert shards(place) == [0, 20] and made(place) == before
    for file in (place / "bags").rglob("*.*"):
        os.utime(file)
    assert shards(place) == [0, 20], "only touched"
    shutil.copytree(place / "bags", place / "copy")
    shutil.rmtree(place / "bags")
    (place / "copy").rename(place / "bags")
    assert shards(place) == [0, 20], "a copy of the same"
    assert made(place) == before


def test_another_contract_size_or_version_makes_other_shards(place, capsys, monkeypatch):
    other = replace(ROBOT, bag=ROBOT.bag | {"state": Stream("/command")})
    assert shards(place, other) == [1, 21]
    assert "robot.bag.state.topic is /command, not /joint_states" in capsys.readouterr().err
    shards(place, size=6)
    (part,) = shard_folders(place / "run" / "data")
    assert np.load(part / "images.npy", mmap_mode="r").shape[2] == 6
    assert "image size is 6, not 8" in capsys.readouterr().err
    monkeypatch.setattr("vla_ros.training.data.provenance.code", lambda: "another")
    shards(place, size=6)
    assert "makes data in another way" in capsys.readouterr().err


def test_only_code_that_has_a_part_in_data_makes_them_other_data():
    def parts(*modules):
        names = _with_imports(f"vla_ros.training.{module}" for module in modules)
        return {name.removeprefix("vla_ros.") for name in names}

    reading = parts("data.recordings", "data.shards")
    # rlds is imported within a function, when it is needed.
    assert {"images", "robots.panda", "training.data.bag", "training.data.rlds"} < reading
    assert not {"training.data.bag_report", "training.trainer", "sim.arm"} & reading
    acting = parts("data.simulation", "rollout")
    assert {"sim.experts", "safety.gate", "scene_language.instruction_verbs"} < acting
    assert not {"scene_language.questions", "training.data.bag", "models.vlam"} & acting
    assert code("vla_ros.images") == code("vla_ros.images") != code("vla_ros.cameras")
    with pytest.raises(ValueError, match="no module vla_ros.training.none"):
        code("vla_ros.training.none")


def test_shards_that_do_not_tell_what_they_are_of_are_made_anew(place, capsys):
    (place / "run" / "data" / FILE).unlink()
    assert shards(place) == [0, 20]
    assert "do not tell what they were made from" in capsys.readouterr().err


def test_a_folder_of_other_things_is_never_removed(place):
    add(place)
    (place / "run" / "data" / "mine.txt").touch()
    with pytest.raises(ValueError, match="holds other things than shards: name another folder"):
        shards(place)
    assert (place / "run" / "data" / "mine.txt").exists()
    robot, data = ROBOT, place / "x" / "data"
    shutil.copytree(place / "bags", data)
    with pytest.raises(ValueError, match="holds other things than shards"):
        recorded_data.shards(robot, [data], place / "x", SIZE)
    assert (data / "one").is_dir()


def test_shards_that_are_used_where_they_are_must_stay_the_same(place):
    episodes = list(ROBOT.episodes([place / "bags"]))
    own = place / "own"
    write_shards(own, episodes, ["front"], SIZE)
    assert recorded_data.shards(ROBOT, [own], place / "other", SIZE) == own
    begin_there = place / "other" / "resume" / "step-00000002"
    begin_there.mkdir(parents=True)
    assert recorded_data.shards(ROBOT, [own], place / "other", SIZE) == own
    shutil.rmtree(own)
    write_shards(own, episodes[:1], ["front"], SIZE)
    with pytest.raises(ValueError, match="other data: .* changed"):
        recorded_data.shards(ROBOT, [own], place / "other", SIZE)


def test_an_error_leaves_no_half_made_data(tmp_path):
    write_bag(tmp_path / "bags" / "one", recorded())
    with pytest.raises(ValueError, match="smaller than the model's"):
        shards(tmp_path, size=64)
    assert not (tmp_path / "run" / "data").exists()
    assert shards(tmp_path) == [0]


def test_a_run_folder_tells_nothing_of_the_machine_and_goes_on_where_it_and_its_data_move(tmp_path):
    settings = SimpleNamespace(seed=0, total=4, save_every=2, precision="fp32", threads=1)

    def go_on(place, **more):
        identity = {"data": [tmp_path / place / "bags"], "robot": "arm", "start": "runs/a", **more}
        run_folder.begin(settings, tmp_path / place / "run", identity)
        return (tmp_path / place / "run" / "run.json").read_text()

    told = go_on("here")
    begin(tmp_path / "here")
    assert json.loads(told) == {
        "data": ["bags"], "robot": "arm", "start": "runs/a", "deepspeed": None
    }  # fmt: skip
    (tmp_path / "here").rename(tmp_path / "there")
    assert go_on("there") == told
    with pytest.raises(ValueError, match=r"a run with data \['bags'\] not \['more'\]"):
        go_on("there", data=[tmp_path / "more"])
    # One that an earlier version began told where its data were.
    older = told.replace('"bags"', json.dumps(str(tmp_path / "here" / "bags")))
    (tmp_path / "there" / "run" / "run.json").write_text(older)
    assert go_on("there") == older


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        Provenance.of([tmp_path / "nowhere"], {})
