"""The world model that ships, on episodes it never saw."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vla_ros.checkpoints import resolve
from vla_ros.models.genie.genie import WorldModel
from vla_ros.models.genie.quantizers import codebook_use
from vla_ros.training.data.clips import videos
from vla_ros.training.genie_rollouts import frame_psnr
from vla_ros.training.genie_videos import collect

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import world_model  # noqa: E402

SEED, EPISODES = 31, 10  # two of each family; neither training's nor the benchmark's
AHEAD = 4  # frames


@pytest.fixture(scope="module")
def world():
    return WorldModel.from_pretrained(resolve("world"))


@pytest.fixture(scope="module")
def clips(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    collect(folder, EPISODES, SEED, world.image_size)
    episodes = videos([folder], None, world.config.camera, world.image_size, folder)
    found = world_model.clips_of(world, episodes)
    world_model.imagine_all(world, found)
    return found


def gain(clips, name):
    """dB by which it beats copying the last frame, on what moved."""
    errors = {
        one: np.array([world_model.moving_error(clip, one, AHEAD) for clip in clips]).sum(0)
        for one in (name, "copied")
    }
    return 10 * np.log10(errors["copied"][0] / errors[name][0])


def test_it_is_small_and_has_its_card():
    folder = resolve("world")
    assert (folder / "model.safetensors").stat().st_size < 25e6
    assert "vla train dynamics" in (folder / "README.md").read_text()


def test_most_codes_are_alive(world, clips):
    tokens = torch.cat([clip.tokens.flatten() for clip in clips])
    assert codebook_use(tokens, world.config.tokenizer.vocabulary) >= 0.5
    latent = torch.cat([clip.actions for clip in clips])
    assert codebook_use(latent, world.codes) >= 0.5


@pytest.mark.parametrize("name", ["inferred", "robot"])
def test_what_it_imagines_is_nearer_than_what_was(clips, name):
    assert gain(clips, name) > 1.5


def test_actions_matter(clips):
    real = torch.stack([clip.frames[world_model.SEEN :] for clip in clips])
    shown = {
        name: frame_psnr(real, torch.stack([clip.imagined[name] for clip in clips]))
        for name in ("inferred", "random", "shuffled")
    }
    for other in ("random", "shuffled"):
        assert (shown["inferred"] - shown[other])[:, AHEAD - 1].mean() > 0.5
