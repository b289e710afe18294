"""How often the scripted experts solve their tasks: `python benchmarks/experts.py`.

They act through the same gate, kinematics and controller as a policy does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from results import add_write_option, write_section
from tqdm import tqdm

from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.experts import expert_chunk
from vla_ros.sim.tasks import FAMILIES, Outcome, sample_task
from vla_ros.training.evaluation import wilson_interval
from vla_ros.training.rollout import Observation, Rollout


class _BlindRollout(Rollout):
    """The expert does not look, so nothing is rendered."""

    def observe(self) -> Observation:
        return Observation([], None, self.world.joint_positions())


def play(family: str, seeds: range) -> list[tuple[str, float]]:
    """Reason ("" for a success) and simulated seconds of each episode."""
    world = ArmWorld((64, 64))
    rollout = _BlindRollout(world, image_size=64)
    results = []
    for seed in seeds:
        outcome = rollout.run(sample_task(family, seed), lambda _: expert_chunk(world, 8, 0.05))
        reason = "" if outcome is Outcome.SUCCEEDED else world.judge.reason
        results.append((reason, world.time - world.judge.began))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=200, help="of each family; default 200")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; default 0")
    parser.add_argument("--workers", type=int, default=2, help="processes; default 2")
    add_write_option(parser)
    options = parser.parse_args()

    results: dict[str, list[tuple[str, float]]] = {family: [] for family in FAMILIES}
    began = time.perf_counter()
    with ProcessPoolExecutor(
        options.workers, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        last = options.seed + options.episodes
        parts = [
            (family, pool.submit(play, family, range(first, min(first + 20, last))))
            for first in range(options.seed, last, 20)
            for family in FAMILIES
        ]
        for family, future in tqdm(parts, desc="20 episodes each"):
            results[family] += future.result()
    seconds = time.perf_counter() - began

    lines = [
        "## Scripted experts",
        "",
        f"Seeds {options.seed} to {last - 1} of each family, 20 ms from frame to chunk: "
        f"`python benchmarks/experts.py --episodes {options.episodes} --seed {options.seed}` "
        f"({seconds:.0f} s, workers: {options.workers}).",
        "",
        "| family | success | 95 % interval | mean time | failures |",
        "|---|---|---|---|---|",
    ]
    for family, episodes in results.items():
        wins = [time_ for reason, time_ in episodes if not reason]
        low, high = wilson_interval(len(wins), len(episodes))
        failures = Counter(reason for reason, _ in episodes if reason)
        lines.append(
            f"| {family} | {len(wins)}/{len(episodes)} | {low:.1%} to {high:.1%} "
            f"| {sum(wins) / max(len(wins), 1):.1f} s "
            f"| {'; '.join(f'{n} x {reason}' for reason, n in failures.items()) or '-'} |"
        )
    write_section("experts", "\n".join(lines), options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
