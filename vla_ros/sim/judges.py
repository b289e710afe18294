"""Judges of what happens on the table, who look at the physics and at nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.scene_language.instructions import Goal
from vla_ros.sim.tasks import (
    BOWL_RADIUS,
    DIRECTION_VECTORS,
    DISTURBANCE,
    HOLD_TIME,
    LIFT_HEIGHT,
    PAD_RADIUS,
    PUSH_DISTANCE,
    TIME_LIMIT,
    Outcome,
    Task,
)

REST_TIME = 0.3  # s that a thing must lie still before the next goal is begun
_LONG_REST = 1.5  # s, if the tool stays at it: an arm may halt on its way
_AWAY = 0.07  # m from the thing's centre at which the tool has left it
_RESTING = 0.002  # m that it may move in that time
_STILL = 0.01  # m that the tool and things may move by themselves


def judge_of(task: Task, start: np.ndarray, began: float) -> Judge | SequenceJudge | StillJudge:
    """The judge for a task that begins at `began` (s) with centres `start` [n, 3] (m)."""
    if task.refused:
        return StillJudge(task, start, began)
    if len(task.steps) > 1:
        return SequenceJudge(task, start, began)
    return Judge(task, start, began)


@dataclass
class Judge:
    """Decides whether a goal is reached, from physics alone.

    Call `update` at least every 0.05 s.
    """

    task: Task
    start: np.ndarray  # [n, 3] centres of objects, then distractors, at the start, m
    began: float  # s
    goal: Goal | None = None  # None: the task's
    outcome: Outcome = Outcome.RUNNING
    reason: str = ""
    _since: float | None = None

    def __post_init__(self) -> None:
        self.goal = self.goal or self.task.goal
        self.index = self.task.index_of(self.goal)  # of the object that it is about

    def update(self, time: float, objects: np.ndarray, tool: np.ndarray, held: bool) -> Outcome:
        """Look at the world once.

        Args:
            time: s.
            objects: [n, 3] centres of the task's objects, then of its distractors, m, base frame.
            tool: [3] tool centre point, m, base frame.
            held: whether both fingers touch object `index`.
        """
        if self.outcome is not Outcome.RUNNING:
            return self.outcome
        failure = self._failure(objects)
        if failure:
            self.outcome, self.reason = Outcome.FAILED, failure
        elif self.fulfilled(objects, tool, held):
            self._since = time if self._since is None else self._since
            if time - self._since >= HOLD_TIME - 1e-6:
                self.outcome, self.reason = Outcome.SUCCEEDED, "fulfilled"
        else:
            self._since = None
        if self.outcome is Outcome.RUNNING and time - self.began >= self._limit:
            self.outcome = Outcome.FAILED
            self.reason = f"not fulfilled within {self._limit:g} s"
        return self.outcome

    @property
    def _limit(self) -> float:
        return TIME_LIMIT[self.goal.family]

    def _failure(self, objects: np.ndarray) -> str:
        moved = np.linalg.norm(objects[:, :2] - self.start[:, :2], axis=1)
        names = [f"{item.color} {item.shape}" for item in self.task.objects]
        names += ["distractor"] * len(self.task.distractors)
        for i, name in enumerate(names):
            if objects[i, 2] < -0.02:
                return f"the {name} fell off the table"
            if i != self.index and moved[i] > DISTURBANCE:
                return f"the {name} was moved, which nobody asked for"
        return ""

    def fulfilled(self, objects: np.ndarray, tool: np.ndarray, held: bool) -> bool:
        """Whether the goal's condition holds at this moment; arguments as of `update`."""
        item, position = self.task.objects[self.index], objects[self.index]
        bottom = position[2] - item.half_extents[1]
        family = self.goal.family
        if family == "reach":
            above = tool[2] - (position[2] + item.half_extents[1])
            near = np.linalg.norm(tool[:2] - position[:2]) < 0.03
            return bool(near and 0.015 < above < 0.09)
        if family == "push":
            shift = position[:2] - self.start[self.index, :2]
            along = shift @ DIRECTION_VECTORS[self.goal.direction]
            across = np.abs(shift @ DIRECTION_VECTORS[self.goal.direction][::-1])
            return bool(along >= PUSH_DISTANCE and across < 0.045 and bottom < 0.02)
        if family == "pick":
            return bool(held and bottom >= LIFT_HEIGHT)
        if family == "pad":
            near = np.linalg.norm(position[:2] - np.array(self.task.pad)) < PAD_RADIUS
            return bool(near and bottom < 0.015 and not held)
        near = np.linalg.norm(position[:2] - np.array(self.task.bowl)) < BOWL_RADIUS
        return bool(near and bottom < 0.03 and not held)


