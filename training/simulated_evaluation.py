"""Plays a policy in the simulator: offline, under conditions, in other words, or on live nodes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla_ros.models.compatibility import Compatibility, proprioception_order, with_robot
from vla_ros.models.observation_encoder import ObservationEncoder
from vla_ros.models.policy import Policy, load_policy
from vla_ros.robots.action_config import ActionConfig
from vla_ros.robots.panda import GRIPPER_OPEN
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.arm import CAMERAS, ArmWorld
from vla_ros.sim.conditions import MAX_DISTRACTORS, Stage, evaluation_stage
from vla_ros.sim.experts import expert_chunk, expert_description
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import Outcome
from vla_ros.training.metrics import (
    ChunkErrors,
    Embedder,
    distance_figures,
    path_length,
    sentence_scores,
    trajectory_distance,
)
from vla_ros.training.phrasings import Phrasings
from vla_ros.training.rollout import Observation, Rollout
from vla_ros.training.scenarios import Scenario

_ROBOT = ActionConfig.get_arm_config()  # what the simulated robot can be told and feels


def fit_to_simulator(policy: Policy, checkpoint: str) -> Compatibility:
    """What differs between a policy and the simulated robot; `checkpoint` is its name."""
    return with_robot(policy, _ROBOT, CAMERAS, checkpoint=checkpoint)


# -- episodes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measures:
    """What one episode was like beside the expert's, frame by frame."""

    errors: ChunkErrors  # of the policy's chunks, by the expert's advice on the same frames
    sentences: list[tuple[str, str]]  # what the policy said, what the expert would have said
    distance: float  # of the tool's path from the one by which the expert does the same task, m
    length: float  # of the expert's path, m


@dataclass(frozen=True)
class Played:
    """One episode; `measures` if they were asked for and the policy took the instruction."""

    report: EpisodeReport
    measures: Measures | None = None


class Evaluator:
    """Runs episodes of one policy offline.

    Args:
        checkpoint: its folder.
        latency_ticks: controller ticks from a frame to the arrival of its chunk.
        phrasings: how goals are said; None: as each task says its own.
        measure: compare with the expert, too.

    Raises:
        ValueError: the policy does not fit the simulated robot, or is to be compared, and its
            actions are not the expert's.
    """

    def __init__(
        self,
        checkpoint: Path,
        latency_ticks: int,
        phrasings: Phrasings | None = None,
        measure: bool = False,
    ) -> None:
        torch.set_num_threads(1)
        self._model = load_policy(checkpoint)
        fit_to_simulator(self._model, str(checkpoint)).require()
        self._encoder = ObservationEncoder(self._model)
        self._felt = proprioception_order(self._model, _ROBOT.proprioception_names)
        self._latency_ticks, self._phrasings, self._measure = latency_ticks, phrasings, measure
        self._rollouts: dict[tuple[str, int], Rollout] = {}
        self._blind: dict[tuple[str, int], Rollout] = {}
        if measure:
            check_comparable(self._model.action_config)

    def play(self, family: str, seed: int, scenario: Scenario = ()) -> Played:
        stage = evaluation_stage(family, seed, scenario, self._latency_ticks)
        told = stage.instruction
        if self._phrasings is not None:
            told = self._phrasings.instruction(stage.task.goal, seed)
        try:
            episode = self._model.start(told)
        except ValueError as error:  # it knows too few of the words
            return Played(
                EpisodeReport(
                    family, seed, told or "", False, f"instruction refused: {error}", 0.0, steps=0
                )
            )
        rollout = self._rollout(stage)
        self._encoder.reset()
        comparison = _Comparison(rollout.world, self._model.action_config)
        steps = 0

        def act(observation: Observation) -> Any:
            nonlocal steps
            steps += 1
            tokens = self._encoder.encode(observation.frames, rollout.world.time)
            actions = episode.act(tokens, observation.proprioception[self._felt]).actions
            if self._measure:
                comparison.look(actions, episode.describe()[0])
            return actions

        outcome = rollout.run(stage.task, act)
        world = rollout.world
        report = EpisodeReport(
            family=family,
            seed=seed,
            instruction=told or "",
            success=outcome is Outcome.SUCCEEDED,
            reason=world.judge.reason,
            seconds=world.time - world.judge.began,
            steps=steps,
        )
        if not self._measure:
            return Played(report)
        return Played(report, comparison.measures(self._expert_path(stage)))

    def _rollout(self, stage: Stage) -> Rollout:
        distractors = MAX_DISTRACTORS if stage.task.distractors else 0
        key = (stage.visuals, distractors)
        if key not in self._rollouts:
            world = ArmWorld(visuals=stage.visuals, distractors=distractors)
            settings = {
                "image_size": self._model.image_size,
                "dt": self._model.action_config.dt,
                "cameras": self._model.cameras,
                "needs": self._encoder.needs,
            }
            self._rollouts[key] = Rollout(world, **settings)
            self._blind[key] = _BlindRollout(world, **settings)
        for rollout in (self._rollouts[key], self._blind[key]):
            rollout.latency_ticks = stage.latency_ticks
            rollout.focal_scale = stage.focal_scale
        return self._rollouts[key]

    def _expert_path(self, stage: Stage) -> np.ndarray:
        """Where the tool is at each frame [n, 3], m, while the expert does the same task."""
        rollout = self._blind[stage.visuals, MAX_DISTRACTORS if stage.task.distractors else 0]
        action, path = self._model.action_config, []

        def act(_: Observation) -> np.ndarray:
            path.append(rollout.world.tool_position())
            return expert_chunk(rollout.world, action.horizon, action.dt)

        rollout.run(stage.task, act)
        return np.array(path)


