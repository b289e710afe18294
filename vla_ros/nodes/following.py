"""An instruction while a node follows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future

from vla_ros.action import FollowInstruction
from vla_ros.models.policy import PolicyEpisode
from vla_ros.robots.returning import Return
from vla_ros.scene_language.plan import Plan


@dataclass
class Following:
    """The instruction being followed."""

    plan: Plan
    started: float  # s, ROS time
    time_limit: float  # s
    goal: ServerGoalHandle | None
    ended: Future  # of (success, reason)
    episode: PolicyEpisode | None = None  # of the subtask; None while the scene is being looked at
    begun: float = 0.0  # s, ROS time, of the subtask
    steps: int = 0
    done_steps: int = 0  # in a row
    home: np.ndarray | None = None  # tool position [3] where it began, m, base frame
    way_back: Return | None = None  # to there, between two subtasks
    opening: float = 0.0  # of the fingers, as commanded last, m
    description: str = ""  # what the policy says that it is doing

    @property
    def is_looking(self) -> bool:
        """Whether it waits for what the scene is."""
        return self.episode is None and self.way_back is None

    def feedback(
        self, now: float, done: float, narration: str, gate_state: int
    ) -> FollowInstruction.Feedback:
        """How far it is at `now` (s, ROS time); without a narration what the policy says counts."""
        return FollowInstruction.Feedback(
            step=self.steps,
            elapsed=max(now - self.started, 0.0),
            narration=narration or self.description,
            gate_state=gate_state,
            done=done,
            subtask=self.plan.number,
            subtask_text=self.episode.instruction,
        )

    def result(self, now: float, success: bool, reason: str) -> FollowInstruction.Result:
        """What came of it, at `now` (s, ROS time)."""
        return FollowInstruction.Result(
            success=success,
            reason=reason,
            steps=self.steps,
            duration=max(now - self.started, 0.0),
            subtasks=self.plan.subtasks,
            outcomes=self.plan.told(),
        )
