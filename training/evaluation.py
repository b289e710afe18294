"""How often a policy succeeds in each task family, with 95 % intervals: offline, or on live nodes.

Offline, episodes run as fast as the machine can through the loop of `rollout`, under the conditions
asked for; live, the usual episodes run in real time through the ROS 2 nodes, with all their
latency.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.conditions import MAX_DISTRACTORS, Condition, evaluation_stage
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import Outcome, check_seeds
from vla_ros.training.rollout import Observation, Rollout, check_latency
from vla_ros.training.success_plot import plot_success

USUAL = "usual"  # the scenario of no condition
Scenario = tuple[Condition, ...]  # conditions that hold together
_Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations

# -- episodes --------------------------------------------------------------------------------------


def parse_scenario(text: str) -> Scenario:
    """Conditions joined by "+", or "usual" for none.

    Raises:
        ValueError: one of them is unknown.
    """
    names = [] if text == USUAL else text.split("+")
    if unknown := set(names) - set(Condition):
        known = ", ".join([USUAL, *Condition])
        raise ValueError(f"unknown condition '{min(unknown)}': use one of {known}, or some with +")
    return tuple(condition for condition in Condition if condition in names)


def scenario_name(scenario: Scenario) -> str:
    return "+".join(scenario) or USUAL


class Evaluator:
    """Runs episodes of one policy offline."""

    def __init__(self, checkpoint: Path, latency_ticks: int) -> None:
        torch.set_num_threads(1)
        self._model = VisionLanguageActionModel.from_pretrained(checkpoint)
        self._latency_ticks = latency_ticks
        self._rollouts: dict[tuple[str, int], Rollout] = {}

    def play(self, family: str, seed: int, scenario: Scenario = ()) -> EpisodeReport:
        stage = evaluation_stage(family, seed, scenario, self._latency_ticks)
        episode = self._model.start(stage.instruction)
        rollout = self._rollout(stage.visuals, MAX_DISTRACTORS if stage.task.distractors else 0)
        rollout.latency_ticks = stage.latency_ticks
        steps = 0

        def act(observation: Observation) -> Any:
            nonlocal steps
            steps += 1
            tokens = self._model.encode(observation.images)
            return episode.act(tokens, observation.proprioception).actions

        outcome = rollout.run(stage.task, act)
        world = rollout.world
        return EpisodeReport(
            family=family,
            seed=seed,
            instruction=stage.instruction or "",
            success=outcome is Outcome.SUCCEEDED,
            reason=world.judge.reason,
            seconds=world.time - world.judge.began,
            steps=steps,
        )

    def _rollout(self, visuals: str, distractors: int) -> Rollout:
        key = (visuals, distractors)
        if key not in self._rollouts:
            self._rollouts[key] = Rollout(
                ArmWorld(visuals=visuals, distractors=distractors),
                image_size=self._model.image_size,
                dt=self._model.config.action.dt,
            )
        return self._rollouts[key]


_evaluator: Evaluator | None = None  # of a worker process


def _start_worker(checkpoint: Path, latency_ticks: int) -> None:
    global _evaluator
    _evaluator = Evaluator(checkpoint, latency_ticks)


def _play(family: str, seed: int, scenario: Scenario) -> EpisodeReport:
    return _evaluator.play(family, seed, scenario)


def evaluate(
    checkpoint: Path,
    episodes: list[tuple[str, int]],
    scenarios: list[Scenario],
    *,
    workers: int,
    latency_ticks: int,
) -> Iterator[tuple[Scenario, EpisodeReport]]:
    """Play (family, seed) episodes offline in worker processes, in every scenario.

    Reports come as they end.
    """
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(checkpoint, latency_ticks),
    ) as pool:
        futures = {
            pool.submit(_play, *episode, scenario): scenario
            for scenario in scenarios
            for episode in episodes
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


def evaluate_live(
    checkpoint: Path, episodes: list[tuple[str, int]], *, processes: bool
) -> Iterator[tuple[Scenario, EpisodeReport]]:
    """Play (family, seed) episodes on live nodes, in real time, without any condition.

    Raises:
        RuntimeError: the nodes do not come up, or one of them ends.
    """
    from vla_ros.live import running  # needs ROS 2

    with running(str(checkpoint), processes=processes) as arm:
        for family, seed in episodes:
            yield (), arm.play(family, seed)


def inference_times(model: VisionLanguageActionModel, steps: int = 300) -> dict[str, Any]:
    """Milliseconds of encoding and of acting on one observation, on one thread, here and now.

    Of processor time, which is what a free core would take: other processes do not count.

    Returns:
        {"encode": {"median": ..., "p95": ...}, "act": ..., "both": ...}
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    size, cameras = model.image_size, len(model.config.cameras)
    images = list(rng.integers(256, size=(cameras, size, size, 3), dtype=np.uint8))
    felt = np.zeros(len(model.config.action.proprioception_names), np.float32)
    episode = model.start("reach the red cube")
    times = np.empty((steps + 20, 2))
    for row in times:
        began = time.process_time()
        tokens = model.encode(images)
        encoded = time.process_time()
        episode.act(tokens, felt)
        row[:] = encoded - began, time.process_time() - encoded
    times = 1e3 * times[20:]  # the first ones warm up
    columns = {"encode": times[:, 0], "act": times[:, 1], "both": times.sum(axis=1)}
    return {
        name: {"median": float(np.median(values)), "p95": float(np.quantile(values, 0.95))}
        for name, values in columns.items()
    }


