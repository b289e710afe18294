"""Depth and calibration in recordings: what training and evaluation get, and what is refused."""

import argparse
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from depth_recordings import (
    FRAMES,
    HEIGHT,
    ROBOT,
    WIDTH,
    K,
    camera_info,
    depth_image,
    fused,
    metres,
    pixels,
    rgbd,
)
from episodes import episode, reader
from recordings import write_bag

from vla_ros import cli
from vla_ros.camera_info import CameraCalibration
from vla_ros.models import language
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.observations import preprocess_depth, preprocess_image
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.descriptions import SENTENCES
from vla_ros.scene_language.instructions import COLORS
from vla_ros.sim.tasks import FIRST_TRAINING_SEED
from vla_ros.training import dagger, imitation
from vla_ros.training.commands import evaluate
from vla_ros.training.data.bag_to_rlds import write_rlds
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.rlds_to_bag import write_bags
from vla_ros.training.data.shards import EpisodeShard, write_shards
from vla_ros.training.data.simulation import Shard, collect, task_list
from vla_ros.training.data.windows import Windows
from vla_ros.training.recorded_evaluation import Recordings

SIZE, NEEDS = 64, ("depth", "intrinsics")
CAMERA = CameraCalibration(WIDTH, HEIGHT, np.reshape(K, (3, 3)))
SIM_ACTION = ActionConfig.get_arm_config()


@pytest.fixture
def robot(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(ROBOT)
    return str(path)


def only(robot, path):
    (one,) = Robot.load(robot).seeing(NEEDS).episodes([path])
    return one


def frames_of(one, needs=NEEDS):
    return [frame for (frame,) in one.camera_frames(["front"], SIZE, needs)]


def made_up(**changes):
    """An episode of one camera with depth."""
    given = {
        "pictures": {"front": reader(np.stack([pixels(i) for i in range(4)]))},
        "depths": {"front": reader(np.stack([metres(i) for i in range(4)]))},
        "calibrations": {"front": CAMERA},
    }
    return episode(1, **{**given, **changes})


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_a_bag_gives_depth_and_where_pixels_look(robot, tmp_path, encoding):
    frames = frames_of(only(robot, write_bag(tmp_path / "bag", rgbd(encoding))))
    assert len(frames) == FRAMES
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, preprocess_image(pixels(i), SIZE))
        np.testing.assert_allclose(frame.depth, preprocess_depth(metres(i), SIZE), atol=1e-6)
        np.testing.assert_array_equal(frame.rays, CAMERA.rays(SIZE))


def test_shards_give_what_the_recording_does_bit_for_bit(tmp_path):
    one = made_up()
    write_shards(tmp_path / "shards", [one], ["front"], SIZE, needs=NEEDS)
    (again,) = EpisodeShard.load(tmp_path / "shards" / "00000").episodes()
    for mine, its in zip(frames_of(again), frames_of(one), strict=True):
        for name in ("image", "depth", "rays"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(its, name))
    again.require(["front"], NEEDS)


def test_a_damaged_depth_is_named(tmp_path):
    write_shards(tmp_path / "shards", [made_up()], ["front"], SIZE, needs=NEEDS)
    path = tmp_path / "shards" / "00000" / "depth.npy"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    (one,) = EpisodeShard.load(path.parent).episodes()
    with pytest.raises(ValueError, match=r"depth\.npy"):
        list(one.depth("front"))


def test_calibrations_survive_conversion(tmp_path):
    one = made_up()
    write_bags(tmp_path / "bags", [one])
    folder = write_rlds(tmp_path, "toys", [one])
    toy = ActionConfig(
        robot_type="arm",
        action_dim=3,
        action_bounds=(-5.0, 5.0),
        joint_names=(),
        action_names=one.action_names,
        proprioception_names=one.proprioception_names,
        control_mode=one.control_mode,
        dt=one.dt,
    )
    for path in (tmp_path / "bags", folder):
        (again,) = Robot(toy).seeing(NEEDS).episodes([path])
        assert again.calibrations == one.calibrations
        for mine, its in zip(frames_of(again), frames_of(one), strict=True):
            np.testing.assert_array_equal(mine.depth, its.depth)


@pytest.mark.parametrize("form", ["in place", "of camera_calibration"])
def test_a_robot_file_may_tell_the_calibration(tmp_path, robot, form):
    values = f"{{width: {WIDTH}, height: {HEIGHT}, k: {list(K)}}}"
    if form == "of camera_calibration":
        (tmp_path / "front.yaml").write_text(
            f"image_width: {WIDTH}\nimage_height: {HEIGHT}\ncamera_name: front\n"
            f"camera_matrix: {{rows: 3, cols: 3, data: {list(K)}}}\n"
            "distortion_model: plumb_bob\n"
            "distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}\n"
        )
        values = "front.yaml"
    with open(robot, "a") as file:
        file.write(f"camera_info:\n  front: {values}\n")
    said = [one for one in rgbd() if "camera_info" not in one[0]]
    one = only(robot, write_bag(tmp_path / "bag", said))
    assert one.calibrations == {"front": CAMERA}


