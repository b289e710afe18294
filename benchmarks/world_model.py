"""What the world model imagines beside copying the last frame: `python benchmarks/world_model.py`.

Videos are of the simulated arm on seeds that training never sees. Every clip is imagined from its
first frames four times: with the latent actions that its real frames led to, with those of another
clip, with random ones, and with those of what the robot was told. Intervals are of resampled
episodes (bootstrap, 95 %), since clips of one episode are alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measuring import machine, ms, now, table
from results import add_write_option, write_section
from torch import Tensor
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.models.genie.genie import WorldModel
from vla_ros.models.genie.quantizers import codebook_use
from vla_ros.training.data.clips import Clips, videos
from vla_ros.training.data.episode import Episode
from vla_ros.training.genie_robot_actions import plan
from vla_ros.training.genie_rollouts import (
    Sampling,
    frame_psnr,
    frame_ssim,
    imagine,
    random_actions,
)
from vla_ros.training.genie_videos import collect
from vla_ros.training.metrics import resampled_interval
from vla_ros.training.world_model import pixels, psnr

SEEN, HORIZON = 4, 8  # frames of a clip: seen, and imagined
STEPS = (1, 4, 8)
DELTA = 4  # frames after which delta-PSNR is measured (Genie, section 3)
MOVED = 0.06  # of the range of pixels: what moved since the last frame seen
SEED = 7  # of the videos; training's is 0
BATCH = 16
RESAMPLES = 2000


@dataclass
class Clip:
    """One clip: which episode it is of, its frames, tokens and actions, and what came of them."""

    episode: int
    frames: Tensor  # [T, 3, S, S]
    tokens: Tensor  # [T, N]
    actions: Tensor  # [T - 1], inferred
    robot: Tensor  # [HORIZON], of what the robot was told
    imagined: dict[str, Tensor]  # [HORIZON, 3, S, S]


def clips_of(world: WorldModel, episodes: Sequence[Episode]) -> list[Clip]:
    """Clips that follow each other in each episode, in its first phase."""
    length = SEEN + HORIZON
    source = Clips(episodes, world.config.camera, world.config.dt)
    found = []
    for number, episode in enumerate(tqdm(episodes, desc="clips")):
        stride = source.strides[number]
        whole = np.arange(0, len(episode), stride)
        for first in range(0, len(whole) - length + 1, HORIZON):
            index = whole[first : first + length]
            frames = pixels(torch.from_numpy(source.frames(number, index))[None])
            with torch.inference_mode():
                tokens = world.tokenizer.encode(frames)[0]
                _, actions, _ = world.latent_actions(frames)
                robot = robot_codes(world, episode, int(index[SEEN - 1]), stride)
            found.append(Clip(number, frames[0], tokens, actions[0], robot, {}))
    return found


def robot_codes(world: WorldModel, episode: Episode, begin: int, stride: int) -> Tensor:
    """Latent actions of what the robot was told from frame `begin` on, as a plan made then."""
    chances = world.robot.rollout(
        torch.from_numpy(plan(episode, begin, HORIZON * stride)),
        torch.tensor(episode.proprioception[begin]),
    )
    return chances.argmax(-1)


def imagine_all(world: WorldModel, clips: list[Clip]) -> None:
    """Fill in what is imagined."""
    order = np.random.default_rng(0).permutation(len(clips))
    for first in tqdm(range(0, len(clips), BATCH), desc="imagining"):
        group = clips[first : first + BATCH]
        tokens = torch.stack([clip.tokens for clip in group])
        before = torch.stack([clip.actions for clip in group])
        others = torch.stack([clips[i].actions for i in order[first : first + BATCH]])
        chosen = {
            "inferred": before[:, SEEN - 1 :],
            "shuffled": others[:, SEEN - 1 :],
            "random": random_actions(before[:, SEEN - 1 :], world.codes, first),
            "robot": torch.stack([clip.robot for clip in group]),
        }
        shown: dict[str, Tensor] = {}
        last = torch.stack([clip.frames[SEEN - 1] for clip in group])
        for name, later in chosen.items():
            actions = torch.cat([before[:, : SEEN - 1], later], dim=1)
            seen = tokens[:, :SEEN]
            shown[name] = imagine(world.tokenizer, world.dynamics, seen, actions, last, Sampling())[
                1
            ]
        with torch.inference_mode():
            shown["reconstructed"] = world.tokenizer.decode(tokens, last)[:, SEEN:]
            shown["alone"] = world.tokenizer.decode(tokens)[:, SEEN:]
        shown["copied"] = last[:, None].expand_as(shown["inferred"])
        for i, clip in enumerate(group):
            clip.imagined = {name: frames[i] for name, frames in shown.items()}


def moving_error(clip: Clip, name: str, step: int) -> tuple[float, float]:
    """Squared error of what moved until a step, summed; and over how many numbers."""
    real, told = clip.frames[SEEN + step - 1], clip.imagined[name][step - 1]
    moved = (real - clip.frames[SEEN - 1]).abs().amax(0) > MOVED
    return float(((real - told) ** 2)[:, moved].sum()), 3.0 * float(moved.sum())


def resampled(values: np.ndarray, episodes: np.ndarray, figure) -> tuple[float, float, float]:
    """`figure` of the rows of all clips, and its interval over resampled episodes."""
    rows = [np.flatnonzero(episodes == number) for number in np.unique(episodes)]

    def of(chosen: np.ndarray) -> float:
        return figure(values[np.concatenate([rows[i] for i in chosen])])

    return figure(values), *resampled_interval(of, [len(rows)], RESAMPLES)


def said(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f})"


def token_rows(world: WorldModel, clips: list[Clip]) -> list[list[str]]:
    """How many tokens of the next frame are right, all of them hidden and drawn at once."""
    right = copied = changed = right_changed = total = 0
    model = world.dynamics
    for clip in tqdm(clips, desc="tokens"):
        past = None
        with torch.inference_mode():
            for t in range(len(clip.tokens)):
                now, action = clip.tokens[t][None], clip.actions[t - 1][None] if t else None
                if t >= SEEN:
                    hidden = torch.full_like(now, model.hidden)
                    guess = model.step(hidden, action, past)[0].argmax(-1)
                    differs = now != clip.tokens[t - 1]
                    right += int((guess == now).sum())
                    right_changed += int((guess == now)[differs].sum())
                    changed += int(differs.sum())
                    copied += int((~differs).sum())
                    total += now.numel()
                _, _, past = model.step(now, action, past)
    return [
        ["all tokens", f"{right / total:.1%}", f"{copied / total:.1%}"],
        [
            f"those that change ({changed / total:.0%})",
            f"{right_changed / max(changed, 1):.1%}",
            "0.0%",
        ],
    ]


def speed(world: WorldModel) -> tuple[float, float]:
    """Median seconds of processor time for frame 2 and frame 16 of an imagination."""
    dream = world.start()
    size = world.image_size
    for _ in range(SEEN):
        dream.observe(np.zeros((size, size, 3), np.uint8))
    runs = []
    for _ in range(7):
        times, began = [], now("cpu")
        for _ in dream.imagine(latent_actions=[0] * 16):
            times.append(now("cpu") - began)
            began = now("cpu")
        runs.append(times)
    middle = np.median(runs, axis=0)
    return float(middle[1]), float(middle[15])


def report(world: WorldModel, clips: list[Clip], checkpoint: str, told: str) -> str:
    episodes = np.array([clip.episode for clip in clips])
    names = {
        "inferred": "imagined, inferred actions",
        "robot": "imagined, robot's actions",
        "shuffled": "imagined, another clip's actions",
        "copied": "last frame copied",
        "reconstructed": "tokenizer: the real tokens and the last frame seen",
        "alone": "tokenizer: the real tokens alone",
    }
    rows, moving_rows = [], []
    per_clip: dict[str, np.ndarray] = {}
    real = torch.stack([clip.frames[SEEN:] for clip in clips])
    for name in (*names, "random"):
        shown = torch.stack([clip.imagined[name] for clip in clips])
        per_clip[name] = frame_psnr(real, shown).numpy()
        if name not in names:
            continue
        alike = frame_ssim(real, shown).mean(0)
        rows.append(
            [names[name]]
            + [f"{per_clip[name][:, s - 1].mean():.2f} / {alike[s - 1]:.3f}" for s in STEPS]
        )
        errors = np.array([[moving_error(clip, name, s) for s in STEPS] for clip in clips])
        decibel = [-10 * np.log10(e[0] / e[1]) for e in errors.sum(0)]
        moving_rows.append([names[name], *(f"{value:.2f}" for value in decibel)])
    gains = []
    for name in ("inferred", "robot"):
        errors = np.array(
            [[moving_error(clip, which, DELTA) for which in (name, "copied")] for clip in clips]
        )
        gain = resampled(
            errors[:, :, 0],
            episodes,
            lambda e: float(10 * np.log10(e[:, 1].sum() / e[:, 0].sum())),
        )
        gains.append([names[name], said(gain)])
    delta = per_clip["inferred"][:, DELTA - 1] - per_clip["random"][:, DELTA - 1]
    controllable = resampled(delta, episodes, lambda d: float(d.mean()))
    tokens = torch.cat([clip.tokens.flatten() for clip in clips])
    latent = torch.cat([clip.actions[SEEN - 1 :] for clip in clips])
    told_right = torch.cat([clip.robot for clip in clips]) == latent
    share = torch.bincount(latent, minlength=world.codes).double()
    likely = float(share.max() / share.sum())
    second, sixteenth = speed(world)
    size = (resolve(checkpoint) / "model.safetensors").stat().st_size / 1e6
    with torch.inference_mode():
        again = torch.stack([world.tokenizer.decode(clip.tokens[None])[0] for clip in clips])
    everything = torch.stack([clip.frames for clip in clips])
    tokenized = float(psnr(((again - everything) ** 2).mean((-1, -2, -3))).mean())
    vocabulary = world.config.tokenizer.vocabulary
    head = ["", *(str(step) for step in STEPS)]
    return f"""## World model: what is imagined

