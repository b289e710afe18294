"""Instructions held against what the narrator sees: `python benchmarks/instruction_checks.py`.

Tables of the simulator, unseen in training, are looked at once from where the arm begins. Of each
an instruction that fits (in the grammar's words, and in those of an outsider) should be followed,
one about a thing that is not there, that may mean two things or that contradicts the scene should
be refused with that reason, and a thing named by where it is should be found. What is true is the
physics'; what is seen is the shipped narrator's reading of the picture.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from results import add_write_option, write_section
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.models.narrator import Narrator
from vla_ros.observations import proprioception
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.scene_language.references import Unresolved
from vla_ros.scene_language.requests import ground
from vla_ros.scene_language.scenes import Name, Scene
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.scene_tasks import absent, ambiguous, ask_for, contradictory, named_by_place
from vla_ros.sim.tasks import sample_task
from vla_ros.sim.truth import scene_of
from vla_ros.training.evaluation import wilson_interval
from vla_ros.training.narrator.sightings import Cameras
from vla_ros.training.phrasings import Phrasings

_FIRST_SEED = 20_000


def outcome(text: str, seen: Scene) -> str | Name | None:
    """The thing that is meant, or the kind of the refusal."""
    try:
        return ground(text, seen).thing
    except Unresolved as error:
        return error.kind


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=500, help="how many (default 500)")
    parser.add_argument("--narrator", default="narrator", help="checkpoint, a name or a folder")
    add_write_option(parser)
    options = parser.parse_args()
    narrator = Narrator.from_pretrained(resolve(options.narrator))
    cameras = Cameras(narrator.config.cameras, narrator.image_size)
    phrasings = Phrasings.load(Path(__file__).parent / "phrasings.json")
    world, kinematics = ArmWorld(), ArmKinematics()
    rng, numbers = random.Random(0), np.random.default_rng(0)
    right: dict[str, list[bool]] = defaultdict(list)
    for number in tqdm(range(options.tables), unit="table"):
        family = FAMILIES[number % len(FAMILIES)]
        task = sample_task(family, _FIRST_SEED + number)
        world.reset(task)
        true, meant = scene_of(world), Name(task.goal.color, task.goal.shape)
        images, _ = cameras.look(world, true)
        joints = proprioception(world.joint_positions(), kinematics)
        seen = narrator.see(narrator.encode(list(images)), joints).scene
        right["followed, in the grammar's words"].append(outcome(task.instruction, seen) == meant)
        said = phrasings.instruction(task.goal, number)
        right["followed, in an outsider's words"].append(outcome(said, seen) == meant)
        text = absent(true, family, rng, numbers)
        right["refused: not there"].append(outcome(text, seen) == "absent")
        if text := ambiguous(true, rng):
            right["refused: may be two"].append(outcome(text, seen) == "ambiguous")
        if text := contradictory(true, rng):
            right["refused: not where it is said to be"].append(
                outcome(text, seen) == "contradictory"
            )
        if found := named_by_place(true, rng):
            said, name = found
            right["found by where it is"].append(outcome(ask_for(said, rng), seen) == name)
    world.close()
    lines = ["| instruction | right | of | % | 95 % interval |", "|---|---|---|---|---|"]
    for what, verdicts in right.items():
        low, high = wilson_interval(sum(verdicts), len(verdicts))
        share = 100 * sum(verdicts) / len(verdicts)
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
        lines.append(f"| {what} | {sum(verdicts)} | {len(verdicts)} | {share:.1f} | {interval} |")
    head = [
        "## Instructions held against the scene",
        "",
        f"`python benchmarks/instruction_checks.py --tables {options.tables}`",
        "Tables of the simulator, unseen in training, each looked at once before the arm moves.",
        "",
    ]
    write_section("instruction_checks", "\n".join(head + lines), options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
