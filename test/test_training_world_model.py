"""Training the world model: clips, tokens, what runs leave, and runs that are killed."""

import csv
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import yaml
from episodes import episode, reader
from recordings import picture, write_bag
from recordings import robot as recorded
from rounding import assert_same_codes, quantized_by
from safetensors.torch import load_file

from vla_ros import cli
from vla_ros.models.genie import sizes
from vla_ros.models.genie.genie import WorldModel
from vla_ros.models.genie.latent_actions import LatentActionConfig, LatentActionModel
from vla_ros.models.genie.tokenizer import TokenizerConfig, VideoTokenizer
from vla_ros.observations import preprocess_image
from vla_ros.training import (
    genie_dynamics,
    genie_latent_actions,
    genie_robot_actions,
    genie_tokenizer,
)
from vla_ros.training.data.bag_to_rlds import write_rlds
from vla_ros.training.data.clips import Clips, videos
from vla_ros.training.data.shards import write_shards
from vla_ros.training.data.tokens import TokenClips, blocks
from vla_ros.training.genie_robot_actions import plan, train_robot_actions
from vla_ros.training.genie_rollouts import moving_psnr
from vla_ros.training.genie_tokenizer import still_places
from vla_ros.training.world_model import Videos

TINY = {
    "tokenizer": {
        "image_size": 16, "patch": 4, "channels": (8,), "width": 16, "heads": 2,
        "decoder_width": 16, "decoder_heads": 2, "window": 3, "levels": (4, 3),
    },
    "latent_actions": {
        "image_size": 16, "patch": 4, "width": 16, "heads": 2, "decoder_layers": 1,
    },
    "dynamics": {"width": 16, "heads": 2, "layers": 1, "window": 3},
}  # fmt: skip
COMMON = {
    "size": "tiny", "camera": "front", "steps": 4, "frames": 12, "save_every": 2, "warmup": 1,
    "loaders": 0, "held_out": 0.25, "dt": 0.2, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(sizes.SIZES, "tiny", TINY)
    monkeypatch.setattr(genie_robot_actions, "_STEPS", 300)
    torch.manual_seed(0)


def driven(number: int, length: int = 30):
    """A square that goes where the action says; frames are 0.1 s apart."""
    rng = np.random.default_rng(number)
    ways = np.repeat(rng.integers(0, 2, length), 2)[:length] * 2 - 1
    place, pictures = 6, np.zeros((length, 16, 16, 3), np.uint8)
    for image, way in zip(pictures, ways, strict=True):
        image[4:8, place : place + 4] = 250
        place = int(np.clip(place + 2 * way, 0, 12))
    actions = np.zeros((length, 3), np.float32)
    actions[:, 0] = ways
    return episode(number, length, actions=actions, pictures={"front": reader(pictures)}, depths={})


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(folder, [driven(number) for number in range(8)], ("front",), 16)
    return folder


# -- data ------------------------------------------------------------------------------------------


def test_clips_are_of_the_world_models_period_and_of_every_phase():
    one, two = driven(0, 10), driven(1, 7)
    clips = Clips([one, two], "front", 0.2)
    lengths = [(number, len(index)) for number, index in clips.sequences()]
    assert lengths == [(0, 5), (0, 5), (1, 4), (1, 3)]
    batch = clips.batch(0, 3, 40, 4)["frames"]
    assert batch.shape == (40, 4, 16, 16, 3) and batch.dtype == torch.uint8
    whole = [np.stack([*e.frames("front")]) for e in (one, two)]
    wanted = {
        frames[first : first + 7 : 2].tobytes()
        for frames in whole
        for first in range(len(frames) - 6)
    }
    assert {clip.numpy().tobytes() for clip in batch} == wanted
    torch.testing.assert_close(clips.batch(0, 3, 40, 4)["frames"], batch)
    assert not torch.equal(clips.batch(0, 3, 40, 4, rank=1)["frames"], batch)
    with pytest.raises(ValueError, match="no episode has 6 frames"):
        clips.batch(0, 0, 1, 6)
    with pytest.raises(ValueError, match="every 0.1 s"):
        Clips([one], "front", 0.25)


def test_recordings_are_written_once_and_other_sizes_are_refused(shards, tmp_path):
    assert len(videos([shards], None, "front", 16, tmp_path)) == 8
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="pictures of 16 pixels, the model 64"):
        videos([shards], None, "front", 64, tmp_path)
    with pytest.raises(ValueError, match="no camera 'side'"):
        videos([shards], None, "side", 16, tmp_path)
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "one").symlink_to(shards)
    (parts / ".two").symlink_to(shards)  # being written
    assert len(videos([parts], None, "front", 16, tmp_path)) == 8
    (tmp_path / "bag").mkdir()
    with pytest.raises(ValueError, match="--robot"):
        videos([tmp_path / "bag"], None, "front", 16, tmp_path)