def test_windows_shift_points_with_their_pixels(tmp_path):
    folder = collect(
        tmp_path / "00_000",
        task_list(("reach",), 1, FIRST_TRAINING_SEED),
        0,
        SIM_ACTION,
        SIZE,
        depth=True,
    )
    batch = Windows([folder], depth=True).batch(0, 0, 64)
    plain = Windows([folder]).batch(0, 0, 64)
    assert torch.equal(batch["images"], plain["images"]), "the same batches with and without"
    shape = batch["images"].shape[:3]
    assert batch["depth"].shape == (*shape, SIZE, SIZE)
    assert batch["rays"].shape == (shape[0], 1, shape[2], SIZE, SIZE, 3)
    fused = VisionLanguageActionModel.from_size(
        "tiny",
        SIM_ACTION,
        cameras=("camera", "wrist_camera"),
        needed_words=COLORS,
        geometry="depth_camera",
    )
    texts = (language.encode(fused.tokenizer, text, fused.config.vocab_size) for text in SENTENCES)
    sum(dagger.losses(fused, batch, language.pad(texts)).values()).backward()
    assert all((fusion.gate.grad != 0).any() for fusion in fused.spatial.fusions)
    # A learner that needs depth gets it, whether or not it is recorded.
    fused.save_pretrained(tmp_path / "policy")
    tasks = task_list(("reach",), 1, FIRST_TRAINING_SEED)
    learnt = collect(tmp_path / "01_000", tasks, 0, SIM_ACTION, SIZE, tmp_path / "policy")
    assert Shard.load(learnt).depth is None
    # A ray tells which pixel it was: a window is shifted by whole pixels, edges repeated.
    shard = Shard.load(folder)
    steps = batch["rays"][0, 0, 0, :, SIZE // 2, 1].numpy()
    (row,) = np.flatnonzero(shard.rays[0, :, 0, 1] == steps[SIZE // 2])
    assert abs(row - SIZE // 2) <= 3
    moved = shard.depth[:, 0, row]
    columns = batch["rays"][0, 0, 0, SIZE // 2, :, 0].numpy()
    (column,) = np.flatnonzero(shard.rays[0, 0, :, 0] == columns[SIZE // 2])
    assert batch["depth"][0, 0, 0, SIZE // 2, SIZE // 2].item() in moved[:, column]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depths": {}}, r"has no depth of front, .* name it under depth of `bag`"),
        ({"calibrations": {}}, r"has no camera_info of front, .* name it under camera_info"),
        (
            {"calibrations": {"front": CameraCalibration(640, 480, np.reshape(K, (3, 3)))}},
            r"front: camera_info is of 640x480 pictures, but they have 96x72: name the camera_info",
        ),
        (
            {"depths": {"front": reader(np.full((4, HEIGHT, WIDTH), np.nan, np.float32))}},
            r"the depth of front was measured nowhere .* record it again with depth",
        ),
        (
            {"depths": {"front": reader(np.ones((4, 80, 80), np.float32))}},
            r"front: depth of 80x80 is not of the view of its 96x72 image: name a topic of depth",
        ),
    ],
)
def test_what_geometry_lacks_is_named(tmp_path, changes, words):
    one = made_up(**changes)
    with pytest.raises(ValueError, match=rf"made up 1.*{words}"):
        write_shards(tmp_path / "shards", [one], ["front"], SIZE, needs=NEEDS)
    assert not (tmp_path / "shards").exists()


def test_depth_of_another_resolution_but_the_same_view_is_taken():
    half = [metres(i).reshape(HEIGHT, WIDTH) for i in range(4)]
    doubled = [depth.repeat(2, axis=0).repeat(2, axis=1) for depth in half]
    frames = frames_of(made_up(depths={"front": reader(np.stack(doubled))}))
    assert np.isfinite(frames[0].depth).any()


@pytest.mark.parametrize(
    ("topic", "change", "words"),
    [
        (
            "/front/depth/image_raw",
            None,
            "has no topic front/depth/image_raw; it has: .*; name another under depth of `bag`",
        ),
        (
            "/front/camera_info",
            None,
            "has no topic front/camera_info; it has: .*; name another under camera_info of `bag`",
        ),
        (
            "/front/camera_info",
            lambda stamp: camera_info("/front/camera_info", stamp, (np.nan, *K[1:])),
            r"/front/camera_info, message 0 at 100.000 s: its K is no pinhole matrix: .*calibrate",
        ),
        (
            "/front/camera_info",
            lambda stamp: camera_info("/front/camera_info", stamp, (stamp, *K[1:])),
            r"/front/camera_info changes at 100.100 s: cut the recording there",
        ),
        (
            "/front/depth/image_raw",
            lambda stamp: depth_image("/front/depth/image_raw", stamp, metres(0), "8UC1"),
            r"/front/depth/image_raw, message 0 .*depth encoding '8UC1' is not supported: publish",
        ),
    ],
)
def test_a_bag_without_whole_depth_is_refused_in_one_line(robot, tmp_path, topic, change, words):
    said = [one for one in rgbd() if one[0] != topic]
    if change:
        said += [change(100.0 + 0.1 * i) for i in range(FRAMES)]
    path = write_bag(tmp_path / "bag", said)
    with pytest.raises(ValueError, match=words) as caught:
        frames_of(only(robot, path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nothing.yaml", "camera_info.front: there is no file"),
        ("3", "camera_info.front is no calibration"),
        ("{width: 8, height: 8}", "camera_info.front: k is missing"),
        ("{width: 8, height: 8, k: [1, 2]}", "camera_info.front: k must have 9 numbers"),
        ("{width: 8, height: 8, focal: 3}", "camera_info.front: focal is none of width"),
    ],
)
def test_a_calibration_that_is_none_is_named(robot, value, words):
    with open(robot, "a") as file:
        file.write(f"camera_info:\n  front: {value}\n")
    with pytest.raises(ValueError, match=words):
        Robot.load(robot)


# -- training and evaluation -----------------------------------------------------------------------


def test_a_policy_learns_with_depth_and_is_measured_on_it(robot, tmp_path):
    bags = tmp_path / "bags"
    bags.mkdir()
    for number in range(4):
        write_bag(bags / str(number), rgbd(start=100.0 + 50 * number))
    recipe = imitation.Recipe(
        steps=3, frames=64, warmup=1, save_every=3, loaders=0, geometry="depth_camera"
    )
    folder = imitation.train(recipe, [bags], robot, tmp_path / "run")
    model = VisionLanguageActionModel.from_pretrained(folder)
    assert model.geometry_description["model_type"] == "depth_camera"
    assert (model.spatial.fusions[0].gate != 0).any(), "the gate is trained"
    figures = Recordings(model, Robot.load(robot), "run").figures([bags], iter)
    assert sum(figures["episodes"].values()) == 4
    # Goes on from the policy, and from one without geometry, to which it is added.
    once = replace(recipe, steps=1, save_every=1, geometry="")
    imitation.train(replace(once, start=str(folder)), [bags], robot, tmp_path / "on")
    plain = imitation.train(once, [bags], robot, tmp_path / "plain")
    # A run of before there was such a setting goes on.
    told = tmp_path / "plain" / "run.json"
    settings = json.loads(told.read_text())
    assert settings.pop("geometry") == ""
    told.write_text(json.dumps(settings))
    assert imitation.train(once, [bags], robot, tmp_path / "plain") == plain
    added = imitation.train(
        replace(once, start=str(plain), geometry="depth_camera"), [bags], robot, tmp_path / "added"
    )
    assert VisionLanguageActionModel.from_pretrained(added).spatial is not None


def test_tokens_are_those_of_the_points_that_were_recorded(robot, tmp_path):
    path, model = write_bag(tmp_path / "bag", rgbd()), fused()
    seen = []
    encode = model.encode
    model.encode = lambda images, geometry: seen.append(encode(images, geometry)) or seen[-1]
    recordings = Recordings(model, Robot.load(robot), "it")
    (one,) = Robot.load(robot).seeing(NEEDS).episodes([path])
    recordings.follow(replace(one, instruction="push the red cube"))
    for i, tokens in enumerate(seen):
        small = preprocess_image(pixels(i), SIZE)
        points = model.points([small], [preprocess_depth(metres(i), SIZE)], [CAMERA.rays(SIZE)])
        np.testing.assert_allclose(tokens, encode([small], points), atol=2e-3)


def test_evaluation_without_depth_ends_in_one_line(robot, tmp_path):
    said = [one for one in rgbd() if "depth" not in one[0]]
    bag = write_bag(tmp_path / "bag", said)
    fused().save_pretrained(tmp_path / "policy")
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    words = ["--checkpoint", tmp_path / "policy", "--data", bag, "--robot", robot]
    with pytest.raises(ValueError, match="has no topic front/depth/image_raw; it has: .*front/i"):
        evaluate.main(parser.parse_args(list(map(str, words))))


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (
            "map_anything",
            "geometry 'map_anything' needs the package mapanything .* install it with",
        ),
        ("depth_camra", "no geometry depth_camra: take none, depth_camera, map_anything, "),
    ],
)
def test_what_geometry_needs_is_told_in_one_line_before_anything_is_read(
    robot, tmp_path, capsys, geometry, words
):
    bag = write_bag(tmp_path / "bag", rgbd())
    for more in (["--data", str(bag), "--robot", robot], []):
        out = tmp_path / f"run{len(more)}"
        command = ["train", "policy", "--geometry", geometry, "--out", str(out), *more]
        assert cli.main(command) == 1
        assert re.search(words, capsys.readouterr().err), more
        assert not (out / "data").exists()


def test_a_checkpoint_with_mapanything_is_not_evaluated_without_its_package(tmp_path, capsys):
    fused("none").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["geometry"] |= {"model_type": "map_anything"}
    path.write_text(json.dumps(values))
    assert cli.main(["eval", "--robot", "sim", "--checkpoint", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs the package mapanything" in line and "Traceback" not in line
