"""Learning from 25 real episodes of BridgeData: `python benchmarks/bridge.py FOLDER`.

Five times another fifth of the episodes is kept away from training altogether; of the rest, some
are held out to choose the best weights by. Errors are of those kept away, which no choice saw.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import machine, table
from results import add_write_option, write_section

from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.training import imitation
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.shards import write_shards

ROBOT = str(Path(__file__).parents[1] / "config/widowx.yaml")
RECIPE = imitation.Recipe(
    steps=40, frames=256, warmup=20, save_every=10, held_out=0.2, learning_rate=5e-4
)
FOLDS = 5


def fold(number: int, episodes: list[Episode], out: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Squared errors of the model and of the mean action, [A]; and by what the loss fell."""
    kept = episodes[number::FOLDS]
    rest = [episode for i, episode in enumerate(episodes) if i % FOLDS != number]
    write_shards(out / "shards", rest, Robot.load(ROBOT).cameras, 64)
    best = imitation.train(RECIPE, [out / "shards"], ROBOT, out / "run").with_name("best")
    write_shards(out / "kept", kept, Robot.load(ROBOT).cameras, 64)
    model = VisionLanguageActionModel.from_pretrained(best)
    errors, of_mean = imitation.held_out_errors(model, rest, imitation.load(out / "kept"))
    losses = [
        float(row["held_out"])
        for row in csv.DictReader((out / "run/losses.csv").open())
        if row["held_out"]
    ]
    return errors.mean(0), of_mean.mean(0), losses[0] / min(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="folder of bridge_dataset/1.0.0")
    add_write_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    robot = Robot.load(ROBOT)
    episodes = list(robot.episodes([arguments.dataset]))
    names = robot.action.action_names
    began = time.process_time()
    results = []
    for number in range(FOLDS):
        with tempfile.TemporaryDirectory() as out:
            results.append(fold(number, episodes, Path(out)))
    spent = time.process_time() - began
    errors, of_mean = (np.array([result[i] for result in results]) for i in (0, 1))
    spread = np.concatenate([episode.actions for episode in episodes]).var(0)
    over_variance = [errors / spread, of_mean / spread]
    rows = [
        row("all, as they are", errors.sum(1).mean(), of_mean.sum(1).mean()),
        row("all, each over its variance", *(part.mean() for part in over_variance)),
        *map(row, names, errors.mean(0), of_mean.mean(0)),
    ]
    better = int((over_variance[0].mean(1) < over_variance[1].mean(1)).sum())
    falls = [result[2] for result in results]
    dataset = Path(*arguments.dataset.parts[-2:])
    text = f"""## Learning from real recordings

`python benchmarks/bridge.py {dataset}`
on {machine("native kernels")}.

25 episodes of 10 frames of BridgeData (a WidowX arm, four instructions), one camera, chunks of
{robot.action.horizon} actions; {RECIPE.steps} steps of {RECIPE.frames} frames,
{spent / FOLDS:.0f} s of the trainer's processor time a fold. Five folds: 20 episodes to learn from,
5 to test;
the weights are chosen by the loss on 4 of the 20, which falls by a factor of {min(falls):.2f} to
{max(falls):.2f} from the tenth step on. Mean squared error of the actions of a chunk:

{table(["action", "policy", "the mean action", "ratio"], rows)}

The policy is better in {better} of {FOLDS} folds (each number over its variance)."""
    write_section("bridge", text, arguments.write)


def row(name: str, error: float, of_mean: float) -> list[str]:
    return [name, f"{error:.3g}", f"{of_mean:.3g}", f"{error / of_mean:.2f}"]


if __name__ == "__main__":
    main()
