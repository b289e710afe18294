"""Scripted experts: what to do from any state of a task, whoever brought the robot there.

They are Markov in the physical state (no memory), so they label states a learner visits (DAgger,
Ross et al. 2011) as well as their own. Their decisions are wide, smooth funnels: a learner that is
a centimetre off gets nearly the same advice, which is what makes them learnable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.robots.panda import GRIPPER_CLOSED, GRIPPER_OPEN
from vla_ros.scene_language.descriptions import Doing, describe
from vla_ros.scene_language.instructions import Goal
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.tasks import (
    BOWL_RADIUS,
    DIRECTION_VECTORS,
    LIFT_HEIGHT,
    PAD_RADIUS,
    REACH_HEIGHT,
    Outcome,
    Task,
)

MAX_OFFSET = 0.03  # m, furthest target from the measured tool; sets the top speed
GAIN = 0.6  # share of the remaining way asked for
_SERVO_LAG = 0.07  # s, for foreseeing where the tool will be later in the chunk
_TRAVEL_HEIGHT = 0.13  # m, tool height that clears everything on the table
_PUSH_HEIGHT = 0.022  # m
_PUSH_FURTHER = 0.10  # m along the direction at which the expert stops pushing
_USUAL_TOP = 0.05  # m, what things on the table do not exceed
_STEEPER = 30.0  # slope for each m by which one of them does
_FINGER = 0.012  # m, half the closed fingers' extent


@dataclass(frozen=True)
class Intent:
    """Where the tool should go now (m, base frame), the finger opening (m) to have, and why."""

    goal: np.ndarray
    opening: float
    doing: Doing


def expert_chunk(world: ArmWorld, horizon: int, dt: float, goal: Goal | None = None) -> np.ndarray:
    """The expert's action chunk [horizon, 4] for the world's state now (see `expert_intent`).

    Row k is the offset from the measured tool to its target at (k + 1) dt, as the tool would then
    have followed the earlier rows, and the finger opening.
    """
    intent = expert_intent(world, goal)
    start = world.tool_position()
    tool, chunk = start.copy(), np.empty((horizon, 4))
    progress = 1.0 - np.exp(-dt / _SERVO_LAG)
    for k in range(horizon):
        step = GAIN * (intent.goal - tool)
        step *= min(1.0, MAX_OFFSET / max(float(np.linalg.norm(step)), 1e-9))
        chunk[k, :3] = tool + step - start
        tool = tool + progress * step
    chunk[:, 3] = intent.opening
    return chunk


def expert_intent(world: ArmWorld, goal: Goal | None = None) -> Intent:
    """What the expert wants now, for the world's task or for another goal in the same scene.

    Raises:
        ValueError: the world has no task, or the goal names an object that is not there.
    """
    task = world.task
    if task is None:
        raise ValueError("the world has no task: call reset first")
    goal = goal or task.goal
    index = task.index_of(goal)
    target, tool = world.object_positions()[index], world.tool_position()
    half = np.array(task.objects[index].half_extents)
    tall = _tall(task, index)
    held = world.holding(index) and world.joint_positions()[-1] < half[0] + 0.004
    if goal.family == "reach":
        return _reach(tool, target, half)
    if goal.family == "push":
        shift = target[:2] - world.judge.start[index, :2]
        return _push(tool, target, half, DIRECTION_VECTORS[goal.direction], shift, tall)
    if goal.family == "pick":
        if held:
            up = target[2] - half[1] > LIFT_HEIGHT
            doing = Doing.FULFILLED if up else Doing.LIFTING
            return Intent(np.append(tool[:2], 0.2), GRIPPER_CLOSED, doing)
        return _grasp(tool, target, half, tall)
    place = np.array(task.pad if goal.family == "pad" else task.bowl)
    rim = 0.0 if goal.family == "pad" else 0.012
    radius = PAD_RADIUS if goal.family == "pad" else BOWL_RADIUS
    stood = task.objects[index].height
    return _place(tool, target, half, held, place, rim, radius, stood, tall)


def expert_description(world: ArmWorld, goal: Goal | None = None) -> str:
    """What the expert would say that it is doing now, for the same goals as `expert_intent`.

    The world's own task is fulfilled as soon as the judge says so; of another goal nobody judges.
    """
    doing = expert_intent(world, goal).doing
    own = goal in (None, world.task.goal)
    if own and world.outcome is Outcome.SUCCEEDED:
        doing = Doing.FULFILLED
    return describe(doing, goal or world.task.goal)


def _tall(task: Task, index: int) -> float:
    """By how much the tallest of the other things exceeds what is usual, m."""
    tops = [
        item.height + 2 * item.half_extents[1] for i, item in enumerate(task.objects) if i != index
    ]
    return max(max(tops, default=0.0) - _USUAL_TOP, 0.0)


def _funnel(distance: float, free: float, slope: float = 1.3, ceiling: float = 0.12) -> float:
    """Height to keep above the goal at a horizontal distance from it: a cone with a flat bottom."""
    return float(np.clip(slope * (distance - free), 0.0, ceiling))


def _reach(tool: np.ndarray, target: np.ndarray, half: np.ndarray) -> Intent:
    distance = float(np.linalg.norm(tool[:2] - target[:2]))
    height = target[2] + half[1] + REACH_HEIGHT + 0.7 * _funnel(distance, 0.02)
    goal = np.append(target[:2], height)
    there = float(np.linalg.norm(goal - tool)) < 0.03
    return Intent(goal, GRIPPER_OPEN, Doing.FULFILLED if there else Doing.MOVING)


def _grasp(tool: np.ndarray, target: np.ndarray, half: np.ndarray, tall: float = 0.0) -> Intent:
    distance = float(np.linalg.norm(tool[:2] - target[:2]))
    depth = max(target[2] - 0.004, 0.014)
    above = _funnel(distance, 0.008, 1.3 + _STEEPER * tall, 0.12 + tall)
    goal = np.append(target[:2], depth + above)
    # Loose on purpose: with the object between the fingers, closing early still centres it.
    between = distance < 0.016 and tool[2] < target[2] + 0.012
    if between:
        return Intent(goal, GRIPPER_CLOSED, Doing.GRASPING)
    return Intent(goal, GRIPPER_OPEN, Doing.MOVING)


def _place(
    tool: np.ndarray,
    target: np.ndarray,
    half: np.ndarray,
    held: bool,
    goal: np.ndarray,
    rim: float,
    radius: float,
    stood: float,
    tall: float,
) -> Intent:
    away = float(np.linalg.norm(target[:2] - goal))
    bottom = target[2] - half[1]
    over = away < 0.6 * radius
    if over and bottom < rim + 0.012:
        # Down where it belongs: let go, and leave upwards once the fingers are off.
        if held:
            return Intent(tool.copy(), GRIPPER_OPEN, Doing.PLACING)
        return Intent(np.append(tool[:2], 0.2), GRIPPER_OPEN, Doing.FULFILLED)
    if not held:
        return _grasp(tool, target, half, tall)
    grip = tool - target
    height = rim + 0.004 + half[1] + grip[2] + _funnel(away, 0.25 * radius, 1.3, 0.11 + tall)
    # Rise first, then travel: no sideways motion while the object is still between things.
    rise = bottom - max(stood, tall)  # above what it stood on, or what is in the way
    lifted = float(np.clip((rise - 0.02) / 0.04, 0.0, 1.0)) if away > radius else 1.0
    sideways = lifted * (goal + grip[:2] - tool[:2])
    doing = Doing.PLACING if over else Doing.CARRYING if lifted > 0.5 else Doing.LIFTING
    return Intent(np.append(tool[:2] + sideways, height), GRIPPER_CLOSED, doing)


def _push(
    tool: np.ndarray,
    target: np.ndarray,
    half: np.ndarray,
    direction: np.ndarray,
    shift: np.ndarray,
    tall: float,
) -> Intent:
    across = np.array([-direction[1], direction[0]])
    relative = tool[:2] - target[:2]
    along, side = float(relative @ direction), float(relative @ across)
    drift = float(shift @ across)
    if shift @ direction > _PUSH_FURTHER:
        leave = np.append(tool[:2] - 0.03 * direction, 0.15)
        return Intent(leave, GRIPPER_CLOSED, Doing.FULFILLED)
    # Pushing a little off centre turns the object back towards the line.
    line = float(np.clip(-0.3 * drift, -0.006, 0.006))
    behind = along < -(half[0] + _FINGER - 0.008)
    low = tool[2] < _PUSH_HEIGHT + 0.022
    if behind and low and abs(side) < 0.022:
        # Square up sideways before and while touching; forward in proportion to being square.
        ahead = 0.03 * float(np.clip(1.4 - abs(side - line) / 0.016, 0.0, 1.0))
        goal = tool[:2] + ahead * direction + (line - side) * across
        return Intent(np.append(goal, _PUSH_HEIGHT), GRIPPER_CLOSED, Doing.PUSHING)
    start = target[:2] - (half[0] + _FINGER + 0.03) * direction
    distance = float(np.linalg.norm(tool[:2] - start))
    ceiling = _TRAVEL_HEIGHT + tall - _PUSH_HEIGHT
    height = _PUSH_HEIGHT + _funnel(distance, 0.012, 1.5 + _STEEPER * tall, ceiling)
    return Intent(np.append(start, height), GRIPPER_CLOSED, Doing.GETTING_BEHIND)
