"""How well the policy says what it is doing: `python benchmarks/descriptions.py`.

The policy drives; at every frame its description is held against the scripted expert's, which knows
the scene. Beside it stands the best guess without looking: the instruction's colour and shape, and
the family's most frequent phase.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
from results import add_write_option, write_section
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.scene_language.instructions import COLORS, FAMILIES, SHAPES
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.experts import expert_description
from vla_ros.sim.tasks import sample_task
from vla_ros.training.rollout import Observation, Rollout

# What instructions call a cylinder, and nothing else.
_ROUND = {"cylinder", "can", "tube", "tin", "barrel", "pillar"}


@dataclass(frozen=True)
class Frame:
    instruction: str
    truth: str
    said: str


def frames_of(model: VisionLanguageActionModel, rollout: Rollout, family: str, seed: int):
    """Frames of one episode, with what the policy said at each."""
    task = sample_task(family, seed)
    episode = model.start(task.instruction)
    frames: list[Frame] = []

    def act(observation: Observation) -> np.ndarray:
        truth = expert_description(rollout.world)
        action = episode.act(model.encode(observation.images), observation.proprioception)
        frames.append(Frame(task.instruction, truth, episode.describe()[0]))
        return action.actions

    rollout.run(task, act, max_seconds=10.0, tail_seconds=0.6)
    return frames


def parts(sentence: str) -> tuple[str, str, str]:
    """Phase, colour and shape of a description."""
    words = sentence.split()
    color = next((word for word in words if word in COLORS), "")
    shape = next((word for word in words if word in SHAPES), "")
    return " ".join(word for word in words if word not in (*COLORS, *SHAPES)), color, shape


def blind_guess(frames: list[Frame]) -> list[str]:
    """What can be said about each frame of one family from the instruction alone."""
    phase = Counter(parts(frame.truth)[0] for frame in frames).most_common(1)[0][0]
    guesses = []
    for frame in frames:
        asked = frame.instruction.split()
        color = next(color for color in COLORS if color in asked)
        round_ = _ROUND & set(asked) or "round block" in frame.instruction
        guesses.append(phase.replace("the", f"the {color} {'cylinder' if round_ else 'cube'}", 1))
    return guesses


def agreement(said: list[str], truth: list[str]) -> list[float]:
    """Shares in which sentence, phase, colour and shape agree."""
    pairs = [(parts(one), parts(other)) for one, other in zip(said, truth, strict=True)]
    return [
        float(np.mean([one == other for one, other in pairs])),
        *(float(np.mean([one[i] == other[i] for one, other in pairs])) for i in range(3)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="arm", help="default arm")
    parser.add_argument("--episodes", type=int, default=30, help="of each family; default 30")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; default 0")
    add_write_option(parser)
    options = parser.parse_args()

    model = VisionLanguageActionModel.from_pretrained(resolve(options.checkpoint))
    dt = model.config.action.dt
    rollout = Rollout(ArmWorld(), image_size=model.image_size, dt=dt)
    rows, all_frames, all_guesses = [], [], []
    for family in FAMILIES:
        frames: list[Frame] = []
        seeds = range(options.seed, options.seed + options.episodes)
        for seed in tqdm(seeds, desc=family, unit="episode"):
            frames += frames_of(model, rollout, family, seed)
        guesses = blind_guess(frames)
        rows.append((family, frames, guesses))
        all_frames += frames
        all_guesses += guesses
    rows.append(("all", all_frames, all_guesses))

    lines = [
        "## What the policy says it is doing",
        "",
        f"`python benchmarks/descriptions.py --checkpoint {options.checkpoint} "
        f"--episodes {options.episodes} --seed {options.seed}`",
        "Share of frames in which the whole sentence, and its parts, are the expert's. Without",
        "looking: the instruction's colour and shape, and the family's most frequent phase.",
        "",
        "| family | frames | sentence | phase | colour | shape | sentence without looking |",
        "|---|---|---|---|---|---|---|",
    ]
    for family, frames, guesses in rows:
        truth = [frame.truth for frame in frames]
        shares = agreement([frame.said for frame in frames], truth)
        blind = agreement(guesses, truth)[0]
        cells = " | ".join(f"{share:.1%}" for share in shares)
        lines.append(f"| {family} | {len(frames)} | {cells} | {blind:.1%} |")
    write_section("descriptions", "\n".join(lines), options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
