"""Training of the narrator: what it learns from is true, and runs can be resumed."""

import random
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from vla_ros.checkpoints import resolve
from vla_ros.models.narrator import Narrator, plan_of
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.scene_language import sentences
from vla_ros.scene_language.facts import Moving, holds
from vla_ros.scene_language.scenes import from_tokens
from vla_ros.scene_language.vocabulary import EOS, PAD, decode
from vla_ros.training.narrator import train as training
from vla_ros.training.narrator.rows import narration_row, pack, sight_row
from vla_ros.training.narrator.sightings import Sightings, collect
from vla_ros.training.narrator.train import Recipe, train

TINY = Recipe(steps=3, sight_steps=3, rows=2, glances=2, episodes=1, save_every=2, loaders=0)


@pytest.fixture(scope="module")
def seeing():
    return VisionLanguageActionModel.from_pretrained(resolve("arm"))


@pytest.fixture(scope="module")
def sightings(seeing, tmp_path_factory):
    return collect(tmp_path_factory.mktemp("sightings"), seeing, 6, 5, 3)


# -- sightings -------------------------------------------------------------------------------------


def test_sightings_are_glances_then_episodes(sightings):
    watched = list(sightings.watched)
    assert len(sightings) > 60 and watched == list(range(6, len(sightings)))
    glance, frame = sightings[0], sightings[20]
    assert glance.after is None and glance.target is None and not glance.instruction
    assert frame.after is not None and frame.instruction
    assert frame.tokens.dtype == np.float16 and np.isfinite(frame.tokens).all()


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


def test_the_same_seed_gives_the_same_sightings_and_parts_stay(seeing, tmp_path):
    first = collect(tmp_path / "a", seeing, 3, 0, 1)
    again = collect(tmp_path / "b", seeing, 3, 0, 1)
    other = collect(tmp_path / "c", seeing, 3, 0, 2)
    assert [first[i].scene for i in range(3)] == [again[i].scene for i in range(3)]
    assert all(np.array_equal(first[i].tokens, again[i].tokens) for i in range(3))
    assert first[0].scene != other[0].scene
    part = tmp_path / "a" / "glances-000000"
    written = (part / "tokens.npy").stat().st_mtime_ns
    collect(tmp_path / "a", seeing, 3, 0, 1)
    assert (part / "tokens.npy").stat().st_mtime_ns == written


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
    assert ids.tolist() == [[1, 2, 3, PAD, PAD], [PAD] * 5]
    assert asked.tolist() == [[False, True, True, False, False], [False] * 5]


# -- runs ------------------------------------------------------------------------------------------


class Cut(Exception):
    pass


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole = train(TINY, tmp_path / "whole")
    steps, losses = count(), training.losses

    def cut(model, batch):
        if model.training and next(steps) == 5:  # the last step of the second stage
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
        ({"rows": 0}, "rows 1 or more"),
        ({"precision": "fp8"}, "choose bf16 or fp32"),
    ],
)
def test_wrong_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
