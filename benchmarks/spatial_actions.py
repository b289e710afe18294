"""Spatial action tokens, their speed and error: `python benchmarks/spatial_actions.py`.

The rival is the published scheme written with numpy as straight as can be (np.digitize of each
axis; middles and sines at every decoding), on the same thread. Actions are random; the grid is
fitted to them, or with --grid what `vla fit-actions` wrote.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import table
from results import add_write_option, write_section

from vla_ros.models.spatial_vla.grid import AXES, ROTATION, TRANSLATION, ActionGrid
from vla_ros.models.spatial_vla.layout import SPATIAL, SpatialLayout
from vla_ros.models.spatial_vla.resampling import resample_embeddings
from vla_ros.models.spatial_vla.tokenizer import MODES, SpatialActionTokenizer
from vla_ros.training.spatial_vla.action_fit import fit


class Straight:
    """The published scheme, plainly."""

    def __init__(self, grid: ActionGrid) -> None:
        self.edges = {axis: grid.edges(axis) for axis in AXES}
        self.bins = grid.bins

    def _cell(self, axes: tuple[str, ...], *values: np.ndarray) -> np.ndarray:
        cell = 0
        for axis, each in zip(axes, values, strict=True):
            bin_ = np.clip(np.digitize(each, self.edges[axis]) - 1, 0, self.bins[axis] - 1)
            cell = cell * self.bins[axis] + bin_
        return cell

    def encode(self, actions: np.ndarray) -> np.ndarray:
        x, y, z, *turn = np.clip(actions[:, :6], -1.0, 1.0).T
        theta, phi = np.arctan2(np.sqrt(x**2 + y**2), z), np.arctan2(y, x)
        first = self._cell(TRANSLATION, theta, phi, np.sqrt(x**2 + y**2 + z**2))
        second = 4096 + self._cell(ROTATION, *turn)
        return np.stack([first, second, np.where(actions[:, 6] >= 0.5, 8193, 8192)], 1)

    def _middles(self, axes: tuple[str, ...], cell: np.ndarray) -> list[np.ndarray]:
        places = np.unravel_index(cell, [self.bins[axis] for axis in axes])
        edges = [self.edges[axis] for axis in axes]
        return [0.5 * (e[p] + e[p + 1]) for e, p in zip(edges, places, strict=True)]

    def decode(self, ids: np.ndarray) -> np.ndarray:
        theta, phi, r = self._middles(TRANSLATION, ids[:, 0])
        flat = r * np.sin(theta)
        where = np.stack([flat * np.cos(phi), flat * np.sin(phi), r * np.cos(theta)], 1)
        turn = np.stack(self._middles(ROTATION, ids[:, 1] - 4096), 1)
        return np.concatenate([np.clip(where, -1, 1), turn, ids[:, 2:] - 8192.0], 1)


def rate(work: Callable[[np.ndarray], np.ndarray], given: np.ndarray, seconds: float) -> float:
    """Rows a second: the median of rounds, the first of which does not count."""
    work(given)
    rounds, end = [], time.perf_counter() + seconds
    while len(rounds) < 5 or time.perf_counter() < end:
        begin = time.thread_time()
        work(given)
        rounds.append(time.thread_time() - begin)
    return len(given) / float(np.median(rounds))


def random_actions(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    actions = np.clip(rng.normal(0.0, 0.35, (count, 7)), -1.0, 1.0)
    actions[:, 6] = rng.integers(0, 2, count)
    return actions


def section(grid: ActionGrid, what: str, actions: np.ndarray, seconds: float, command: str) -> str:
    ours = {mode: SpatialActionTokenizer(grid, mode) for mode in MODES}
    straight = Straight(grid)
    ids = straight.encode(actions)
    if not np.array_equal(ids, ours["published"].encode(actions)):
        raise ValueError("the rival encodes something else: the comparison means nothing")
    if not np.allclose(straight.decode(ids), ours["published"].decode(ids), atol=1e-12):
        raise ValueError("the rival decodes something else: the comparison means nothing")
    rows = []
    tokenizers = {"straight numpy, published": straight}
    tokenizers |= {f"SpatialActionTokenizer, {mode}": each for mode, each in ours.items()}
    for name, each in tokenizers.items():
        ids = each.encode(actions)
        back = each.decode(ids)
        wrong = (back - actions)[:, :6]
        rows.append(
            [
                name,
                f"{rate(each.encode, actions, seconds) / 1e6:.2f}",
                f"{rate(each.decode, ids, seconds) / 1e6:.2f}",
                f"{np.sqrt((wrong[:, :3] ** 2).sum(1).mean()):.4f}",
                f"{np.sqrt((wrong[:, 3:] ** 2).sum(1).mean()):.4f}",
                f"{np.abs(each.decode(each.encode(np.zeros((1, 7))))).max():.3g}",
            ]
        )
    header = ["", "encode, M/s", "decode, M/s", "error xyz", "error rpy", "of zeros"]
    begin = time.thread_time()
    embeddings = np.random.default_rng(0).normal(size=(ours["corrected"].vocab_size, 256))
    other = SpatialActionTokenizer(ActionGrid.uniform(), "corrected")
    _, errors = resample_embeddings(embeddings, ours["corrected"], other)
    spent = time.thread_time() - begin
    worst = max(error.centre_max for error in errors.values())
    return (
        f"## Spatial action tokens\n\n`{command}`: {len(actions)} random actions on {what}, one "
        "thread, normalised units (root mean square). The last column is the largest number that "
        f"an action of zeros comes back with.\n\n{table(header, rows)}\n\nEmbeddings of 256 "
        f"numbers resampled onto a uniform grid in {spent:.2f} s; their places are off by "
        f"{worst:.1g} of an axis at most."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", type=Path, metavar="FILE", help="of `vla fit-actions`")
    parser.add_argument("--actions", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    add_write_option(parser)
    options = parser.parse_args()
    actions, command = random_actions(options.actions), "vla bench spatial_actions"
    if not options.grid:
        layout = SpatialLayout(SPATIAL, tuple(range(len(SPATIAL))))
        found = fit(actions, 1, layout, "published", {}, 0.0)
        grid, what = found.tokenizer.grid, "the grid fitted to them"
    else:
        grid = ActionGrid.from_dict(json.loads(options.grid.read_text())["grid"])
        what = f"the grid of {options.grid.name}"
        command += f" --grid {options.grid}"
    text = section(grid, what, actions, options.seconds, command)
    write_section("spatial actions", text, options.write)


if __name__ == "__main__":
    main()