ROBOT = """
action:
  robot_type: arm
  action_names: [a, b]
  action_bounds: [[-100, 100], [-100, 100]]
  joint_names: [a, b]
  proprioception_names: [a]
  dt: 0.1
bag: {cameras: {front: camera}, state: joint_states, command: command}
"""


def test_bags_are_read_once_and_kept_as_shards(tmp_path):
    file = tmp_path / "robot.yaml"
    file.write_text(ROBOT)
    bags = [tmp_path / name / "bag" for name in ("one", "two")]
    for i, bag in enumerate(bags):
        write_bag(bag, recorded(count=6, first=10 * i))
    for _ in range(2):
        found = videos(bags, str(file), "front", 8, tmp_path / "data")
        assert [episode.actions[0, 0] for episode in found] == [1, 11]
        clips = Clips(found, "front", 0.2)
        wanted = preprocess_image(picture(14), 8)
        np.testing.assert_array_equal(clips.frames(1, np.array([2, 4]))[1], wanted)
    assert len(list((tmp_path / "data").iterdir())) == 2
    shutil.rmtree(bags[0])
    write_bag(bags[0], recorded(count=6, first=40))
    found = videos(bags, str(file), "front", 8, tmp_path / "data")
    assert [episode.actions[0, 0] for episode in found] == [41, 11], "one was replaced"
    assert len(list((tmp_path / "data").iterdir())) == 2
    file.write_text(ROBOT.replace("dt: 0.1", "dt: 0.1\n  horizon: 2"))
    videos(bags, str(file), "front", 8, tmp_path / "data")
    told = json.loads(next((tmp_path / "data").glob("*/provenance.json")).read_text())
    assert told["settings"]["robot"]["action"]["horizon"] == 2


def test_a_part_goes_on_with_the_videos_that_it_began_with(shards, tmp_path):
    settings = genie_tokenizer.Recipe(camera="front", held_out=0.25)
    Videos.load(settings, [shards], None, 16, tmp_path, "tokenizer")
    (tmp_path / "tokenizer" / "resume" / "step-00000002").mkdir(parents=True)
    Videos.load(settings, [shards], None, 16, tmp_path, "tokenizer")
    more = tmp_path / "more"
    write_shards(more, map(driven, range(3)), ["front"], 16)
    with pytest.raises(ValueError, match=r"tokenizer holds a run on other data: \d+ files are new"):
        Videos.load(settings, [more], None, 16, tmp_path, "tokenizer")


def test_rlds_videos_are_read_once_and_kept_as_shards(tmp_path):
    folder = write_rlds(tmp_path, "toys", map(driven, range(2)))
    told = yaml.safe_load(ROBOT)
    told["action"] |= {"action_names": ["x", "y", "grip"], "action_bounds": [[-9, 9]] * 3}
    told["action"] |= {"joint_names": ["x", "y", "grip"], "control_mode": driven(0).control_mode}
    told["action"]["proprioception_names"] = list(driven(0).proprioception_names)
    del told["bag"]
    file = tmp_path / "robot.yaml"
    file.write_text(yaml.safe_dump(told))
    for _ in range(2):
        found = videos([folder], str(file), "front", 16, tmp_path / "data")
    assert len(found) == 2 and len(list((tmp_path / "data").iterdir())) == 1
    for kept, real in zip(found, map(driven, range(2)), strict=True):
        np.testing.assert_array_equal(kept.actions, real.actions)
        for one, other in zip(kept.frames("front"), real.frames("front"), strict=True):
            np.testing.assert_array_equal(one, other)


