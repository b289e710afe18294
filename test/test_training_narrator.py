"""Training of the narrator: what it learns from is true, and runs can be resumed."""

import random
import subprocess
import sys
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from vla_ros.models.narrator import Narrator, NarratorConfig, plan_of, prefix_of
from vla_ros.models.vision import fingerprint
from vla_ros.scene_language import sentences
from vla_ros.scene_language.facts import Moving, holds
from vla_ros.scene_language.scenes import BINS, PAD, from_tokens
from vla_ros.scene_language.vocabulary import EOS, decode
from vla_ros.scene_language.vocabulary import PAD as NO_ID
from vla_ros.training.narrator import eye
from vla_ros.training.narrator import train as training
from vla_ros.training.narrator.eye import KINDS, Finder, FinderConfig
from vla_ros.training.narrator.rows import narration_row, pack, sight_row
from vla_ros.training.narrator.sightings import THINGS, Cameras, Sightings, collect
from vla_ros.training.narrator.train import Recipe, train

TINY = Recipe(
    steps=3, eye_steps=3, sight_steps=3, rows=2, frames=2, glances=2, episodes=1, save_every=2,
    loaders=0, channels=8,
)  # fmt: skip


CAMERAS = Cameras()
TINY_EYE = {"model_type": "small", "image_size": 32, "channels": 8}


@pytest.fixture(scope="module")
def sightings(tmp_path_factory):
    return collect(tmp_path_factory.mktemp("sightings"), CAMERAS, 6, 5, 3)


# -- sightings -------------------------------------------------------------------------------------


def test_sightings_are_glances_then_episodes(sightings):
    watched = list(sightings.watched)
    assert len(sightings) > 60 and watched == list(range(6, len(sightings)))
    glance, frame = sightings[0], sightings[20]
    assert glance.after is None and glance.target is None and not glance.instruction
    assert frame.after is not None and frame.instruction
    assert frame.images.shape == (1, 128, 128, 3) and frame.images.dtype == np.uint8


def test_things_are_where_the_pictures_show_them(sightings):
    """Near the centre of a movable thing its colour is the strongest, unless the arm hides it."""
    strongest = {"red": [0], "green": [1], "blue": [2], "purple": [0, 2]}
    right = []
    for i in range(len(sightings)):
        sight = sightings[i]
        for (color, shape), _ in sight.scene.things:
            place = sight.pixels[0, [t.name for t in sight.scene.things].index((color, shape))]
            if color not in strongest or np.isnan(place).any():
                continue
            row, column = ((place + 1) * 64).astype(int)
            pixel = sight.images[0, row, column].astype(int)
            others = [k for k in range(3) if k not in strongest[color]]
            right.append(pixel[strongest[color]].min() > pixel[others].max() + 10)
        assert np.isfinite(sight.pixels[0, THINGS]).all() or sight.scene.gripper.z > 4
        assert np.isnan(sight.pixels[0, len(sight.scene.things) : THINGS]).all()
    assert np.mean(right) > 0.8


def test_what_is_felt_and_what_is_true_agree(sightings):
    for i in range(len(sightings)):
        sight = sightings[i]
        apart = np.abs(sight.scene.gripper.to_metres() - sight.proprioception[:3])
        assert (apart <= [0.006, 0.006, 0.011]).all()
        assert sight.scene.open == (sight.proprioception[3] >= 0.03) or sight.scene.holds


def test_glances_are_of_different_tables(sightings):
    scenes = {tuple(sightings[i].scene.things) for i in range(6)}
    assert len(scenes) == 6


def test_episodes_have_what_only_happens_there(sightings):
    told = [sightings[i] for i in sightings.watched]
    assert {sight.scene.holds for sight in told} > {None}
    assert any(sight.scene.things != sight.after.things for sight in told)


def test_the_same_seed_gives_the_same_sightings_and_parts_stay(tmp_path):
    first = collect(tmp_path / "a", CAMERAS, 3, 0, 1)
    again = collect(tmp_path / "b", CAMERAS, 3, 0, 1)
    other = collect(tmp_path / "c", CAMERAS, 3, 0, 2)
    assert [first[i].scene for i in range(3)] == [again[i].scene for i in range(3)]
    assert all(np.array_equal(first[i].images, again[i].images) for i in range(3))
    assert first[0].scene != other[0].scene
    part = tmp_path / "a" / "glances-000000"
    written = (part / "images.npy").stat().st_mtime_ns
    collect(tmp_path / "a", CAMERAS, 3, 0, 1)
    assert (part / "images.npy").stat().st_mtime_ns == written
    more = collect(tmp_path / "a", CAMERAS, 4, 0, 1)
    assert len(more) == 4 and more[2].scene == first[2].scene, "the last part was not full"
    anew = collect(tmp_path / "a", CAMERAS, 3, 0, 2)
    assert [anew[i].scene for i in range(3)] == [other[i].scene for i in range(3)]


def test_no_sightings_are_refused():
    with pytest.raises(ValueError, match="no sightings"):
        Sightings([])