class SequenceJudge:
    """Decides whether the goals of a task are reached one after the other.

    The next goal is begun when the one before is reached and what it is about is left alone, and
    then counts from where things are. What was put on the pad or into the bowl must be there in the
    end, unless it was to be moved.
    """

    def __init__(self, task: Task, start: np.ndarray, began: float) -> None:
        self.task, self.began = task, began
        self.outcome, self.reason = Outcome.RUNNING, ""
        self._reached: list[Judge] = []
        self._now = Judge(task, start, began, task.steps[0])
        self._lies: tuple[float, np.ndarray] | None = None  # since when (s) and where (m)

    @property
    def index(self) -> int:
        """Place of the object that the present goal is about."""
        return self._now.index

    @property
    def goal(self) -> Goal:
        """The present one."""
        return self._now.goal

    @property
    def start(self) -> np.ndarray:
        """Centres [n, 3] of the things when the present goal was begun, m."""
        return self._now.start

    def update(self, time: float, objects: np.ndarray, tool: np.ndarray, held: bool) -> Outcome:
        """Look at the world once; arguments as of `Judge.update`."""
        if self.outcome is not Outcome.RUNNING:
            return self.outcome
        outcome = self._now.update(time, objects, tool, held)
        number, count = len(self._reached) + 1, len(self.task.steps)
        if outcome is Outcome.FAILED:
            self.outcome = outcome
            self.reason = f"step {number} of {count}: {self._now.reason}"
        elif outcome is Outcome.SUCCEEDED and number < count:
            if self._is_left_alone(time, objects[self._now.index], tool):
                self._reached.append(self._now)
                self._now = Judge(self.task, objects.copy(), time, self.task.steps[number])
                self._lies = None
        elif outcome is Outcome.SUCCEEDED:
            undone = self._undone(objects, tool)
            self.outcome = Outcome.FAILED if undone else outcome
            self.reason = f"step {undone} of {count} was undone" if undone else "fulfilled"
        return self.outcome

    def _is_left_alone(self, time: float, position: np.ndarray, tool: np.ndarray) -> bool:
        """Whether the thing at `position` [3] (m) lies still, and the tool is not at it either."""
        if self._now.goal.family == "reach":
            return True
        if self._lies is None or np.linalg.norm(position - self._lies[1]) > _RESTING:
            self._lies = time, position.copy()
        away = np.linalg.norm(position - tool) > _AWAY
        return time - self._lies[0] >= (REST_TIME if away else _LONG_REST) - 1e-6

    def _undone(self, objects: np.ndarray, tool: np.ndarray) -> int:
        """Number of a goal, from 1, that is not reached any more; 0: all are."""
        moved = {self._now.index}
        for number, judge in reversed(list(enumerate(self._reached, 1))):
            placed = judge.goal.family in ("pad", "bowl") and judge.index not in moved
            if placed and not judge.fulfilled(objects, tool, False):
                return number
            moved.add(judge.index)
        return 0


class StillJudge:
    """Decides whether nothing moved, as nothing should after an instruction that is refused."""

    index = 0

    def __init__(self, task: Task, start: np.ndarray, began: float) -> None:
        self.task, self.start, self.began = task, start, began
        self.outcome, self.reason = Outcome.RUNNING, ""
        self._tool: np.ndarray | None = None

    def update(self, time: float, objects: np.ndarray, tool: np.ndarray, held: bool) -> Outcome:
        """Look at the world once; arguments as of `Judge.update`."""
        if self.outcome is not Outcome.RUNNING:
            return self.outcome
        self._tool = tool if self._tool is None else self._tool
        if np.linalg.norm(tool - self._tool) > _STILL:
            self.outcome, self.reason = Outcome.FAILED, "the arm moved, which it should not"
        elif np.linalg.norm(objects - self.start, axis=1).max() > _STILL:
            self.outcome, self.reason = (
                Outcome.FAILED,
                "something was moved, which nobody asked for",
            )
        elif time - self.began >= self.task.time_limit:
            self.outcome, self.reason = Outcome.SUCCEEDED, "nothing was moved"
        return self.outcome