# -- figures ---------------------------------------------------------------------------------------


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a success rate (Wilson 1927), honest for few trials and for 0 or 100 %."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = rate + _Z**2 / (2 * trials)
    spread = _Z * math.sqrt(rate * (1 - rate) / trials + _Z**2 / (4 * trials**2))
    scale = 1 + _Z**2 / trials
    # At 0 and 100 % the exact bounds are 0 and 1; rounding must not leave them.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == trials else (centre + spread) / scale
    return low, high


def summarize(reports: Iterable[EpisodeReport], settings: dict[str, Any]) -> dict[str, Any]:
    """Figures by family, then `settings`, then every episode: what the JSON file holds."""
    reports = sorted(reports, key=lambda report: (FAMILIES.index(report.family), report.seed))
    groups = {family: [r for r in reports if r.family == family] for family in FAMILIES}
    groups = {family: group for family, group in groups.items() if group}
    wins = {family: sum(r.success for r in group) for family, group in groups.items()}

    def by_family(figure: Any) -> dict[str, Any]:
        return {family: figure(family, group) for family, group in groups.items()}

    return {
        "success": by_family(lambda family, group: wins[family] / len(group)),
        "intervals": by_family(lambda family, group: wilson_interval(wins[family], len(group))),
        "episodes": by_family(lambda _, group: len(group)),
        "mean_seconds": by_family(lambda _, group: _mean(r.seconds for r in group if r.success)),
        "failures": by_family(lambda _, group: Counter(r.reason for r in group if not r.success)),
        **settings,
        "runs": [{k: _finite(v) for k, v in asdict(report).items()} for report in reports],
    }


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(summary: dict[str, Any], reference: dict[str, Any] | None = None) -> str:
    """The figures as lines of text; `reference` (another summary) adds a column to compare with."""
    head = f"{'family':<8}{'success':>9}{'95 % interval':>18}{'episodes':>10}{'mean time':>11}"
    lines = [head + (f"{'reference':>11}{'difference':>12}" if reference else "")]
    for family, rate in summary["success"].items():
        low, high = summary["intervals"][family]
        mean = summary["mean_seconds"][family]
        line = f"{family:<8}{rate:>8.1%} {f'{low:.1%} to {high:.1%}':>17}"
        line += f"{summary['episodes'][family]:>10}"
        line += f"{'-' if mean is None else f'{mean:.1f} s':>11}"
        other = (reference or {}).get("success", {}).get(family)
        if other is not None:
            line += f"{other:>10.1%} {100 * (rate - other):>+8.1f} pts"
        lines.append(line)
    for family, reasons in summary["failures"].items():
        lines += [f"  {family}: {count} x {reason}" for reason, count in reasons.items()]
    return "\n".join(lines)


def overview(summaries: dict[str, dict[str, Any]]) -> str:
    """One line of success rates for each scenario."""
    families = next(iter(summaries.values()))["success"]
    width = max(map(len, [*summaries, "condition"]))
    lines = [f"{'condition':<{width}}" + "".join(f"{family:>9}" for family in families)]
    for name, summary in summaries.items():
        rates = "".join(f"{rate:>9.1%}" for rate in summary["success"].values())
        lines.append(f"{name:<{width}}{rates}")
    return "\n".join(lines)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)


