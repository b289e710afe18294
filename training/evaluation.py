"""How good a policy is, in the simulator or on recordings.

In the simulator: how often it succeeds in each task family, with 95 % intervals. Offline, episodes
run as fast as the machine can, under the conditions asked for, and if asked for beside the scripted
expert; live, the usual ones run in real time through the ROS 2 nodes, with all their latency. On
recordings: how far its actions are from those recorded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.models.observation_encoder import ObservationEncoder
from vla_ros.models.policy import Policy, load_policy
from vla_ros.observations import CameraCalibration, camera_frame
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import check_seeds
from vla_ros.training import metrics
from vla_ros.training.data.recordings import Robot
from vla_ros.training.evaluation_text import comparison, overview, table
from vla_ros.training.phrasings import Phrasings
from vla_ros.training.recorded_evaluation import Recordings, time_figures
from vla_ros.training.scenarios import Scenario, scenario_name
from vla_ros.training.simulated_evaluation import (
    Played,
    check_comparable,
    compared,
    evaluate,
    evaluate_live,
    fit_to_simulator,
)

_Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations


def inference_times(model: Policy, steps: int = 300) -> dict[str, Any]:
    """Milliseconds of encoding and of acting on one observation, on one thread, here and now.

    Of processor time, which is what a free core would take: other processes do not count.

    Returns:
        See `time_figures`.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    size, cameras = model.image_size, len(model.cameras)
    encoder = ObservationEncoder(model)
    images = rng.integers(256, size=(cameras, size, size, 3), dtype=np.uint8)
    depth = np.ones((size, size), np.float32)  # m
    camera = CameraCalibration(
        size, size, np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]])
    )
    frames = [camera_frame(image, size, encoder.needs, depth, camera) for image in images]
    felt = np.zeros(len(model.action_config.proprioception_names), np.float32)
    episode = model.start(None)
    times = np.empty((steps + 20, 2))
    for row in times:
        began = time.process_time()
        tokens = encoder.encode(frames)
        encoded = time.process_time()
        episode.act(tokens, felt)
        row[:] = encoded - began, time.process_time() - encoded
    return time_figures(times[20:])  # the first ones warm up


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


def summarize(played: Iterable[Played], settings: dict[str, Any]) -> dict[str, Any]:
    """Figures by family, then `settings`, then every episode: what the JSON file holds."""
    played = sorted(played, key=lambda p: (FAMILIES.index(p.report.family), p.report.seed))
    groups = {f: [p.report for p in played if p.report.family == f] for f in FAMILIES}
    groups = {family: group for family, group in groups.items() if group}
    wins = {family: sum(r.success for r in group) for family, group in groups.items()}

    def by_family(figure: Any) -> dict[str, Any]:
        return {family: figure(family, group) for family, group in groups.items()}

    return {
        "success": by_family(lambda family, group: wins[family] / len(group)),
        "intervals": by_family(lambda family, group: wilson_interval(wins[family], len(group))),
        "episodes": by_family(lambda _, group: len(group)),
        "mean_seconds": by_family(lambda _, group: _mean(r.seconds for r in group if r.success)),
        "failures": by_family(lambda _, group: _reasons(r for r in group if not r.success)),
        **settings,
        "runs": [_run(one) for one in played],
    }


def _reasons(failed: Iterable[EpisodeReport]) -> Counter[str]:
    """How often each reason; what follows a colon is of one episode only."""
    return Counter(report.reason.partition(":")[0] for report in failed)


def _run(one: Played) -> dict[str, Any]:
    values = {name: _finite(value) for name, value in asdict(one.report).items()}
    if one.measures is not None:
        values |= {"distance": one.measures.distance, "length": one.measures.length}
    return values


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, values: dict[str, Any]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)


# -- of a policy -----------------------------------------------------------------------------------


