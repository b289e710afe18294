"""Tasks: sampled from seeds, judged from physics; and the experts solve them."""

from itertools import pairwise

import numpy as np
import pytest

from vla_ros.scene_language.descriptions import Doing, describe
from vla_ros.scene_language.instructions import Goal
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.experts import expert_chunk, expert_description, expert_intent
from vla_ros.sim.judges import Judge
from vla_ros.sim.tasks import (
    DIRECTION_VECTORS,
    FAMILIES,
    FIRST_TRAINING_SEED,
    HOLD_TIME,
    TIME_LIMIT,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    Outcome,
    check_seeds,
    sample_task,
)
from vla_ros.training.rollout import Rollout

FAR = np.array([0.0, 0.0, 0.5])  # a tool that touches nothing


@pytest.fixture(scope="module")
def world():
    world = ArmWorld((64, 64))
    yield world
    world.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_task_is_its_family_and_seed(family):
    assert sample_task(family, 7) == sample_task(family, 7)
    tasks = [sample_task(family, seed) for seed in range(50)]
    assert len({task.objects for task in tasks}) == 50
    assert len({task.instruction for task in tasks}) > 20


@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_are_on_the_table_apart_and_named(family):
    for seed in range(100):
        task = sample_task(family, seed)
        places = np.array([*(item.position for item in task.objects), task.pad, task.bowl])
        assert (places >= WORKSPACE_LOW).all() and (places <= WORKSPACE_HIGH).all()
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(5)
        assert gaps.min() >= 0.085
        assert len({item.color for item in task.objects}) == 3
        assert task.objects[0].color in task.instruction
        assert (task.goal.direction != "") == (family == "push")


def test_an_unknown_family_is_refused_with_those_known():
    with pytest.raises(ValueError, match="'dance'.*reach, push, pick, pad, bowl"):
        sample_task("dance", 0)


def test_seeds_the_training_may_have_seen_are_refused():
    assert list(check_seeds(5, 3)) == [5, 6, 7]
    assert check_seeds(FIRST_TRAINING_SEED - 1, 1)
    for first, count in ((FIRST_TRAINING_SEED, 1), (FIRST_TRAINING_SEED - 1, 2), (-1, 1)):
        with pytest.raises(ValueError, match="those above are for training"):
            check_seeds(first, count)
    with pytest.raises(ValueError, match="1 or more"):
        check_seeds(0, 0)


# --- the judge ------------------------------------------------------------------------------------


def judge_of(family):
    task = sample_task(family, 3)
    objects = np.array([(*item.position, item.half_extents[1]) for item in task.objects])
    return Judge(task, objects, began=0.0), objects


def fulfilled_state(judge, objects):
    """Objects, tool and grip of a world in which the judge's task is fulfilled."""
    task, objects, tool, held = judge.task, objects.copy(), FAR, False
    if task.family == "reach":
        tool = objects[0] + (0.0, 0.0, 0.07)
    elif task.family == "push":
        objects[0, :2] += 0.07 * DIRECTION_VECTORS[task.goal.direction]
    elif task.family == "pick":
        objects[0, 2] += 0.08
        held = True
    else:
        objects[0, :2] = task.pad if task.family == "pad" else task.bowl
    return objects, tool, held


@pytest.mark.parametrize("family", FAMILIES)
def test_success_must_last(family):
    judge, start = judge_of(family)
    state = fulfilled_state(judge, start)
    assert judge.update(1.0, *state) is Outcome.RUNNING
    assert judge.update(1.1, start, FAR, False) is Outcome.RUNNING  # interrupted
    assert judge.update(1.15, *state) is Outcome.RUNNING
    assert judge.update(1.15 + HOLD_TIME, *state) is Outcome.SUCCEEDED
    assert judge.update(9.0, start, FAR, False) is Outcome.SUCCEEDED  # decided is decided


@pytest.mark.parametrize("family", FAMILIES)
def test_doing_nothing_fails_at_the_time_limit(family):
    judge, start = judge_of(family)
    limit = TIME_LIMIT[family]
    assert judge.update(limit - 0.01, start, FAR, False) is Outcome.RUNNING
    assert judge.update(limit, start, FAR, False) is Outcome.FAILED
    assert judge.reason == f"not fulfilled within {limit:g} s"


