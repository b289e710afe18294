"""Tasks that need the scene: named by place, one after the other, or to be refused."""

from dataclasses import replace

import numpy as np
import pytest

from vla_ros.scene_language.plan import Plan
from vla_ros.scene_language.references import Unresolved
from vla_ros.scene_language.scenes import Name
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.experts import expert_chunk
from vla_ros.sim.judges import REST_TIME, SequenceJudge, StillJudge
from vla_ros.sim.scene_tasks import REFUSED, SCENE_FAMILIES, STEPS, scene_of, task_of
from vla_ros.sim.tasks import HOLD_TIME, STILL_TIME, Outcome, sample_task
from vla_ros.training.rollout import Rollout

FAR = np.array([0.0, 0.0, 0.5])  # a tool that touches nothing
HELD = {"two-step": 3, "three-step": 4}  # seeds that the experts are shown


def test_equal_seeds_give_equal_tasks_and_the_usual_families_are_there_too():
    for family in SCENE_FAMILIES:
        assert task_of(family, 3) == task_of(family, 3) != task_of(family, 4)
        assert (task_of(family, 3).family, task_of(family, 3).seed) == (family, 3)
    assert task_of("push", 3) == sample_task("push", 3)
    with pytest.raises(ValueError, match="'dance': use one of reach, .*, absent"):
        task_of("dance", 0)


@pytest.mark.parametrize("family", ["relation", *STEPS])
def test_the_instruction_means_the_goals_in_their_order(family):
    for seed in range(80):
        task = task_of(family, seed)
        plan, places = Plan(task.instruction), {}
        plan.check(scene_of(task))
        assert len(plan.subtasks) == len(task.steps) == STEPS.get(family, 1), task.instruction
        for goal in task.steps:
            name = Name(goal.color, goal.shape)
            words = plan.begin(scene_of(task, places))
            assert goal.color in words, "a policy is told the colour"
            if goal.family in ("pad", "bowl"):
                places[name] = np.array(task.pad if goal.family == "pad" else task.bowl)
            plan.end("fulfilled")


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_to_be_refused_is_for_that_reason(family):
    for seed in range(80):
        task = task_of(family, seed)
        assert task.refused
        with pytest.raises(Unresolved) as refused:
            Plan(task.instruction).begin(scene_of(task))
        assert refused.value.kind == family, task.instruction


@pytest.mark.parametrize("family", STEPS)
def test_an_expert_reaches_the_goals_one_after_the_other(family):
    world = ArmWorld((64, 64))
    rollout = Rollout(world, image_size=64)
    rollout.observe = lambda: type("Joints", (), {"joints": world.joint_positions()})
    task, seen = task_of(family, HELD[family]), []

    def act(_):
        if world.judge.goal not in seen[-1:]:
            seen.append(world.judge.goal)
        return expert_chunk(world, 8, 0.05, world.judge.goal)

    assert rollout.run(task, act) is Outcome.SUCCEEDED, world.judge.reason
    assert tuple(seen) == task.steps
    world.close()


def laid_out(task):
    return np.array([(*item.position, item.half_extents[1]) for item in task.objects])


def watch(judge, objects, seconds, began=0.0, tool=FAR, held=False):
    """Let a judge look at a world that does not change; returns when it looked last."""
    times = began + np.arange(0.0, seconds + 0.05, 0.05)
    for time in times:
        judge.update(time, objects, tool, held)
    return times[-1]


@pytest.fixture
def placing():
    """A task to put one thing on the pad and then another into the bowl."""
    task = next(
        task
        for task in (task_of("two-step", seed) for seed in range(200))
        if [goal.family for goal in task.steps] == ["pad", "bowl"]
    )
    return task, laid_out(task), [task.index_of(goal) for goal in task.steps]


def test_the_next_goal_counts_when_what_was_moved_is_left_alone(placing):
    task, objects, (first, second) = placing
    judge = SequenceJudge(task, objects, 0.0)
    objects = objects.copy()
    objects[first, :2] = task.pad
    now = watch(judge, objects, HOLD_TIME)
    assert judge.goal == task.steps[0], "it may still be moving"
    now = watch(judge, objects, 2 * REST_TIME, now, tool=objects[first])
    assert judge.goal == task.steps[0], "the arm has not left it"
    now = watch(judge, objects, REST_TIME, now)
    assert judge.goal == task.steps[1] and judge.outcome is Outcome.RUNNING
    objects[second, :2] = task.bowl
    watch(judge, objects, HOLD_TIME, now)
    assert judge.outcome is Outcome.SUCCEEDED and judge.reason == "fulfilled"


def test_goals_that_are_reached_in_another_order_or_undone_do_not_count(placing):
    task, start, (first, second) = placing
    judge, objects = SequenceJudge(task, start, 0.0), start.copy()
    objects[second, :2] = task.bowl
    watch(judge, objects, 0.1)
    assert judge.outcome is Outcome.FAILED and "step 1 of 2" in judge.reason

    judge, objects = SequenceJudge(task, start, 0.0), start.copy()
    objects[first, :2] = task.pad
    now = watch(judge, objects, HOLD_TIME + REST_TIME + 0.1)
    objects[first, :2] += 0.04  # off the pad again, but by less than counts as a disturbance
    objects[second, :2] = task.bowl
    watch(judge, objects, HOLD_TIME, now)
    assert judge.outcome is Outcome.FAILED and judge.reason == "step 1 of 2 was undone"


def test_each_goal_has_the_time_of_its_family(placing):
    task, objects, _ = placing
    assert task.time_limit == 28.0
    judge = SequenceJudge(task, objects, 0.0)
    watch(judge, objects, 14.0)
    assert judge.reason == "step 1 of 2: not fulfilled within 14 s"


def test_after_a_refusal_nothing_may_move():
    task = task_of("absent", 0)
    objects = laid_out(task)
    judge = StillJudge(task, objects, 0.0)
    watch(judge, objects, STILL_TIME - 0.2)
    assert judge.outcome is Outcome.RUNNING
    watch(judge, objects, 0.2, STILL_TIME)
    assert judge.outcome is Outcome.SUCCEEDED and task.time_limit == STILL_TIME

    judge = StillJudge(task, objects, 0.0)
    judge.update(0.0, objects, FAR, False)
    assert judge.update(0.1, objects, FAR + 0.02, False) is Outcome.FAILED
    judge = StillJudge(task, objects, 0.0)
    assert judge.update(0.1, objects + 0.02, FAR, False) is Outcome.FAILED


def test_a_thing_keeps_its_looks_when_it_comes_first():
    task = task_of("two-step", 0)
    shifts = np.reshape(task.appearance.color_shift, (-1, 3))
    assert len(set(map(tuple, shifts))) == len(shifts) == 5
    assert task.objects[0] == task.objects[task.index_of(task.goal)]
    assert replace(task, goals=()).steps == (task.goal,)
