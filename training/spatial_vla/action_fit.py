"""The grid of spatial action tokens, fitted to what a robot's recordings hold."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vla_ros.models.spatial_vla.grid import AXES, TRANSLATION, ActionGrid, Gaussian
from vla_ros.models.spatial_vla.layout import ABSENT, SPATIAL, SpatialLayout
from vla_ros.models.spatial_vla.normalization import ActionStatistics
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer
from vla_ros.training.data.notices import say
from vla_ros.training.data.ranges import check_ranges, recorded_ranges
from vla_ros.training.data.recordings import Robot

_STILL_MODES = ("delta", "offset", "velocity")  # of these control modes, zeros are no motion
_MOTION = 6  # of the seven numbers; the gripper is the last


@dataclass(frozen=True)
class ActionFit:
    """What was found in recordings.

    Args:
        tokenizer: of the fitted grid.
        gaussians: of x, y, z and of each axis of the grid, normalised, before min_sigma.
        statistics: what was measured of the seven numbers, in the robot's units (the gripper: 0
            closed, 1 open), in the layout of published checkpoints, without a key.
        axes: float64 [N] of each axis of the grid: what it was fitted to.
        widened: axes that min_sigma made wider.
        error: root mean square of encoding and decoding, of each of the six numbers of motion, in
            the robot's units and of what is not cut off.
        columns: names of the robot's numbers that are the seven.
        still: actions of no motion.
    """

    tokenizer: SpatialActionTokenizer
    gaussians: dict[str, Gaussian]
    statistics: dict[str, Any]
    axes: dict[str, np.ndarray]
    widened: tuple[str, ...]
    error: tuple[float, ...]
    columns: tuple[str, ...]
    still: int


def read_actions(
    robot: Robot, data: Sequence[Path], columns: Sequence[str] = ()
) -> tuple[np.ndarray, int, SpatialLayout]:
    """The known actions of recordings, as [N, 7] in the robot's units, from how many episodes, and
    which numbers they are. Episodes that failed are left out, as in training.

    Raises:
        ValueError: recordings cannot be read, hold no action, are in another unit than the robot's,
            or its actions are none that tokens can say.
    """
    layout = SpatialLayout.of(robot.action, columns)
    found = [*tqdm(robot.episodes(data), desc="episodes", unit="episode")]
    kept = [episode for episode in found if episode.outcome is not False and len(episode)]
    if len(kept) < len(found):
        say(f"{len(found) - len(kept)} of {len(found)} episodes failed or are empty: left out")
    known = [episode.actions[episode.actions_known] for episode in kept]
    if not sum(map(len, known)):
        raise ValueError(f"no action to fit to in {', '.join(map(str, data))}")
    check_ranges(recorded_ranges(kept, robot.action))
    return layout.to_spatial(np.concatenate(known)), len(kept), layout


def measure(actions: np.ndarray, episodes: int, mode: str) -> dict[str, Any]:
    """Statistics of actions [N, 7] in the layout of published checkpoints.

    q01 and q99 are what normalises: in the corrected mode they lie as far on both sides of zero, so
    that zeros stay zeros; the percentiles themselves are there as measured_q01 and measured_q99.
    """
    low, high = np.quantile(actions, (0.01, 0.99), axis=0)
    least, most = actions.min(0), actions.max(0)
    rare = (low == high) & (most > least)
    rare[_MOTION:] = False
    for number in np.flatnonzero(rare):
        say(f"{SPATIAL[number]} moves in less than 2 % of actions: all of its range is kept")
    used_low, used_high = np.where(rare, least, low), np.where(rare, most, high)
    if mode == "corrected":
        reach = np.maximum(np.abs(used_low), np.abs(used_high))
        used_low[:_MOTION], used_high[:_MOTION] = -reach[:_MOTION], reach[:_MOTION]
    return {
        "action": {
            "mean": actions.mean(0).tolist(),
            "std": actions.std(0).tolist(),
            "min": least.tolist(),
            "max": most.tolist(),
            "q01": used_low.tolist(),
            "q99": used_high.tolist(),
            "measured_q01": low.tolist(),
            "measured_q99": high.tolist(),
            "mask": [True] * _MOTION + [False],
        },
        "num_transitions": len(actions),
        "num_trajectories": episodes,
    }


def fit(
    actions: np.ndarray,
    episodes: int,
    layout: SpatialLayout,
    mode: str,
    bins: Mapping[str, int],
    min_sigma: float,
) -> ActionFit:
    """Fit a grid to actions [N, 7] in the robot's units.

    Raises:
        ValueError: the bins of an axis would be empty.
    """
    told = measure(actions, episodes, mode)
    used = ActionStatistics(*(told["action"][name] for name in ("q01", "q99", "mask")))
    normal = used.normalize(actions)
    tokenizer, gaussians, values = fit_grid(normal, mode, bins, min_sigma)
    back = used.unnormalize(tokenizer.decode(tokenizer.encode(normal)))
    lost = (back - used.unnormalize(normal))[:, :_MOTION]
    return ActionFit(
        tokenizer,
        gaussians,
        told,
        {axis: values[axis] for axis in AXES},
        tuple(axis for axis in AXES if gaussians[axis].sigma < min_sigma),
        tuple(np.sqrt((lost**2).mean(0)).tolist()),
        tuple(ABSENT if column is None else layout.names[column] for column in layout.columns),
        int((~normal[:, :_MOTION].any(-1)).sum()),
    )


def fit_grid(
    normal: np.ndarray, mode: str, bins: Mapping[str, int], min_sigma: float
) -> tuple[SpatialActionTokenizer, dict[str, Gaussian], dict[str, np.ndarray]]:
    """A grid for normalised actions [N, 7], the distributions that it follows, and what of each
    axis they were fitted to.

    Raises:
        ValueError: nothing moves, or the bins of an axis would be empty.
    """
    x, y, z, *turns = normal[:, :_MOTION].T
    moving = np.ones(len(normal), bool) if mode == "published" else normal[:, :3].any(-1)
    flat = np.hypot(x, y)
    values = {
        "x": x,
        "y": y,
        "z": z,
        "theta": np.arctan2(flat, z)[moving],
        "phi": np.arctan2(y, x)[moving],
        "r": np.sqrt(flat**2 + z**2)[moving],
        **dict(zip(AXES[len(TRANSLATION) :], turns, strict=True)),
    }
    if not moving.any():
        raise ValueError("no action of the recordings moves: there is nothing to fit to")
    gaussians = {name: Gaussian(float(v.mean()), float(v.std())) for name, v in values.items()}
    grid = ActionGrid.gaussian(gaussians, bins, min_sigma)
    return SpatialActionTokenizer(grid, mode), gaussians, values


def fit_actions(
    robot: Robot,
    data: Sequence[Path],
    out: Path,
    *,
    key: str,
    mode: str = "corrected",
    bins: Mapping[str, int] | None = None,
    min_sigma: float = 0.0,
    columns: Sequence[str] = (),
) -> ActionFit:
    """Fit, and write the grid, the statistics and a picture of both; `files` says where.

    Raises:
        ValueError: as `read_actions` and `fit`.
    """
    actions, episodes, layout = read_actions(robot, data, columns)
    if mode == "corrected" and not any(e in robot.action.control_mode for e in _STILL_MODES):
        say(
            f'control mode {robot.action.control_mode}: "no motion" is told as zeros, which holds '
            "still only where actions are motions, not places"
        )
    found = fit(actions, episodes, layout, mode, bins or {}, min_sigma)
    grid, statistics, picture = files(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = picture.with_name(f".{picture.name}.partial")
    try:
        _draw(found, partial)
        os.replace(partial, picture)
    finally:
        partial.unlink(missing_ok=True)
    _write(statistics, {key: found.statistics})
    _write(
        grid,
        found.tokenizer.to_dict()
        | {
            "gaussians": {name: asdict(each) for name, each in found.gaussians.items()},
            "min_sigma": min_sigma,
            "columns": list(found.columns),
            "statistics": key,
        },
    )
    return found


def files(out: Path) -> tuple[Path, Path, Path]:
    """Where grid, statistics and picture go. Raises ValueError if `out` is no .json file."""
    if out.suffix != ".json":
        raise ValueError(f"--out {out} is no .json file: name one, such as grid.json")
    return out, out.with_name(f"{out.stem}_statistics.json"), out.with_suffix(".png")


def summary(found: ActionFit) -> list[str]:
    """What was fitted, in lines."""
    count, episodes = (found.statistics[f"num_{what}"] for what in ("transitions", "trajectories"))
    lines = [f"{count} actions of {episodes} episodes, {found.still / count:.1%} without motion"]
    lines.append(f"{'axis':6} {'mu':>8} {'sigma':>8} {'finest':>8} {'widest':>8}")
    for axis in AXES:
        width, told = np.diff(found.tokenizer.grid.edges(axis)), found.gaussians[axis]
        note = "  widened by --min-sigma" if axis in found.widened else ""
        lines.append(
            f"{axis:6} {told.mu:8.4f} {told.sigma:8.4f} {width.min():8.4f} {width.max():8.4f}{note}"
        )
    errors = [f"{name} {error:.3g}" for name, error in zip(SPATIAL, found.error, strict=False)]
    lines.append(f"encoded and decoded, off by (root mean square): {', '.join(errors)}")
    return lines


def _write(path: Path, values: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)


def _draw(found: ActionFit, path: Path) -> None:
    """The grid of each axis over a histogram of what it was fitted to."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6))
    for panel, axis in zip(figure.subplots(2, 3).flat, AXES, strict=True):
        edges, told = found.tokenizer.grid.edges(axis), found.gaussians[axis]
        low, high = edges[0], edges[-1]
        panel.hist(found.axes[axis], bins=80, range=(low, high), density=True, color="0.75")
        if told.sigma > 0.0:
            x = np.linspace(low, high, 400)
            curve = np.exp(-0.5 * ((x - told.mu) / told.sigma) ** 2)
            panel.plot(x, curve / (told.sigma * np.sqrt(2 * np.pi)), color="tab:blue")
        for edge in edges:
            panel.axvline(edge, color="tab:red", linewidth=0.5)
        unit = "rad" if axis in ("theta", "phi") else "normalised"
        panel.set(title=f"{axis} ({unit})", yticks=[])
    figure.suptitle("recorded actions, their normal distribution, edges of the bins")
    figure.tight_layout()
    figure.savefig(path, dpi=110, format="png")