# -- command ---------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--robot", choices=("sim",), default="sim", help="default sim")
    parser.add_argument("--checkpoint", default="arm", help="name or folder; default arm")
    parser.add_argument("--episodes", type=int, default=100, help="of each family; default 100")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; default 0")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them on one page there")
    parser.add_argument(
        "--condition",
        nargs="+",
        default=[USUAL],
        metavar="NAME",
        help=f"offline: each of these in turn, joined with + at once; default {USUAL}; "
        f"all: {USUAL} and each alone; {', '.join(Condition)}",
    )
    parser.add_argument(
        "--families", nargs="+", choices=FAMILIES, default=FAMILIES, help="default all", metavar="F"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes; default 2")
    parser.add_argument(
        "--latency-ticks",
        type=int,
        default=2,
        help="offline: ticks of 10 ms from a frame to its chunk; default 2",
    )
    parser.add_argument("--live", action="store_true", help="through the ROS 2 nodes, in real time")
    parser.add_argument(
        "--processes", action="store_true", help="with --live: each node as its own process"
    )
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="JSON of another evaluation to compare with"
    )


def main(arguments: argparse.Namespace) -> None:
    seeds = check_seeds(arguments.seed, arguments.episodes)
    if arguments.workers < 1:
        raise ValueError(f"--workers is {arguments.workers}: give 1 or more")
    check_latency(arguments.latency_ticks)
    names = [USUAL, *Condition] if arguments.condition == ["all"] else arguments.condition
    scenarios = list(dict.fromkeys(parse_scenario(name) for name in names))
    if arguments.live and scenarios != [()]:
        raise ValueError("--condition is for episodes offline: leave out --live")
    reference = json.loads(arguments.compare.read_text()) if arguments.compare else None
    checkpoint = resolve(arguments.checkpoint)
    model = VisionLanguageActionModel.from_pretrained(checkpoint)
    episodes = [(family, seed) for seed in seeds for family in arguments.families]
    settings = {
        "robot": arguments.robot,
        "live": arguments.live,
        "checkpoint": arguments.checkpoint,
        "seed": arguments.seed,
        "inference_ms": inference_times(model),
    }
    if arguments.live:
        settings["processes"] = arguments.processes
        played = evaluate_live(checkpoint, episodes, processes=arguments.processes)
    else:
        settings["latency_ticks"] = arguments.latency_ticks
        played = evaluate(
            checkpoint,
            episodes,
            scenarios,
            workers=arguments.workers,
            latency_ticks=arguments.latency_ticks,
        )
    reports: dict[Scenario, list[EpisodeReport]] = {scenario: [] for scenario in scenarios}
    total = len(episodes) * len(scenarios)
    bar = tqdm(played, total=total, desc="episodes", unit="episode")
    for scenario, report in bar:
        reports[scenario].append(report)
        wins = sum(report.success for group in reports.values() for report in group)
        bar.set_postfix_str(f"{wins} succeeded")
    if arguments.live:
        for name in ("rate", "latency"):
            values = [v for r in reports[()] if math.isfinite(v := getattr(r, name))]
            settings[f"mean_{name}"] = _mean(values)
    summaries = {
        scenario_name(scenario): summarize(group, {"condition": scenario_name(scenario)})
        for scenario, group in reports.items()
    }
    first, *others = summaries.values()
    figures = {**first, **settings}
    if others:
        figures["conditions"] = summaries
    if arguments.json:
        write_json(arguments.json, figures)
    if arguments.plot:
        plot_success(summaries, settings["inference_ms"], arguments.plot)
    for name, summary in summaries.items():
        print(f"-- {name}\n{table(summary, reference)}" if others else table(summary, reference))
    if others:
        print(overview(summaries))
    times = settings["inference_ms"]["both"]
    print(f"encode and act: {times['median']:.1f} ms, 95 % below {times['p95']:.1f} ms")
    if arguments.live and settings["mean_rate"] and settings["mean_latency"]:
        print(
            f"{settings['mean_rate']:.1f} action chunks/s, "
            f"{1e3 * settings['mean_latency']:.0f} ms from camera to command (mean of episodes)"
        )