class _BlindRollout(Rollout):
    """For who needs no pictures: they are most of the time that an episode takes."""

    def observe(self) -> Observation:
        joints = self.world.joint_positions()
        return Observation(images=[], proprioception=np.empty(0), joints=joints)


@dataclass
class _Comparison:
    """Collects what the policy does and what the expert advises, at each frame."""

    world: ArmWorld
    action: ActionConfig
    chunks: list[np.ndarray] = field(default_factory=list)
    advice: list[np.ndarray] = field(default_factory=list)
    sentences: list[tuple[str, str]] = field(default_factory=list)
    path: list[np.ndarray] = field(default_factory=list)

    def look(self, chunk: np.ndarray, said: str) -> None:
        self.chunks.append(chunk)
        self.advice.append(expert_chunk(self.world, self.action.horizon, self.action.dt))
        self.sentences.append((said, expert_description(self.world)))
        self.path.append(self.world.tool_position())

    def measures(self, expert: np.ndarray) -> Measures:
        advice = np.array(self.advice)
        errors = ChunkErrors(self.action.action_names, self.action.horizon)
        known = np.ones(advice.shape[:2], bool)
        guesses = {"policy": np.array(self.chunks), "last_action": self._last(advice)}
        errors.add(advice, known, guesses)
        distance = trajectory_distance(np.array(self.path), expert)
        return Measures(errors, self.sentences, distance, path_length(expert))

    def _last(self, advice: np.ndarray) -> np.ndarray:
        """The advice that was due on the frame before, told from where the tool is by now, [T, K,
        4]; before the first frame it was to stay, with open fingers."""
        path = np.array(self.path)
        stay = np.array([[0.0, 0.0, 0.0, GRIPPER_OPEN]])
        last = np.concatenate([stay, advice[:-1, 0]])
        last[1:, :3] += path[:-1] - path[1:]
        return np.repeat(last[:, None], self.action.horizon, axis=1)


def check_comparable(action: ActionConfig) -> None:
    """Raises ValueError if the actions are not of the expert's kind and unit."""
    expert = ActionConfig.get_arm_config()
    for what in ("control_mode", "action_names"):
        mine, its = getattr(action, what), getattr(expert, what)
        if mine != its:
            raise ValueError(
                f"--metrics compares with the expert, whose {what} is {its}, not {mine}"
            )


_evaluator: Evaluator | None = None  # of a worker process


def _start_worker(*settings: Any) -> None:
    global _evaluator
    _evaluator = Evaluator(*settings)


def _play(family: str, seed: int, scenario: Scenario) -> Played:
    return _evaluator.play(family, seed, scenario)


def evaluate(
    checkpoint: Path,
    episodes: list[tuple[str, int]],
    scenarios: list[Scenario],
    *,
    workers: int,
    latency_ticks: int,
    phrasings: Phrasings | None = None,
    measure: bool = False,
) -> Iterator[tuple[Scenario, Played]]:
    """Play (family, seed) episodes offline in worker processes, in every scenario.

    They come as they end.
    """
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(checkpoint, latency_ticks, phrasings, measure),
    ) as pool:
        futures = {
            pool.submit(_play, *episode, scenario): scenario
            for scenario in scenarios
            for episode in episodes
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


def evaluate_live(
    checkpoint: Path,
    episodes: list[tuple[str, int]],
    *,
    processes: str,
    cameras: Sequence[str] = CAMERAS,
) -> Iterator[tuple[Scenario, Played]]:
    """Play (family, seed) episodes on live nodes, in real time, without any condition.

    Args:
        checkpoint: of the policy.
        episodes: family and seed of each.
        processes: which nodes are processes of their own, see `stack.Stack`.
        cameras: of the policy.

    Raises:
        RuntimeError: the nodes do not come up, or one of them ends.
    """
    from vla_ros.live import running  # needs ROS 2

    with running(str(checkpoint), processes=processes, cameras=cameras) as arm:
        for family, seed in episodes:
            yield (), Played(arm.play(family, seed))


# -- figures beside the expert's -------------------------------------------------------------------


def compared(played: Sequence[Played], embed: Embedder | None = None) -> dict[str, Any]:
    """Figures of the episodes that were measured, one or more: see `evaluation.figures_of`."""
    groups = {family: [] for family in FAMILIES}
    for one in sorted(played, key=lambda p: p.report.seed):
        if one.measures is not None:
            groups[one.report.family].append(one.measures)
    groups = {family: group for family, group in groups.items() if group}
    everything = [measures for group in groups.values() for measures in group]
    if not everything:
        return {"actions": None, "trajectory": None, "sentences": None}
    first = everything[0].errors
    errors = ChunkErrors(first.names, first.horizon)
    for measures in everything:
        errors.merge(measures.errors)
    groups["all"] = everything
    return {
        "actions": {
            "compares": "the policy's chunk with the scripted expert's advice on the same frame",
            **errors.figures(),
        },
        "trajectory": {
            "compares": "the tool's path with the one by which the scripted expert does the task",
            "unit": "m",
            **{
                name: distance_figures([m.distance for m in group], [m.length for m in group])
                for name, group in groups.items()
            },
        },
        "sentences": {
            "compares": "what the policy says with what the scripted expert would say, each frame",
            **{
                name: sentence_scores(
                    *zip(*(pair for one in group for pair in one.sentences), strict=True), embed
                )
                for name, group in groups.items()
            },
        },
    }