# -- rows ------------------------------------------------------------------------------------------


def test_a_sight_is_a_scene_to_be_read(sightings):
    ids, asked = sight_row(sightings[7])
    answer = decode(np.array(ids)[asked])
    assert from_tokens(["<scene>", *answer[:-1]]) == sightings[7].scene and ids[-1] == EOS
    assert decode(ids)[: asked.index(True)][-1] == "<scene>"


def test_narrations_in_rows_are_true_by_physics(sightings):
    rng, facts = random.Random(0), []
    for i in sightings.watched:
        sight = sightings[int(i)]
        ids, asked = narration_row(sight, rng)
        tokens = decode(ids)
        assert tokens[asked.index(True) - 1] == "<rel>"
        said = tokens[tokens.index("<text>", tokens.index("<rel>")) + 1 : -1]
        fact = sentences.parse(said)
        assert holds(fact, sight.scene, sight.after)
        facts.append(fact)
    assert {fact.verb for fact in facts} >= {"move", "carry", "stay"}
    assert sum(isinstance(fact, Moving) and fact.target is not None for fact in facts) > 10


def test_plans_tell_where_the_arm_goes(sightings):
    """The arm follows what it was told, a little late."""
    ways = []
    for i in sightings.watched:
        sight = sightings[int(i)]
        plan = plan_of(sight.proprioception, sight.plan)
        went = np.subtract(sight.after.gripper, sight.scene.gripper)
        ways.append([*went, plan.dx, plan.dy, plan.dz])
    went, planned = np.split(np.array(ways, float), 2, axis=1)
    for axis in range(2):
        assert np.corrcoef(went[:, axis], planned[:, axis])[0, 1] > 0.7


def test_rows_are_packed_one_after_another():
    ids, asked = pack([[([1, 2], [False, True]), ([3], [True])], []], 5)
    assert ids.tolist() == [[1, 2, 3, NO_ID, NO_ID], [NO_ID] * 5]
    assert asked.tolist() == [[False, True, True, False, False], [False] * 5]


# -- the eye ---------------------------------------------------------------------------------------


def test_the_eye_is_asked_for_what_is_in_the_pictures(sightings):
    asked = eye.batch(sightings, (0,), 8)
    assert asked["images"].shape == (8, 3, 128, 128) and asked["images"].dtype == torch.uint8
    again = eye.batch(sightings, (0,), 8)
    assert torch.equal(asked["images"], again["images"])
    named = asked["places"].isfinite().all(-1)
    # Two fixtures, the gripper and the foot are in all scenes, and each centre is one of a thing.
    assert named[:, 8:].all() and (named[:, :8].sum(1) >= 1).all()
    assert (named | asked["centres"].isnan().any(-1)).all()


def test_mirrored_pictures_have_things_where_they_show_them(sightings):
    """Yellow is where the pad is, and left of the middle if left of the robot."""
    asked, pad = eye.batch(sightings, (1,), 60), KINDS.index(PAD)
    seen = asked["centres"][:, pad].isfinite().all(-1)
    row, column = ((asked["centres"][seen, pad] + 1) * 64).long().unbind(-1)
    pixels = asked["images"][seen][torch.arange(len(row)), :, row, column].int()
    assert (pixels[:, 1] > pixels[:, 2] + 10).float().mean() > 0.6  # things may hide it
    left = asked["places"][seen, pad, 1] > 31.5
    clear = (column - 64).abs() > 10
    assert ((column > 64) == left)[clear].float().mean() > 0.95
    assert 0.2 < left.float().mean() < 0.8


def test_what_is_asked_is_what_is_true():
    """A finder that answers with the centres themselves has nothing left to learn."""
    model, asked = Finder(FinderConfig(TINY_EYE, 16)), squares(4, 0)

    def told(images):
        logits = torch.full((4, 16, len(KINDS)), -20.0)
        offsets, places = torch.zeros(4, 16, len(KINDS), 2), torch.zeros(4, 16, len(KINDS), 3)
        at = (asked["centres"][:, :2] + 1) * 2
        for i in range(4):
            for k in range(2):
                row, column = at[i, k].long()
                logits[i, row * 4 + column, k] = 20.0
                offsets[i, row * 4 + column, k] = at[i, k] - at[i, k].long() - 0.5
                places[i, row * 4 + column, k] = asked["places"][i, k] / torch.tensor(BINS)
        return logits, offsets, places

    model.forward = told
    assert all(loss < 1e-5 for loss in eye.losses(model, asked).values())
    chances, centres, places = model.find(asked["images"])
    assert (chances[:, :2] > 0.99).all() and (chances[:, 2:] < 0.01).all()
    assert torch.allclose(centres[:, :2], asked["centres"][:, :2], atol=1e-5)
    assert torch.allclose(places[:, :2], asked["places"][:, :2], atol=1e-3)


