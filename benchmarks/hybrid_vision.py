"""Policies that see depth beside ones that see pictures alone, on tasks where depth matters.

    vla bench hybrid_vision --out runs/hybrid [--write]

Both are the same VLAM with the same parameters, trained for the same steps on the same expert
demonstrations, half of which are stacked, occluded, of other heights, or seen by a moved camera.
One fuses the simulated depth camera's points ("hybrid", geometry depth_camera), the other is told
that nothing is known anywhere ("semantic", geometry none). Then both play the same tasks, and the
hybrid one once more with focal lengths 5 % wrong. What is done is kept in OUT: a run that was
interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import table
from results import add_write_option, write_section
from tqdm import tqdm

from vla_ros.paths import check_folder
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.conditions import SPATIAL, Condition
from vla_ros.sim.tasks import check_seeds
from vla_ros.training import dagger
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.evaluation import wilson_interval, write_json
from vla_ros.training.metrics import resampled_interval
from vla_ros.training.scenarios import USUAL, Scenario, scenario_name
from vla_ros.training.simulated_evaluation import evaluate

GEOMETRY = {"semantic": "none", "hybrid": "depth_camera"}
WRONG = "hybrid, intrinsics 5 % wrong"
COLUMNS = ("semantic", "hybrid", WRONG)
_SETTINGS = ("demonstrations", "steps", "frames", "rounds", "learner_episodes", "episodes")
_RESAMPLES = 2000
_LATENCY = 2  # ticks, as of `vla eval`

# Of one task: training seed, variant, family, seed -> whether it succeeded.
Task = tuple[int, str, str, int]
Outcomes = dict[Task, bool]


@dataclass(frozen=True)
class Difference:
    """Of two success rates on the same tasks, in points, with its 95 % interval."""

    points: float
    low: float
    high: float
    tasks: int

    def __str__(self) -> str:
        return f"{self.points:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


def difference(one: Outcomes, other: Outcomes, variants: Sequence[str]) -> Difference:
    """How much more often `one` succeeds than `other`, on the tasks of some variants.

    A table of one family and seed is much the same in all variants, so tables are drawn again, each
    with all that was played on it (cluster bootstrap); training seeds are not, as there are few.
    """
    clusters: dict[tuple[str, int], list[int]] = {}
    for task in sorted(one.keys() & other.keys()):
        if task[1] in variants:
            clusters.setdefault(task[2:], []).append(int(one[task]) - int(other[task]))
    if not clusters:
        return Difference(float("nan"), float("nan"), float("nan"), 0)
    sums = np.array([sum(each) for each in clusters.values()], float)
    counts = np.array([len(each) for each in clusters.values()], float)

    def points(drawn: np.ndarray) -> float:
        return 100 * float(sums[drawn].sum() / counts[drawn].sum())

    low, high = resampled_interval(points, [len(sums)], _RESAMPLES)
    return Difference(points(np.arange(len(sums))), low, high, int(counts.sum()))


# -- training --------------------------------------------------------------------------------------


def train(name: str, seed: int, options: argparse.Namespace, shared: Path | None) -> Path:
    """The checkpoint of a policy; its demonstrations are those of the run `shared`, if given."""
    out = options.out / f"{name}-{seed}"
    checkpoint = out / "checkpoint"
    if checkpoint.exists():
        return checkpoint
    if shared is not None:
        for source in sorted(shared.glob("data/00_*")) + sorted(shared.glob("data/99_*")):
            target = out / "data" / source.name
            if not target.exists():
                with whole_folder(target) as folder:  # nothing is copied
                    shutil.copytree(source, folder, copy_function=os.link, dirs_exist_ok=True)
    recipe = dagger.Recipe(
        seed=seed,
        steps=options.steps,
        frames=options.frames,
        demonstrations=options.demonstrations,
        learner_episodes=options.learner_episodes,
        rounds=options.rounds,
        held_out_episodes=options.held_out_episodes,
        workers=options.workers,
        geometry=GEOMETRY[name],
        variants=True,
    )
    began = time.perf_counter()
    folder = dagger.train(recipe, out)
    spent = time.perf_counter() - began
    print(f"{name}, seed {seed}: trained in {spent / 60:.1f} min", flush=True)
    return folder


# -- playing ---------------------------------------------------------------------------------------


def play(
    name: str,
    checkpoint: Path,
    seed: int,
    scenarios: Sequence[Scenario],
    options: argparse.Namespace,
) -> dict[Scenario, list]:
    """[family, seed, success] of all episodes of each scenario, which are played once only."""
    paths = {
        scenario: options.out / "played" / f"{name}-{seed}-{scenario_name(scenario)}.json"
        for scenario in scenarios
    }
    missing = [scenario for scenario, path in paths.items() if not path.exists()]
    seeds = check_seeds(options.first, options.episodes)
    episodes = [(family, number) for number in seeds for family in options.families]
    rows: dict[Scenario, list] = {scenario: [] for scenario in missing}
    if missing:
        played = evaluate(
            checkpoint, episodes, missing, workers=options.workers, latency_ticks=_LATENCY
        )
        total = len(episodes) * len(missing)
        for scenario, one in tqdm(played, total=total, desc=f"{name} {seed}", unit="episode"):
            done, report = rows[scenario], one.report
            done.append([report.family, report.seed, report.success])
            if len(done) == len(episodes):
                write_json(paths[scenario], {"episodes": sorted(done)})
    return {scenario: json.loads(path.read_text())["episodes"] for scenario, path in paths.items()}


def outcomes(
    options: argparse.Namespace, checkpoints: Mapping[tuple[str, int], Path]
) -> dict[str, Outcomes]:
    """Of each column."""
    found: dict[str, Outcomes] = {name: {} for name in COLUMNS}
    variants: list[Scenario] = [(), *((condition,) for condition in SPATIAL)]
    for (name, seed), checkpoint in checkpoints.items():
        columns: dict[str, Scenario] = {name: ()}
        if name == "hybrid":
            columns[WRONG] = (Condition.WRONG_INTRINSICS,)
        wanted = {
            (*variant, *more): (column, scenario_name(variant))
            for column, more in columns.items()
            for variant in variants
        }
        for scenario, rows in play(name, checkpoint, seed, [*wanted], options).items():
            column, variant = wanted[scenario]
            for family, number, success in rows:
                found[column][seed, variant, family, number] = success
    return found


# -- the page --------------------------------------------------------------------------------------


def rate(found: Outcomes, variants: Sequence[str]) -> str:
    """Successes of episodes, per cent with the 95 % interval."""
    wins = [success for task, success in found.items() if task[1] in variants]
    low, high = (100 * bound for bound in wilson_interval(sum(wins), len(wins)))
    share = 100 * sum(wins) / max(len(wins), 1)
    return f"{share:.1f} % of {len(wins)} ({low:.0f} to {high:.0f})"


def section(found: Mapping[str, Outcomes], told: Mapping[str, Any]) -> str:
    spatial = [str(condition) for condition in SPATIAL]
    rows = []
    for label, variants in (
        (USUAL, [USUAL]),
        *((name, [name]) for name in spatial),
        ("the four together", spatial),
    ):
        gained = difference(found["hybrid"], found["semantic"], variants)
        rows.append([label, *(rate(found[name], variants) for name in COLUMNS), str(gained)])
    wrong = difference(found[WRONG], found["hybrid"], spatial)
    rounds = "the demonstrations alone" if told["rounds"] == 1 else f"{told['rounds']} rounds"
    return f"""## Depth beside pictures

