"""What is true in the simulation, and the witness that judges by it."""

import numpy as np
import pytest

from vla_ros.robots import panda
from vla_ros.scene_language.facts import (
    Fingers,
    Happened,
    Holding,
    Moving,
    Placed,
    Present,
    Related,
    holds,
)
from vla_ros.scene_language.scenes import BOWL, GRIPPER, PAD, Name
from vla_ros.sim.arm import TICK, ArmWorld
from vla_ros.sim.experts import expert_chunk
from vla_ros.sim.tasks import Outcome, sample_task
from vla_ros.sim.truth import AHEAD, Witness, scene_of, target_of
from vla_ros.training.rollout import FRAME_TICKS, Observation, Rollout

SEED = 4


@pytest.fixture(scope="module")
def world():
    world = ArmWorld((16, 16))
    yield world
    world.close()


class Blind(Rollout):
    """Without pictures: the expert needs none."""

    def observe(self):
        return Observation([], np.zeros(4), self.world.joint_positions())


def watch(world, family, seed=SEED, tail=0.4):
    """Time, scene, target and tool in an expert's episode, and who witnessed it."""
    witness, frames = Witness(), []

    def act(_):
        witness.look(world)
        frames.append((world.time, scene_of(world), target_of(world), world.tool_position()))
        return expert_chunk(world, 8, 0.05)

    task = sample_task(family, seed)
    outcome = Blind(world, image_size=16).run(task, act, tail_seconds=tail)
    assert outcome is Outcome.SUCCEEDED
    return task, frames, witness


@pytest.mark.parametrize("family", ["reach", "push", "pick", "pad", "bowl"])
def test_an_experts_episode_as_scenes(world, family):
    task, frames, _ = watch(world, family)
    meant = Name(task.goal.color, task.goal.shape)
    scenes = [scene for _, scene, *_ in frames]
    names = {Name(item.color, item.shape) for item in task.objects} | {PAD, BOWL}
    assert all({thing.name for thing in scene.things} == names for scene in scenes)
    first, last = scenes[0], scenes[-1]
    assert first.open and first.holds is None
    for name, centre in zip(
        [(item.color, item.shape) for item in task.objects],
        [(*item.position, item.half_extents[1]) for item in task.objects],
        strict=True,
    ):
        assert np.abs(first.to_metres()[Name(*name)] - centre).max() < 0.0101
    tool, told = frames[-1][3], last.to_metres()[GRIPPER]
    assert np.abs(told - tool).max() < 0.0101

    held = {scene.holds for scene in scenes}
    targets = [target for _, _, target, _ in frames]
    if family in ("reach", "push"):
        assert held == {None} and set(targets) == {meant}
    else:
        assert held == {None, meant}
        assert not any(scene.open for scene in scenes if scene.holds)
    moved = first.place_of(meant) != last.place_of(meant)
    assert moved == (family != "reach")
    if family == "pick":
        assert set(targets) == {meant} and last.holds == meant
        assert last.place_of(meant).z > first.place_of(meant).z + 2
    if family in ("pad", "bowl"):
        destination, relation = {"pad": (PAD, "on"), "bowl": (BOWL, "inside")}[family]
        for _, scene, target, _ in frames:
            assert target == (destination if scene.holds else meant)
        assert last.holds is None and last.open
        assert holds(Related(meant, relation, (destination,)), last)
        assert not holds(Related(meant, relation, (destination,)), first)


def test_closed_fingers_that_touch_a_thing_do_not_hold_it(world):
    task = sample_task("pick", SEED)
    item = task.objects[0]
    for opening, held in (
        (panda.GRIPPER_CLOSED, None),
        (item.half_extents[0], Name(item.color, item.shape)),
    ):
        world.reset(task)
        # Between the fingers, into which it sinks a little: both touch it.
        world._put_object(world._object_names()[0], world.tool_position(), 0.0)
        world.pose(np.append(world.joint_positions()[:-1], opening))
        assert world.holding(0) and scene_of(world).holds == held


def test_an_empty_table_has_no_scene():
    empty = ArmWorld((16, 16))
    for ask in (scene_of, Witness().look):
        with pytest.raises(ValueError, match="reset the world"):
            ask(empty)
    empty.close()


def test_what_lies_outside_the_box_is_an_error_and_no_ground_to_judge_on(world):
    world.reset(sample_task("reach", SEED))
    witness = Witness()
    world._put_object(world._object_names()[0], (0.95, 0.0, 0.02), 0.0)
    world.tick()
    with pytest.raises(ValueError, match="outside the box"):
        scene_of(world)
    witness.look(world)
    assert witness.episode(world.time) == world.judge.began
    assert witness.judge(Fingers(True), world.time) is None


def test_the_witness_judges_states_by_the_frame_and_motions_by_the_next(world):
    task, frames, witness = watch(world, "bowl")
    meant = Name(task.goal.color, task.goal.shape)
    later = round(AHEAD / TICK) // FRAME_TICKS
    assert later == 4
    carried = downs = 0
    for i, (time, scene, *_) in enumerate(frames):
        time += 3e-9  # as a stamp that was rounded
        assert witness.episode(time) == world.judge.began
        assert witness.judge(Placed(GRIPPER, scene.gripper), time) is True
        assert witness.judge(Fingers(not scene.open), time) is False
        assert witness.judge(Holding(scene.holds), time) is True
        assert witness.judge(Related(Name("gray", "ring"), "left", (BOWL,)), time) is False
        assert witness.judge(Present(Name("gray", "ring")), time) is False
        motion = Moving("carry", "down", meant)
        if i + later >= len(frames):
            assert witness.judge(motion, time) is None
            continue
        after = frames[i + later][1]
        way = np.subtract(after.gripper, scene.gripper) * (1, 1, 2)
        kept = scene.holds == after.holds == meant
        clearly = kept and -way[2] >= np.abs(way).max() > 0
        downs += clearly
        carried += kept
        if clearly:
            assert witness.judge(motion, time) is True
        if not kept or way[2] >= 0:
            assert witness.judge(motion, time) is False
        let_go = scene.holds == meant and after.holds != meant
        assert witness.judge(Happened("released", meant), time) is let_go
    assert carried > 10 and downs > 2
    assert witness.judge(Fingers(True), frames[0][0] - 0.05) is None
    assert witness.episode(frames[0][0] - 0.05) is None


def test_a_motion_does_not_reach_into_the_next_episode(world):
    world.reset(sample_task("reach", SEED))
    witness, stay = Witness(), Moving("stay")
    began = []
    for _ in range(2):
        for tick in range(40):
            if tick % FRAME_TICKS == 0:
                witness.look(world)
                began.append((world.time, world.judge.began))
            world.tick()
        # Ticks that only a reset does (the things settle) are made up for: frames stay on the grid.
        world.reset(sample_task("pick", SEED))
    first, second = began[:8], began[8:]
    assert first[0][1] != second[0][1]
    verdicts = [witness.judge(stay, time) for time, _ in began]
    assert verdicts == [True] * 4 + [None] * 4 + [True] * 4 + [None] * 4
    assert witness.judge(Fingers(True), first[-1][0]) is True
