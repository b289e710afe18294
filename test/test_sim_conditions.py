"""Conditions of evaluation and randomised training: each changes what it says, nothing else."""

import re
from dataclasses import replace

import numpy as np
import pytest

from vla_ros.scene_language.instructions import COLORS, FAMILIES
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.conditions import (
    _UNKNOWN_KINDS,
    _UNKNOWN_RGB,
    MAX_DISTRACTORS,
    Condition,
    evaluation_stage,
    training_stage,
)
from vla_ros.sim.experts import expert_chunk
from vla_ros.sim.table_model import DISTRACTORS
from vla_ros.sim.tasks import FIRST_TRAINING_SEED, HELD_OUT_PAIRS, Outcome, sample_task
from vla_ros.training.rollout import Rollout


@pytest.fixture(scope="module")
def world():
    world = ArmWorld((64, 64), distractors=MAX_DISTRACTORS)
    yield world
    world.close()


def training_stages(count=60, **options):
    rng = np.random.default_rng(0)
    return [
        training_stage(FAMILIES[i % len(FAMILIES)], FIRST_TRAINING_SEED + i, rng, **options)
        for i in range(count)
    ]


def pair(item):
    return item.color, item.shape


# --- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_without_conditions_it_is_the_usual_task(family):
    stage = evaluation_stage(family, 5, (), latency_ticks=2)
    assert stage.task == sample_task(family, 5)
    assert (stage.instruction, stage.visuals) == (stage.task.instruction, "hulls")
    assert stage.latency_ticks == 2


@pytest.mark.parametrize("condition", Condition)
def test_a_condition_changes_something_the_same_for_the_same_seed(condition):
    usual = evaluation_stage("push", 5, (), 2)
    stage = evaluation_stage("push", 5, (condition,), 2)
    assert stage != usual
    assert stage == evaluation_stage("push", 5, (condition,), 2)
    assert stage != evaluation_stage("push", 6, (condition,), 2)


def test_conditions_add_up_without_changing_each_other():
    both = evaluation_stage("pick", 5, (Condition.CAMERA, Condition.KNOCK), 2).task
    camera = evaluation_stage("pick", 5, (Condition.CAMERA,), 2).task
    knock = evaluation_stage("pick", 5, (Condition.KNOCK,), 2).task
    assert both == replace(camera, knock=knock.knock)


def test_the_camera_is_moved_by_3_cm_and_turned_by_3_degrees(world):
    def pose(task):
        world.reset(task)
        camera = world.data.camera("front")
        return camera.xpos.copy(), camera.xmat.reshape(3, 3).copy()

    for seed in range(5):
        place, axes = pose(sample_task("reach", seed))
        moved, turned = pose(evaluation_stage("reach", seed, (Condition.CAMERA,), 2).task)
        assert np.linalg.norm(moved - place) == pytest.approx(0.03, abs=1e-6)
        angle = np.degrees(np.arccos((np.trace(turned @ axes.T) - 1) / 2))
        assert angle == pytest.approx(3.0, abs=1e-3)


def test_lights_and_shadows_change_the_picture_and_nothing_physical(world):
    usual = sample_task("pick", 3)
    lit = evaluation_stage("pick", 3, (Condition.LIGHTS,), 2).task
    world.reset(usual)
    before, objects = world.render("camera").astype(float), world.object_positions()
    world.reset(replace(lit, appearance=replace(lit.appearance, shadows=False)))
    unshaded = world.render("camera").astype(float)
    world.reset(lit)
    shaded = world.render("camera").astype(float)
    assert np.abs(unshaded - before).mean() > 3.0
    darker = (unshaded - shaded).max(axis=-1) > 20
    assert 0.005 < darker.mean() < 0.9, "a shadow covers part of the picture"
    np.testing.assert_allclose(world.object_positions(), objects)
    world.reset(usual)
    np.testing.assert_array_equal(world.render("camera"), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_distractors_stand_apart_and_still(world, family):
    for seed in range(8):
        task = evaluation_stage(family, seed, (Condition.DISTRACTORS,), 2).task
        assert len({thing.kind for thing in task.distractors}) == 2
        assert len({thing.rgb for thing in task.distractors}) == 2
        things = [thing.position for thing in task.distractors]
        places = np.array([*(item.position for item in task.objects), task.pad, task.bowl, *things])
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(places))
        assert gaps.min() >= 0.085
        world.reset(task)
        start = world.object_positions()
        assert start.shape == (5, 3)
        for _ in range(50):
            world.tick()
        settled = world.object_positions()
        np.testing.assert_allclose(settled, start, atol=2e-3)
        assert (np.abs(settled[3:, 2]) < 3e-3).all(), "they stand on the table"
        assert world.outcome is Outcome.RUNNING


def test_every_kind_of_distractor_is_as_high_as_it_is_drawn(world):
    task = evaluation_stage("reach", 0, (Condition.DISTRACTORS,), 2).task
    for kind in DISTRACTORS:
        thing = replace(task.distractors[0], kind=kind)
        world.reset(replace(task, distractors=(thing,)))
        bottoms = [
            world.data.geom(f"distractor0_{j}").xpos[2] - height
            for j, (_, _, height) in enumerate(DISTRACTORS[kind])
        ]
        np.testing.assert_allclose(bottoms, 0.0, atol=4e-3)