`python benchmarks/world_model.py {told}`
on {machine("plain torch")}.

{len(clips)} clips of {len(np.unique(episodes))} episodes of the simulated arm, on seeds that were
never trained on (camera, lights and table vary as in training); {SEEN} frames are seen and
{HORIZON} imagined, {world.config.dt:g} s apart. PSNR of whole frames (dB) / SSIM after so many
frames:

{table(head, rows)}

PSNR (dB) of the pixels that moved since the last frame seen:

{table(head, moving_rows)}

How much better than copying the last frame on those, after {DELTA} frames, dB:

{table(["", "gain (95 % interval)"], gains)}

Delta-PSNR after {DELTA} frames, inferred less random actions: {said(controllable)} dB. The latent
action of what the robot was told is the inferred one in {told_right.float().mean():.0%} of steps;
the most frequent one would be in {likely:.0%}.

Tokenizer: {tokenized:.2f} dB, {codebook_use(tokens, vocabulary):.0%} of {vocabulary} codes and
{codebook_use(latent, world.codes):.0%} of {world.codes} latent actions in use. Tokens of the next
frame, all hidden and guessed at once from the real frames before:

{table(["", "right", "copied ones right"], token_rows(world, clips))}

The checkpoint has {size:.1f} MB. Imagining frame 2 takes {ms(second)} ms, frame 16
{ms(sixteenth)} ms ({sixteenth / second:.2f} times) of one thread."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="world", help="a shipped one, or a folder")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--videos", type=Path, default=Path("runs/world/held-out"))
    add_write_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    world = WorldModel.from_pretrained(resolve(arguments.checkpoint))
    collect(arguments.videos, arguments.episodes, SEED, world.image_size)
    episodes = videos(
        [arguments.videos], None, world.config.camera, world.image_size, arguments.videos
    )
    clips = clips_of(world, episodes)
    imagine_all(world, clips)
    told = f"--checkpoint {arguments.checkpoint} --episodes {arguments.episodes}"
    write_section("world_model", report(world, clips, arguments.checkpoint, told), arguments.write)


if __name__ == "__main__":
    main()
