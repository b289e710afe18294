"""What became of one episode on the simulated robot, offline or live."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EpisodeReport:
    """One episode as judged from the physics; what was not measured is NaN."""

    family: str
    seed: int
    instruction: str
    success: bool
    reason: str  # in the judge's words
    seconds: float  # simulated, until the judgement or the refusal
    steps: int  # action chunks
    rate: float = math.nan  # action chunks per second
    latency: float = math.nan  # s, median from camera to command
    told: tuple[str, ...] = ()  # to the policy, for one subtask after the other
    outcomes: tuple[str, ...] = ()  # of the subtasks, by the policy's judgement
    refusal: str = ""  # what was said of an instruction that was refused, as it should be
