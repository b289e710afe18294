"""What is true in the simulation, in the scene language: to train the narrator and to judge it."""

from __future__ import annotations

from vla_ros.scene_language.scenes import BOWL, PAD, Name, Scene
from vla_ros.sim.arm import ArmWorld

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