def test_tokens_of_blocks_are_those_of_the_whole_sequence(tmp_path):
    torch.manual_seed(1)
    tokenizer = VideoTokenizer(TokenizerConfig(**TINY["tokenizer"])).eval()
    latent = LatentActionModel(LatentActionConfig(**TINY["latent_actions"])).train()
    for part in (tokenizer, latent):
        for parameter in part.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.4)
    clips = Clips([driven(0, 230), driven(1, 12)], "front", 0.2)
    latent.encoder(torch.rand(4, 3, 3, 16, 16))
    encoder = latent.encoder.eval()
    tokens = TokenClips.of(clips, tokenizer, encoder, tmp_path)
    assert len(tokens.tokens) == 242
    for number, index, *found in tokens.sequences():
        frames = torch.from_numpy(clips.frames(number, index)).permute(0, 3, 1, 2)[None] / 255
        with (
            torch.no_grad(),
            quantized_by(tokenizer.quantizer) as looks,
            quantized_by(encoder.quantizer) as changes,
        ):
            whole, (_, led, _) = tokenizer.encode(frames), encoder(frames)
        kept, kept_led = (torch.from_numpy(part.astype(np.int64)) for part in found)
        assert_same_codes(kept, whole[0], tokenizer.quantizer, looks[0][0])
        assert_same_codes(kept_led[1:], led[0], encoder.quantizer, changes[0][0])
    others = [driven(2, 230), driven(3, 12)]
    named = zip(others, clips.episodes, strict=True)
    others = [replace(other, name=one.name) for other, one in named]
    again = TokenClips.of(Clips(others, "front", 0.2), tokenizer, encoder, tmp_path / "x")
    TokenClips.of(clips, tokenizer, encoder, tmp_path / "x")
    assert len(list((tmp_path / "x").iterdir())) == 2, "by what is seen, not by names"
    assert not np.array_equal(again.tokens, tokens.tokens)
    shutil.rmtree(tmp_path / "x")
    batch = tokens.batch(0, 0, 5, 6)
    assert batch["tokens"].shape == (5, 6, 16) and batch["actions"].shape == (5, 5)
    before = list(tmp_path.iterdir())
    TokenClips.of(clips, tokenizer, encoder, tmp_path)
    assert list(tmp_path.iterdir()) == before  # read, not written again
    encoder.to_code.weight.data.add_(1.0)
    TokenClips.of(clips, tokenizer, encoder, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_blocks_cover_a_sequence_once():
    index = np.arange(3, 203, 2)
    parts = list(blocks(index, 4))
    assert np.array_equal(np.concatenate([part[begin:] for begin, part in parts]), index)
    assert [begin for begin, _ in parts] == [0, 4, 4]


def test_offsets_of_a_plan_are_told_from_where_the_tool_was():
    names = ("tool_x", "tool_y", "tool_z")
    one = episode(
        0, 6, control_mode="end_effector_offset", action_names=("x", "y", "z"),
        proprioception_names=names, proprioception=np.random.default_rng(0).normal(size=(6, 3)),
    )  # fmt: skip
    found = plan(one, 1, 3)
    np.testing.assert_allclose(found[0], one.actions[1])
    moved = one.proprioception[3] - one.proprioception[1]
    np.testing.assert_allclose(found[2], one.actions[3] + moved, rtol=1e-5)
    np.testing.assert_array_equal(plan(episode(0, 6), 1, 3), episode(0, 6).actions[1:4])


def test_still_places_are_those_where_nothing_changes_around():
    frames = torch.zeros(1, 2, 3, 16, 16)
    frames[0, 1, 0, 0, 0] = 1.0
    still = still_places(frames, 4)[0, 0].reshape(4, 4)
    assert still[:2, :2].sum() == 0 and still.sum() == 12


def test_moving_psnr_is_of_what_moved():
    last = torch.zeros(2, 1, 3, 4, 4)
    real = last.repeat(1, 2, 1, 1, 1)
    real[:, :, :, 0, 0] = 1.0
    told = real.clone()
    told[:, 1, :, 0, 0] = 0.9
    told[:, :, :, 3, 3] = 0.5  # it did not move
    found = moving_psnr(last, real, told)
    assert found[0] > 90 and abs(found[1] - 20) < 0.01


# -- runs ------------------------------------------------------------------------------------------


def train_all(shards, out, **changes):
    common = COMMON | changes
    genie_tokenizer.train(genie_tokenizer.Recipe(**common, length=3), [shards], None, out)
    genie_latent_actions.train(genie_latent_actions.Recipe(**common, length=3), [shards], None, out)
    return genie_dynamics.train(genie_dynamics.Recipe(**common, length=4), [shards], None, out)


def test_the_three_parts_come_to_a_world_model(shards, tmp_path, capsys):
    folder = train_all(shards, tmp_path)
    world = WorldModel.from_pretrained(folder)
    assert world.config.camera == "front" and world.config.dt == 0.2
    assert world.robot.config.action_names == ("x", "y", "grip")
    assert world.robot.config.points == 2
    assert "as inferred" in capsys.readouterr().out
    dream = world.start()
    for image in driven(9).frames("front", 0, 3):
        dream.observe(image)
    plan = np.zeros((4, 3))
    assert len(list(dream.imagine(actions=plan, proprioception=np.zeros(2)))) == 2
    for name, figures in (
        ("tokenizer", {"psnr", "foreground_psnr", "codebook_use"}),
        ("latent-actions", {"moving_psnr", "perplexity"}),
        ("dynamics", {"accuracy_of_changed", "delta_4_psnr", "psnr_4_imagined", "psnr_4_copied"}),
    ):
        rows = list(csv.DictReader((tmp_path / name / "figures.csv").open()))
        assert [row["step"] for row in rows] == ["2", "4"] and figures <= set(rows[0])
        pictures = sorted(p.name for p in (tmp_path / name / "pictures").iterdir())
        assert pictures == ["step-000002.png", "step-000004.png"]
        assert cv2.imread(str(tmp_path / name / "pictures/step-000004.png")).std() > 10
        assert (tmp_path / name / "losses.png").is_file()
    assert not list(tmp_path.rglob("*.pt")) + list(tmp_path.rglob("*.pkl"))


class Killed(Exception):
    """Instead of a signal."""


MODULES = {
    "tokenizer": genie_tokenizer, "latent-actions": genie_latent_actions,
    "dynamics": genie_dynamics,
}  # fmt: skip


@pytest.mark.parametrize("which", MODULES)
def test_a_run_that_was_killed_ends_as_if_it_was_not(shards, tmp_path, monkeypatch, which):
    module = MODULES[which]
    if which == "dynamics":
        for out in (tmp_path / "whole", tmp_path / "killed"):
            train_all(shards, out, steps=2)
            shutil.rmtree(out / "dynamics")
            shutil.rmtree(out / "checkpoint")
    recipe = module.Recipe(**COMMON | {"steps": 6}, length=3)
    whole = module.train(recipe, [shards], None, tmp_path / "whole")
    losses, count = module.losses, 0

    def dying(model, batch):
        nonlocal count
        count += model.training
        if count > 5:
            raise Killed
        return losses(model, batch)

    monkeypatch.setattr(module, "losses", dying)
    with pytest.raises(Killed):
        module.train(recipe, [shards], None, tmp_path / "killed")
    monkeypatch.setattr(module, "losses", losses)
    resumed = module.train(recipe, [shards], None, tmp_path / "killed")
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
    with pytest.raises(ValueError, match="name another folder"):
        module.train(replace(recipe, seed=1), [shards], None, tmp_path / "killed")


def test_robot_actions_find_the_latent_ones(tmp_path):
    """Latent actions that say which way the square went are found from the robot's actions."""
    clips = Clips([driven(number) for number in range(6)], "front", 0.2)
    count = int(clips.rows[:, 2].sum())
    actions = np.zeros(count, np.uint8)
    begin = 0
    for number, index in clips.sequences():
        ways = clips.episodes[number].actions[index[:-1], 0]
        actions[begin + 1 : begin + len(index)] = np.where(ways > 0, 5, 2)
        begin += len(index)
    tokens = TokenClips(clips, np.zeros((count, 16), np.uint16), actions)
    model = train_robot_actions(tokens, tokens, 8, 0.2, 0)
    chances = model.rollout(torch.tensor([[1.0, 0, 0], [1, 0, 0], [-1, 0, 0], [-1, 0, 0]]),
                            torch.zeros(2))  # fmt: skip
    assert chances.argmax(-1).tolist() == [5, 2]


def test_videos_without_actions_give_a_world_model_without_a_robot():
    silent = episode(0, 12, action_names=(), actions=np.zeros((12, 0)), dt=0.1)
    clips = Clips([silent], "front", 0.2)
    tokens = TokenClips(clips, np.zeros((12, 16), np.uint16), np.zeros(12, np.uint8))
    assert train_robot_actions(tokens, tokens, 8, 0.2, 0) is None


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer", "latent-actions", "dynamics"])
def test_help_names_the_options(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("--data", "--out", "--steps", "--size", "--dt"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokenizer", "--size", "huge"], "no size 'huge'"),
        (["tokenizer", "--quantizer", "none"], "choose fsq or vq"),
        (["tokenizer", "--length", "1"], "2 frames or more"),
        (["tokenizer", "--data", "nowhere"], "nowhere does not exist"),
        (["latent-actions", "--held-out", "1"], "share between 0 and 1"),
        (["dynamics"], "vla train tokenizer"),
    ],
)
def test_mistakes_are_told_in_one_line(words, said, capsys, tmp_path):
    assert cli.main(["train", *words, "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_the_settings_of_a_run_are_in_its_folder(shards, tmp_path):
    recipe = genie_tokenizer.Recipe(**COMMON, length=3)
    genie_tokenizer.train(recipe, [shards], None, tmp_path)
    told = json.loads((tmp_path / "tokenizer/run.json").read_text())
    assert told["quantizer"] == "fsq" and told["data"] == [shards.name]
