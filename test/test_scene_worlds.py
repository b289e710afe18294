"""Random scenes and plans: possible, various, and what their parts say they are."""

import random
from collections import Counter

import numpy as np
import pytest

from vla_ros.scene_language.actions import step
from vla_ros.scene_language.facts import holds, narration, related
from vla_ros.scene_language.instructions import phrase
from vla_ros.scene_language.scenes import BOWL, FIXTURES, PAD
from vla_ros.scene_language.words import words_of
from vla_ros.scene_language.worlds import apart, sample_moments, sample_scene


@pytest.mark.parametrize("most", [3, 6, 8])
def test_scenes_do_not_overlap_and_have_their_size(most):
    rng = random.Random(0)
    scenes = [sample_scene(rng, most) for _ in range(500)]
    assert all(apart(scene) for scene in scenes)
    assert {len(scene.things) for scene in scenes} == set(range(2, most + 1))


def test_scenes_are_various():
    rng, met = random.Random(1), Counter()
    for _ in range(1_500):
        scene = sample_scene(rng)
        names = [thing.name for thing in scene.things]
        met["held"] += scene.holds is not None
        met["open"] += scene.open
        for relation, landmark in (("inside", BOWL), ("on", PAD)):
            if landmark in names:
                others = [name for name in names if name != landmark]
                met[relation] += any(related(relation, n, (landmark,), scene) for n in others)
        met["stacked"] += any(thing.place.z == 3 for thing in scene.things)
        met.update(names)
    assert min(met.values()) > 30 and len(met) == 42 + 5


def test_simulated_scenes_have_what_the_simulator_has():
    rng = random.Random(2)
    for _ in range(300):
        names = [thing.name for thing in sample_scene(rng, simulated=True).things]
        movable = [name for name in names if name.shape not in FIXTURES]
        assert {name.shape for name in movable} <= {"cube", "cylinder"}
        assert len({name.color for name in movable}) == len(movable) <= 3
    assert len(names) == 5


def test_plans_follow_the_physics_and_end_before_things_overlap():
    rng, met = random.Random(3), Counter()
    for i in range(800):
        scene = sample_scene(rng, simulated=i % 2 == 0)
        moments = sample_moments(scene, rng)
        assert moments[0].before == scene
        for moment, after in zip(moments, [*moments[1:], None], strict=True):
            assert step(moment.before, moment.action) == moment.after
            assert after is None or after.before == moment.after
            assert moment.target is None or moment.target in scene
            told = narration(moment.before, moment.after, moment.target)
            assert holds(told, moment.before, moment.after)
            met[told.verb] += 1
            met["grasped"] += moment.before.holds is None and moment.after.holds is not None
            met["released"] += moment.before.holds is not None and moment.after.holds is None
            if moment.goal is not None:
                met[moment.goal.family] += 1
        assert all(apart(moment.after) for moment in moments if len(moments) > 1)
    kinds = {"move", "carry", "push", "stay", "grasped", "released", "pick", "pad", "bowl", "reach"}
    assert set(met) == kinds and min(met.values()) > 30


def test_goals_have_instructions():
    rng, said = random.Random(4), 0
    for _ in range(200):
        for moment in sample_moments(sample_scene(rng, simulated=True), rng):
            if moment.goal is not None:
                text = phrase(moment.goal, np.random.default_rng(said))
                assert moment.goal.color in words_of(text)
                said += 1
    assert said > 200
