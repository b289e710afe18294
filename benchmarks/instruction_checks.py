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
from vla_ros.scene_language.facts import centimetres, related
from vla_ros.scene_language.instructions import COLORS, DIRECTIONS, FAMILIES, SHAPES, Goal, phrase
from vla_ros.scene_language.references import Unresolved, references, tokens
from vla_ros.scene_language.requests import ground
from vla_ros.scene_language.scenes import BOWL, PAD, Name, Scene
from vla_ros.scene_language.wording import RELATION_PHRASES
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.tasks import sample_task
from vla_ros.sim.truth import scene_of
from vla_ros.training.evaluation import wilson_interval
from vla_ros.training.narrator.sightings import Cameras
from vla_ros.training.phrasings import Phrasings

_FIRST_SEED = 20_000
_ASKS = ("pick up {}", "lift {} please", "put {} on the pad", "drop {} into the bowl", "touch {}")
_SIDES = ("left", "right", "behind", "front")


def outcome(text: str, seen: Scene) -> str | Name | None:
    """The thing that is meant, or the kind of the refusal."""
    try:
        return ground(text, seen).thing
    except Unresolved as error:
        return error.kind


def goal_about(name: Name, family: str, rng: random.Random) -> Goal:
    return Goal(family, *name, rng.choice(DIRECTIONS) if family == "push" else "")


def absent(true: Scene, family: str, rng: random.Random, numbers: np.random.Generator) -> str:
    """About a thing that is not there, by its colour and a noun of its shape."""
    names = [Name(c, s) for c in COLORS for s in SHAPES if Name(c, s) not in true]
    while True:
        text = phrase(goal_about(rng.choice(names), family, rng), numbers)
        if all(r.shapes for r in references(tokens(text)) if r.fixture is None):
            return text  # not "the red thing", which may mean another


def ambiguous(true: Scene, rng: random.Random) -> str | None:
    """About one of two that are called the same."""
    shapes = [name.shape for name, _ in true.things if name not in (PAD, BOWL)]
    twice = [shape for shape in SHAPES if shapes.count(shape) > 1]
    return rng.choice(_ASKS).format(f"the {rng.choice(twice)}") if twice else None


def contradictory(true: Scene, rng: random.Random) -> str | None:
    """A thing that is there, on the other side of another than it is said to be."""
    names = [name for name, _ in true.things]
    for subject in rng.sample(names, len(names)):
        landmark = rng.choice([name for name in names if name != subject])
        for side, other in zip(_SIDES, ("right", "left", "front", "behind"), strict=True):
            if subject not in (PAD, BOWL) and related(side, subject, (landmark,), true):
                words = rng.choice(RELATION_PHRASES[other])
                return f"lift {subject} {words} {landmark}"
    return None


def relational(true: Scene, rng: random.Random) -> tuple[str, Name] | None:
    """A thing by where it is: the only one of its shape there, clearly so."""
    movable = [name for name, _ in true.things if name not in (PAD, BOWL)]
    choices: list[tuple[str, Name]] = []
    for name in movable:
        noun = {"cube": "block", "cylinder": "can"}[name.shape]
        alike = [n for n in movable if n.shape == name.shape]
        if len(alike) < 2:
            continue
        for landmark in [n for n, _ in true.things if n not in alike]:
            for side in _SIDES:
                if [n for n in alike if related(side, n, (landmark,), true)] == [name]:
                    words = rng.choice(RELATION_PHRASES[side])
                    choices.append((f"the {noun} {words} {landmark}", name))
            away = {n: centimetres(true.place_of(n), true.place_of(landmark)) for n in alike}
            if all(away[name] + 4 <= away[n] for n in alike if n != name):
                choices.append((f"the {noun} nearest to {landmark}", name))
    if not choices:
        return None
    said, name = rng.choice(choices)
    return rng.choice(_ASKS).format(said), name


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
        if found := relational(true, rng):
            right["found by where it is"].append(outcome(found[0], seen) == found[1])
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
