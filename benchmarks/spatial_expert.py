"""How much of a task is lost by saying actions as tokens: the scripted expert drives through them.

    vla bench spatial_expert [--episodes 12] [--bins 8 16 8 3 3 3]

The grid is fitted to the expert's own demonstrations. Each chunk of 4 offsets becomes motions,
tokens, motions and offsets again before it goes to the arm: what a policy reaches that learns
these tokens without a fault. Beside it stands the expert by itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vla_ros.models.spatial_vla.grid import BINS
from vla_ros.models.spatial_vla.normalization import ActionStatistics
from vla_ros.models.spatial_vla.sizes import BINS as SMALL_BINS
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.conditions import MAX_DISTRACTORS, evaluation_stage
from vla_ros.sim.experts import expert_chunk
from vla_ros.sim.tasks import FIRST_TRAINING_SEED, Outcome
from vla_ros.training.data.simulation import collect, task_list
from vla_ros.training.rollout import Observation, Rollout
from vla_ros.training.spatial_vla.samples import fit_motions
from vla_ros.training.spatial_vla.simulated import ACTION, MOTIONS, demonstrations

LATENCY = 2  # ticks


class Blind(Rollout):
    """Without pictures, which the expert does not look at."""

    def observe(self) -> Observation:
        return Observation([], np.zeros(0), self.world.joint_positions())


def through_tokens(bins: dict[str, int], shown: list) -> tuple[Callable, dict]:
    """What chunks become on their way through tokens, and figures of these."""
    found = fit_motions(shown, MOTIONS.layout, bins=bins)
    told = found.statistics["action"]
    statistics = ActionStatistics(told["q01"], told["q99"], told["mask"])

    def said(chunk: np.ndarray) -> np.ndarray:
        ids = found.tokenizer.encode(statistics.normalize(MOTIONS.of_chunks(chunk)))
        return MOTIONS.to_chunks(statistics.unnormalize(found.tokenizer.decode(ids)))

    lost = [round(1000 * error, 2) for error in found.error[:3]]
    return said, {"tokens": found.tokenizer.vocab_size, "rms_error_mm": lost}


def success(change: Callable[[np.ndarray], np.ndarray], episodes: int, seed: int) -> dict:
    """How many episodes of each family the expert does with changed chunks."""
    rollouts: dict[tuple, Blind] = {}
    wins = dict.fromkeys(FAMILIES, 0)
    for family in FAMILIES:
        for number in range(episodes):
            stage = evaluation_stage(family, seed + number, (), LATENCY)
            distractors = MAX_DISTRACTORS if stage.task.distractors else 0
            key = stage.visuals, distractors
            if key not in rollouts:
                world = ArmWorld(visuals=stage.visuals, distractors=distractors)
                rollouts[key] = Blind(world, image_size=16, dt=ACTION.dt)
            rollout = rollouts[key]
            rollout.latency_ticks = stage.latency_ticks
            outcome = rollout.run(
                stage.task,
                lambda _, world=rollout.world: change(
                    expert_chunk(world, ACTION.horizon, ACTION.dt)
                ),
            )
            wins[family] += outcome is Outcome.SUCCEEDED
    for rollout in rollouts.values():
        rollout.world.close()
    return wins


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=12, help="of each family")
    parser.add_argument("--seed", type=int, default=5000, help="of the first")
    parser.add_argument("--demonstrations", type=int, default=20, help="to fit the grid to")
    parser.add_argument("--bins", type=int, nargs=len(BINS), default=[*SMALL_BINS.values()])
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        tasks = task_list(FAMILIES, told.demonstrations, FIRST_TRAINING_SEED)
        shard = collect(Path(folder, "00_000"), tasks, 0, ACTION, 16)
        bins = dict(zip(BINS, told.bins, strict=True))
        said, figures = through_tokens(bins, demonstrations([shard]))
        figures["expert"] = success(lambda chunk: chunk, told.episodes, told.seed)
        figures["through_tokens"] = success(said, told.episodes, told.seed)
    print(json.dumps(figures | {"episodes": told.episodes}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