def on_recordings(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """All figures of a policy on recordings, and what to print of them.

    Raises:
        ValueError: recordings that are not of the policy.
        OSError: a checkpoint or model is not there.
        RuntimeError: a package is missing.
    """
    metrics.require()
    _embedder(arguments)
    model = load_policy(resolve(arguments.checkpoint))
    robot = Robot.load(arguments.robot, arguments.msg)
    recordings = Recordings(model, robot, arguments.checkpoint)
    found = recordings.figures(
        arguments.data, lambda episodes: tqdm(episodes, desc="episodes", unit="episode")
    )
    settings = {
        "robot": arguments.robot,
        "live": False,
        "checkpoint": arguments.checkpoint,
        "data": [str(path) for path in arguments.data],
    }
    runs = found.pop("runs")
    lines = [f"{count} episodes of {source}" for source, count in found["episodes"].items()]
    lines += [f"{count} left out: {reason}" for reason, count in found["left_out"].items()]
    fit = recordings.compatibility
    lines += [fit.table()] if fit.differences else []
    figures = {**found, **settings, "compatibility": fit.rows(), "runs": runs}
    return figures, "\n".join([*lines, comparison(found)])


def in_simulator(
    arguments: argparse.Namespace,
    scenarios: Sequence[Scenario],
    phrasings: Phrasings | None = None,
    reference: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], str]:
    """All figures of a policy in the simulator, and what to print of them.

    Args:
        arguments: of `vla eval`.
        scenarios: under which the episodes are played.
        phrasings: how goals are said; None: as each task says its own.
        reference: figures of another evaluation to compare with.

    Raises:
        ValueError: the policy does not fit the simulated robot, or its actions are not the
            expert's and are to be compared.
        OSError: a checkpoint or model is not there.
        RuntimeError: a package is missing, or a live node ends.
    """
    seeds = check_seeds(arguments.seed, arguments.episodes)
    checkpoint = resolve(arguments.checkpoint)
    model = load_policy(checkpoint)
    fit = fit_to_simulator(model, arguments.checkpoint).require()
    if arguments.metrics:
        metrics.require()
        check_comparable(model.action_config)
    embed = _embedder(arguments)
    episodes = [(family, seed) for seed in seeds for family in arguments.families]
    settings = {
        "robot": arguments.robot,
        "live": arguments.live,
        "checkpoint": arguments.checkpoint,
        "seed": arguments.seed,
        "phrasings": str(arguments.phrasings) if phrasings else None,
        "compatibility": fit.rows(),
        "inference_ms": inference_times(model),
    }
    if arguments.live:
        settings["processes"] = arguments.processes
        processes = "all" if arguments.processes else "aside"
        episodes_played = evaluate_live(
            checkpoint, episodes, processes=processes, cameras=model.cameras
        )
    else:
        settings["latency_ticks"] = arguments.latency_ticks
        episodes_played = evaluate(
            checkpoint,
            episodes,
            scenarios,
            workers=arguments.workers,
            latency_ticks=arguments.latency_ticks,
            phrasings=phrasings,
            measure=arguments.metrics,
        )
    played: dict[Scenario, list[Played]] = {scenario: [] for scenario in scenarios}
    wins, total = 0, len(episodes) * len(scenarios)
    bar = tqdm(episodes_played, total=total, desc="episodes", unit="episode")
    for scenario, one in bar:
        played[scenario].append(one)
        wins += one.report.success
        bar.set_postfix_str(f"{wins} succeeded")
    if arguments.live:
        for name in ("rate", "latency"):
            values = [v for p in played[()] if math.isfinite(v := getattr(p.report, name))]
            settings[f"mean_{name}"] = _mean(values)
    summaries = {}
    for scenario, group in played.items():
        name = scenario_name(scenario)
        beside = compared(group, embed) if arguments.metrics else {}
        summaries[name] = summarize(group, {"condition": name, **beside})
    first, *others = summaries.values()
    figures = {**first, **settings}
    if others:
        figures["conditions"] = summaries
    lines = [fit.table()] if fit.differences else []
    for name, summary in summaries.items():
        lines += [f"-- {name}"] if others else []
        lines.append(table(summary, reference))
        lines += [comparison(summary)] if arguments.metrics else []
    if others:
        lines.append(overview(summaries))
    if arguments.live and settings["mean_rate"] and settings["mean_latency"]:
        lines.append(
            f"{settings['mean_rate']:.1f} action chunks/s, "
            f"{1e3 * settings['mean_latency']:.0f} ms from camera to command (mean of episodes)"
        )
    return figures, "\n".join(lines)


def _embedder(arguments: argparse.Namespace) -> metrics.Embedder | None:
    if arguments.minilm is None:
        return None
    return metrics.SentenceEmbedder(Path(arguments.minilm) if arguments.minilm else None)
