"""Instructions that need the scene, through the running stack: `python benchmarks/sequences.py`.

Things named by where they are, two and three subtasks one after the other, and what is to be
refused: each is said to the running nodes, and the simulator's physics judge what came of it. What
was played is kept in --out, and a run that was interrupted goes on there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measuring import table
from results import add_write_option, write_section
from tqdm import tqdm

from vla_ros.live import running
from vla_ros.sim.scene_tasks import REFUSED, SCENE_FAMILIES
from vla_ros.training.evaluation import wilson_interval

_KINDS = {
    "relation": "one thing, named by where it is",
    "two-step": "two, one after the other",
    "three-step": "three, one after the other",
    **{kind: f"refused: {kind}" for kind in REFUSED},
}


def played(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The episodes that are there, by family and seed.

    Raises:
        ValueError: a line is none.
    """
    episodes = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            episode = json.loads(line)
            episodes[episode["family"], episode["seed"]] = episode
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}, line {number} is no episode: remove it") from None
    return episodes


def play(todo: Iterable[tuple[str, int]], options: argparse.Namespace) -> None:
    """Play what is to be done, and append each to the file that is kept."""
    stack = running(
        options.checkpoint, narrator=options.narrator, realtime_factor=options.realtime_factor
    )
    with stack as arm, options.out.open("a") as file:
        for family, seed in tqdm(todo, unit="episode"):
            report = arm.play(family, seed)
            file.write(json.dumps(asdict(report)) + "\n")
            file.flush()


def section(episodes: list[dict[str, Any]], command: str) -> str:
    rows = []
    for family, what in _KINDS.items():
        mine = [episode for episode in episodes if episode["family"] == family]
        if not mine:
            continue
        won = [episode for episode in mine if episode["success"]]
        low, high = (100 * bound for bound in wilson_interval(len(won), len(mine)))
        seconds = [f"{sum(e['seconds'] for e in won) / len(won):.1f} s"] if won else ["-"]
        if family in REFUSED:
            seconds = [""]
        share = f"{100 * len(won) / len(mine):.1f}"
        rows.append([what, f"{len(won)}/{len(mine)}", share, f"{low:.1f} to {high:.1f}", *seconds])
    lost = [
        f"- {e['family']} {e['seed']} '{e['instruction']}': {e['reason']}"
        for e in episodes
        if not e["success"]
    ]
    return f"""## Instructions that need the scene, live

`{command}`
Said to the running nodes (ROS 2, the shipped policy and narrator) on tables that
training never sees; things are named by where they are in half of the subtasks where such a name is
clear. The physics judge: each subtask in its order, and nothing else may be moved; of what is to be
refused, that nothing moves. 95 % intervals (Wilson).

{table(["instruction", "right", "%", "95 % interval", "mean time"], rows)}

What failed:

{chr(10).join(lost) or "- none"}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=60, help="of each family (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the first of each (default 0)")
    parser.add_argument("--families", nargs="+", choices=SCENE_FAMILIES, default=SCENE_FAMILIES)
    parser.add_argument("--checkpoint", default="arm", help="of the policy, a name or a folder")
    parser.add_argument("--narrator", default="narrator", help="checkpoint, a name or a folder")
    parser.add_argument(
        "--realtime-factor",
        type=float,
        default=1.0,
        help="simulated seconds per second; less on a busy machine (default 1)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/sequences.jsonl"))
    add_write_option(parser)
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.episodes)
    wanted = [(family, seed) for seed in seeds for family in options.families]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        there = played(options.out)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    if todo := [key for key in wanted if key not in there]:
        play(todo, options)
        there = played(options.out)
    command = f"python benchmarks/sequences.py --episodes {options.episodes} --seed {options.seed}"
    if options.families != SCENE_FAMILIES:
        command += f" --families {' '.join(options.families)}"
    if options.realtime_factor != 1.0:
        command += f" --realtime-factor {options.realtime_factor:g}"
    text = section([there[key] for key in wanted], command)
    write_section("sequences", text, options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