def test_a_distractor_that_is_knocked_over_counts(world):
    world.reset(evaluation_stage("reach", 1, (Condition.DISTRACTORS,), 2).task)
    world.push_object(3, np.array([0.0, 1.6, 0.0]))
    while world.outcome is Outcome.RUNNING:
        world.tick()
    assert (world.outcome, "distractor" in world.judge.reason) == (Outcome.FAILED, True)


def test_a_world_without_room_for_distractors_says_so():
    task = evaluation_stage("reach", 1, (Condition.DISTRACTORS,), 2).task
    with pytest.raises(ValueError, match="distractors=2"):
        ArmWorld((64, 64)).reset(task)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_knock_moves_the_object_by_what_it_says(world, family):
    for seed in range(4):
        task = evaluation_stage(family, seed, (Condition.KNOCK,), 2).task
        world.reset(task)
        start = world.object_positions()
        while world.time - world.judge.began < 1.5:
            world.tick()
        moved = (world.object_positions() - start)[:, :2]
        np.testing.assert_allclose(moved[0], task.knock.shift, atol=6e-3)
        np.testing.assert_allclose(moved[1:], 0.0, atol=1e-3)
        assert 0.02 <= np.linalg.norm(task.knock.shift) <= 0.035


def test_an_object_in_the_hand_is_not_knocked(world):
    task = evaluation_stage("bowl", 2, (Condition.KNOCK,), 2).task
    task = replace(task, knock=replace(task.knock, time=1.8, shift=(0.3, 0.0)))
    rollout = Rollout(world, image_size=64)
    outcome = rollout.run(task, lambda _: expert_chunk(world, 8, 0.05), max_seconds=1.75)
    assert world.holding() and outcome is Outcome.RUNNING
    for _ in range(20):
        world.tick()
    assert world.holding()


def test_held_out_pairs_are_asked_for():
    for seed in range(20):
        stage = evaluation_stage("bowl", seed, (Condition.HELD_OUT_PAIRS,), 2)
        assert pair(stage.task.objects[0]) in HELD_OUT_PAIRS
        assert stage.task.objects[0].color in stage.instruction


def test_a_swapped_instruction_names_another_object_of_the_scene():
    for seed in range(20):
        stage = evaluation_stage("push", seed, (Condition.SWAPPED_INSTRUCTION,), 2)
        assert stage.task == sample_task("push", seed), "the judge knows nothing of it"
        (named,) = set(re.findall(r"\w+", stage.instruction)) & set(COLORS)
        assert named in [item.color for item in stage.task.objects[1:]]
    assert evaluation_stage("push", 1, (Condition.NO_INSTRUCTION,), 2).instruction is None


# --- training -------------------------------------------------------------------------------------


def test_training_never_shows_what_evaluation_keeps_back():
    for stage in training_stages(120):
        for thing in stage.task.distractors:
            assert thing.kind not in _UNKNOWN_KINDS
            away = np.linalg.norm(np.array(_UNKNOWN_RGB) - thing.rgb, axis=1)
            assert away.min() > 0.2


def test_pairs_are_held_out_where_asked():
    def pairs(stages):
        return {pair(item) for stage in stages for item in stage.task.objects}

    assert not pairs(training_stages(120, hold_out_pairs=True)) & set(HELD_OUT_PAIRS)
    assert set(HELD_OUT_PAIRS) < pairs(training_stages(120))


def test_training_varies_all_that_evaluation_varies():
    stages = training_stages(120)
    tasks = [stage.task for stage in stages]
    assert {stage.visuals for stage in stages} == {"hulls", "meshes"}
    assert {stage.latency_ticks for stage in stages} >= set(range(5)) | {12}
    assert {task.appearance.shadows for task in tasks} == {False, True}
    assert {len(task.distractors) for task in tasks} == {0, 1, 2}
    assert 10 < sum(task.knock is not None for task in tasks) < 60
    turned = [np.degrees(np.linalg.norm(task.appearance.camera_turned)) for task in tasks]
    moved = [np.linalg.norm(task.appearance.camera_moved) for task in tasks]
    assert min(turned) == 0.0 and 3.0 < max(turned) <= 4.0
    assert min(moved) == 0.0 and 0.03 < max(moved) <= 0.04


def test_the_expert_solves_what_it_is_to_teach(world):
    rollout = Rollout(world, image_size=64)
    rollout.observe = lambda: _Unseen(world)
    for stage in training_stages(15):
        rollout.latency_ticks = stage.latency_ticks
        outcome = rollout.run(stage.task, lambda _: expert_chunk(world, 8, 0.05))
        assert outcome is Outcome.SUCCEEDED, f"{stage.task}: {world.judge.reason}"


class _Unseen:
    """An observation without images: the expert does not look."""

    def __init__(self, world):
        self.joints = world.joint_positions()