def test_a_finder_learns_where_things_are():
    torch.manual_seed(0)
    model = Finder(FinderConfig(TINY_EYE, 16))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(150):
        loss = sum(eye.losses(model, squares(16, step)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    asked = squares(64, 1000)
    with torch.no_grad():
        chances, centres, _ = model.eval().find(asked["images"])
    apart = (centres - asked["centres"])[:, :2].abs().mean()
    assert chances[:, :2].median() > 0.5 and chances[:, 2:].max() < 0.2
    assert apart < 0.1  # of a picture that goes from -1 to 1


def squares(count, seed):
    """Pictures of 32 x 32 with a red and a green square: kinds 0 and 1."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, 3, 32, 32), np.uint8)
    centres = np.full((count, len(KINDS), 2), np.nan, np.float32)
    places = np.full((count, len(KINDS), 3), np.nan, np.float32)
    for i in range(count):
        for k in range(2):
            row, column = rng.integers(3, 29, 2)
            images[i, :, row - 2 : row + 3, column - 2 : column + 3] = 0
            images[i, k, row - 2 : row + 3, column - 2 : column + 3] = 250
            centres[i, k] = (np.array([row, column]) + 0.5) / 16 - 1
            places[i, k] = 2 * row, 2 * column, 1
    parts = {"images": images, "centres": centres, "places": places}
    return {name: torch.from_numpy(values) for name, values in parts.items()}


def test_where_a_camera_looks_is_known_from_what_stands_there(sightings):
    places = eye.on_table(sightings, 16).reshape(16, 16, 2)
    assert (places >= 0).all() and (places <= 63).all()
    far = []
    for i in range(6):
        sight = sightings[i]
        for (_, place), pixel in zip(sight.scene.things, sight.pixels[0], strict=False):
            if place.z <= 1 and np.isfinite(pixel).all():
                row, column = ((pixel + 1) * 8).astype(int)
                far.append(np.abs(places[row, column] - place[:2]).max())
    assert np.median(far) < 4  # bins; a feature is as wide as four, and the camera is jolted


def test_what_the_eye_learned_is_what_the_narrator_sees_with(sightings, tmp_path):
    vision = {"model_type": "small", "image_size": 128, "channels": 4, "mixing": 2}
    tiny = {"width": 32, "heads": 2, "layers": 1}
    speaker = Narrator(NarratorConfig.of("nano", 0.2, vision, **tiny))
    finder = Finder(FinderConfig(vision, 32))
    speaker.save_pretrained(tmp_path / "language")
    finder.save_pretrained(tmp_path / "eye")
    model = training.begin_to_see(tmp_path / "language", tmp_path / "eye", sightings)
    assert model.encoder_id == fingerprint(finder.eye)
    assert torch.equal(model.language.embed.weight, speaker.language.embed.weight)
    assert not any(p.requires_grad for p in model.eye.parameters()) and model.training
    image = sightings[0].images[0]
    with torch.autocast("cpu", torch.bfloat16):
        tokens = training.seen_tokens(model, torch.from_numpy(image)[None, None])
    # To the last bit of half precision; bfloat16 has three bits fewer.
    assert np.allclose(tokens[0].numpy(), model.encode([image]), rtol=2e-3, atol=1e-4)
    features = model.language.prefix(prefix_of(tokens))
    assert 0.3 < features.std() < 3 and 0.3 < model.language.prefix_position.std() < 3


# -- runs ------------------------------------------------------------------------------------------


class Cut(Exception):
    pass


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole = train(TINY, tmp_path / "whole")
    steps, losses = count(), training.losses

    def cut(model, batch):
        if model.training and next(steps) == 5:  # the last step of the last stage
            raise Cut
        return losses(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training, "losses", cut)
        with pytest.raises(Cut):
            train(TINY, tmp_path / "cut")
    assert not (tmp_path / "cut" / "checkpoint").exists()
    again = train(TINY, tmp_path / "cut")
    one, other = (Narrator.from_pretrained(folder).state_dict() for folder in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (whole / "model.safetensors").stat().st_size < 15e6


def test_words_alone_are_trained_without_sight(tmp_path):
    recipe = replace(TINY, form="words", context=384, sight_steps=0)
    model = Narrator.from_pretrained(train(recipe, tmp_path))
    assert model.config.language.context == 384
    assert not (tmp_path / "sightings").exists()
    with pytest.raises(ValueError, match="name another folder"):
        train(replace(recipe, seed=5), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "verse"}, "form is 'verse': choose spatial, words, mixed"),
        ({"form": "words"}, "give --sight-steps 0"),
        ({"glances": 0, "episodes": 0}, "nothing to be seen"),
        ({"rows": 0}, "rows is 0: give 1 or more"),
        ({"precision": "fp8"}, "choose bf16 or fp32"),
    ],
)
def test_wrong_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_two_processes_train_all_stages(tmp_path):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in vars(TINY).items()]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, "-m", "vla_ros.cli", "train", "narrator", f"--out={tmp_path}", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    folders = [tmp_path / name for name in ("language/best", "sight/best", "checkpoint")]
    spoke, saw, last = (Narrator.from_pretrained(f).language.embed.weight for f in folders)
    assert torch.equal(saw, last) and not torch.equal(spoke, last)
