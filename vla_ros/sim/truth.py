"""What is true in the simulation, in the scene language: to train the narrator and to judge it."""

from __future__ import annotations

from vla_ros.scene_language.facts import Fact, Happened, Moving, true_of
from vla_ros.scene_language.scenes import BOWL, PAD, Name, Scene
from vla_ros.sim.arm import TICK, ArmWorld

AHEAD = 0.2  # s: a motion is told of a frame and of this much later
_PINCHING = 0.008  # m of finger opening; things are more than 3 cm wide


def scene_of(world: ArmWorld) -> Scene:
    """The scene as it is now, by physics.

    Raises:
        ValueError: something is outside the box that scenes describe; no task is laid out.
    """
    task = world.task
    if task is None:
        raise ValueError("the table is empty: reset the world to a task first")
    names = [(item.color, item.shape) for item in task.objects]
    centres = world.object_positions()[: len(names)]
    things = [(*name, centre) for name, centre in zip(names, centres, strict=True)]
    things += [(*PAD, (*task.pad, 0.0)), (*BOWL, (*task.bowl, 0.0))]
    opening = float(world.joint_positions()[-1])
    # Closed fingers that push a thing may both touch it too.
    held = [name for i, name in enumerate(names) if world.holding(i) and opening > _PINCHING]
    return Scene.of_metres(things, world.tool_position(), opening, held[0] if held else None)


def target_of(world: ArmWorld) -> Name:
    """What the gripper is after: the thing meant, or, once held, where it is to be put.

    A thing that is to be pushed or lifted stays the target.
    """
    task = world.task
    goal = task.goal
    destination = {"pad": PAD, "bowl": BOWL}.get(goal.family)
    if destination is not None and world.holding(0):
        return destination
    return Name(goal.color, goal.shape)


class Witness:
    """Sees what is true frame by frame, and judges what was said of it.

    One thread may look while others ask. All times are the world's, s.
    """

    def __init__(self) -> None:
        # By tick: when the episode began, and the scene if it can be told.
        self._seen: dict[int, tuple[float, Scene | None]] = {}

    def look(self, world: ArmWorld) -> None:
        """Keep what is true now. Raises ValueError: no task is laid out."""
        if world.judge is None:
            raise ValueError("the table is empty: reset the world to a task first")
        try:
            scene = scene_of(world)
        except ValueError:  # something is outside the box
            scene = None
        self._seen[round(world.time / TICK)] = world.judge.began, scene

    def episode(self, time: float) -> float | None:
        """When the episode of that frame began; None if the frame was not seen."""
        seen = self._seen.get(round(time / TICK))
        return None if seen is None else seen[0]

    def judge(self, fact: Fact, time: float) -> bool | None:
        """Whether a fact is true of the frame of `time`, a motion also of the one AHEAD of it.

        None if that is not known: a frame was not seen, is of the next episode, or something in it
        is outside the box that scenes describe.
        """
        tick = round(time / TICK)
        began, scene = self._seen.get(tick, (None, None))
        if scene is None:
            return None
        if not isinstance(fact, Moving | Happened):
            return true_of(fact, scene)
        then, after = self._seen.get(tick + round(AHEAD / TICK), (None, None))
        return None if after is None or then != began else true_of(fact, scene, after)