`{told["command"]}`
Two policies of the same architecture and parameters, each trained {told["total"]} steps of
{told["frames"]} frames on the same {told["demonstrations"]} demonstrations ({rounds}; trainings of
each: {told["seeds"]}), half of them of the variants below. Hybrid fuses the simulated depth
camera's points, semantic sees pictures alone. Success by physics, with 95 % intervals: Wilson's; of
differences, by drawing tables again.

{table(["task", *COLUMNS, "hybrid - semantic, points"], rows)}

Focal lengths 5 % wrong change hybrid's success on the four together by {wrong} points."""


def check(options: argparse.Namespace) -> None:
    """Keep the settings, or find that OUT holds a run with the same. Raises ValueError."""
    check_folder(options.out, "--out")
    check_seeds(options.first, options.episodes)
    more = ("first", "held_out_episodes", "families")
    told = {name: getattr(options, name) for name in (*_SETTINGS, *more)}
    path = options.out / "settings.json"
    if path.exists():
        before = json.loads(path.read_text())
        if other := [name for name in told if before.get(name) != told[name]]:
            raise ValueError(
                f"{options.out} holds a run whose {other[0]} is {before.get(other[0])}, not "
                f"{told[other[0]]}: name another folder by --out, or remove it"
            )
    write_json(path, told)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/hybrid"), help="folder of the runs")
    parser.add_argument("--demonstrations", type=int, default=1500, help="of the expert")
    parser.add_argument("--steps", type=int, default=6000, help="of a round")
    parser.add_argument("--frames", type=int, default=256, help="of a batch")
    parser.add_argument(
        "--rounds", type=int, default=1, help="1: demonstrations alone; more: DAgger, each its own"
    )
    parser.add_argument("--learner-episodes", type=int, default=250, help="of a DAgger round")
    parser.add_argument("--held-out-episodes", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind")
    parser.add_argument("--episodes", type=int, default=60, help="of each family and variant")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--first", type=int, default=0, help="seed of the first episode")
    parser.add_argument("--workers", type=int, default=2)
    add_write_option(parser)
    options = parser.parse_args(arguments)
    try:
        check(options)
        checkpoints = {}
        for seed in range(options.seeds):
            hybrid = options.out / f"hybrid-{seed}"
            checkpoints["hybrid", seed] = train("hybrid", seed, options, None)
            checkpoints["semantic", seed] = train("semantic", seed, options, hybrid)
        found = outcomes(options, checkpoints)
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None
    usual = parser.parse_args([])
    told = {name: getattr(options, name) for name in _SETTINGS}
    changed = [
        f" --{name.replace('_', '-')} {' '.join(map(str, np.atleast_1d(getattr(options, name))))}"
        for name in (*_SETTINGS, "held_out_episodes", "seeds", "families", "first")
        if getattr(options, name) != getattr(usual, name)
    ]
    told |= {
        "command": f"vla bench hybrid_vision{''.join(changed)}",
        "total": options.steps * options.rounds,
        "seeds": options.seeds,
    }
    write_section("hybrid vision", section(found, told), options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