def test_moving_another_object_fails():
    judge, start = judge_of("reach")
    objects = start.copy()
    objects[2, 0] += 0.07
    assert judge.update(1.0, objects, FAR, False) is Outcome.FAILED
    assert judge.task.objects[2].color in judge.reason and "nobody asked" in judge.reason


def test_dropping_an_object_off_the_table_fails():
    judge, start = judge_of("push")
    objects = start.copy()
    objects[0, 2] = -0.3
    assert judge.update(1.0, objects, FAR, False) is Outcome.FAILED
    assert "fell off the table" in judge.reason


@pytest.mark.parametrize("family", ["pad", "bowl"])
def test_an_object_still_held_is_not_placed(family):
    judge, start = judge_of(family)
    objects, tool, _ = fulfilled_state(judge, start)
    judge.update(1.0, objects, tool, True)
    assert judge.update(2.0, objects, tool, True) is Outcome.RUNNING


def test_pushing_the_wrong_way_is_no_success():
    judge, start = judge_of("push")
    objects = start.copy()
    objects[0, :2] -= 0.07 * DIRECTION_VECTORS[judge.task.goal.direction]
    judge.update(1.0, objects, FAR, False)
    assert judge.update(2.0, objects, FAR, False) is Outcome.RUNNING


def test_an_object_in_the_air_without_a_grip_is_not_picked_up():
    judge, start = judge_of("pick")
    objects, tool, _ = fulfilled_state(judge, start)
    judge.update(1.0, objects, tool, False)
    assert judge.update(2.0, objects, tool, False) is Outcome.RUNNING


def test_a_knocked_object_is_seen_by_the_judge_through_the_physics(world):
    world.reset(sample_task("reach", 5))
    world.push_object(1, np.array([0.0, 1.5, 0.0]))
    while world.outcome is Outcome.RUNNING:
        world.tick()
    assert world.outcome is Outcome.FAILED
    assert world.task.objects[1].color in world.judge.reason


# --- the experts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_solves_its_task(world, family):
    # benchmarks/experts.py does this on 200 seeds a family.
    rollout = Rollout(world, image_size=64)
    rollout.observe = lambda: _Unseen(world)
    for seed in range(4):
        outcome = rollout.run(sample_task(family, seed), lambda _: expert_chunk(world, 8, 0.05))
        assert outcome is Outcome.SUCCEEDED, f"seed {seed}: {world.judge.reason}"


class _Unseen:
    """An observation without images: the expert does not look."""

    def __init__(self, world):
        self.joints = world.joint_positions()


TAKING = [Doing.MOVING, Doing.GRASPING, Doing.LIFTING]
PHASES = {
    "reach": [Doing.MOVING],
    "push": [Doing.GETTING_BEHIND, Doing.PUSHING],
    "pick": TAKING,
    "pad": [*TAKING, Doing.CARRYING, Doing.PLACING],
    "bowl": [*TAKING, Doing.CARRYING, Doing.PLACING],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_says_what_it_does_phase_by_phase(world, family):
    rollout = Rollout(world, image_size=64)
    rollout.observe = lambda: _Unseen(world)
    task, said = sample_task(family, 5), []

    def act(_):
        said.append(expert_description(world))
        return expert_chunk(world, 8, 0.05)

    assert rollout.run(task, act, tail_seconds=0.5) is Outcome.SUCCEEDED
    phases = said[:1] + [text for before, text in pairwise(said) if text != before]
    assert phases == [describe(doing, task.goal) for doing in [*PHASES[family], Doing.FULFILLED]]


def test_the_judge_decides_in_words_too_but_on_its_own_task_only(world):
    task = sample_task("push", 3)
    world.reset(task)
    world.judge.outcome = Outcome.SUCCEEDED
    assert expert_description(world) == describe(Doing.FULFILLED, task.goal)
    assert expert_description(world, task.goal) == describe(Doing.FULFILLED, task.goal)
    other = Goal("pick", task.goal.color, task.goal.shape)
    assert expert_description(world, other) == describe(Doing.MOVING, other)


def test_the_expert_is_a_function_of_the_state(world):
    world.reset(sample_task("bowl", 1))
    first, again = expert_chunk(world, 8, 0.05), expert_chunk(world, 8, 0.05)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (8, 4) and (np.linalg.norm(first[0, :3]) <= 0.0301)


def test_an_expert_needs_a_task():
    with pytest.raises(ValueError, match="call reset"):
        expert_intent(ArmWorld((64, 64)))
