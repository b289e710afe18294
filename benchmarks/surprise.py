"""Whether surprise tells faults from normal running: `python benchmarks/surprise.py`.

Episodes are of the simulated arm on seeds that training never sees, driven by the plain expert and
by the wandering one in turns. The thresholds are of normal episodes, the false holds of others. The
unit is a step of the world model. Intervals are of resampled episodes (bootstrap, 95 %).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import matplotlib
import numpy as np
import torch
from measuring import machine, ms, now, table
from results import add_write_option, write_section

from vla_ros.checkpoints import resolve
from vla_ros.models.genie.genie import Dream, WorldModel
from vla_ros.training.data.clips import stride_of
from vla_ros.training.evaluation import wilson_interval
from vla_ros.training.genie_faults import Fault, FaultyEpisode, collect, load
from vla_ros.training.genie_robot_actions import plan
from vla_ros.training.metrics import auroc, resampled_interval

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

CALIBRATION, EVALUATION = 1, 2  # seeds of episodes
PHASES, FAULTY_PHASES = (0, 1, 2, 3), (0, 2)  # of an episode at the world model's period
RIVAL_PHASE = 0  # rivals take longer
SLOW, HOLD = 1e-2, 5e-4  # of the steps of calibration that are above the threshold
RESAMPLES = 1000
SECOND = 5  # steps
RIVALS = {
    "told": "told another step's actions",
    "likelihood": "-log likelihood of the frame",
    "likelihood told": "the same, told another step's actions",
    "pixels": "pixels' difference from the frame before",
}


@dataclass
class Watched:
    """One episode in one phase: of each step but the first.

    Args:
        end: s into the episode.
        shows: whether the fault can be seen in the step.
        since: s from the fault's onset to the step's end; negative before.
        surprise: as published.
        unexpected: [X, 2], what it is made of.
        rivals: their figures; empty if they were not asked for.
        cost: s of processor time to observe the frame.
    """

    episode: int
    end: np.ndarray
    shows: np.ndarray
    since: np.ndarray
    surprise: np.ndarray
    unexpected: np.ndarray
    rivals: dict[str, np.ndarray]
    cost: np.ndarray

    @property
    def after(self) -> np.ndarray:
        """Whether the fault began in the step or up to a second before its beginning."""
        return (self.since > 0) & (self.since <= 1.2 + 1e-6)


def likelihood(world: WorldModel, dream: Dream, frame: np.ndarray, told: dict) -> float:
    """-log likelihood of the next frame, nats a token, in two rounds, over all actions."""
    memory = dream._memory
    with torch.inference_mode():
        tokens, _ = world.tokenizer.encode_step(dream._pixels(frame), memory.encoder)
        chances = dream._chances(None, **told)
        likely = (chances > 1e-3).nonzero()[:, 0]
        found = world.dynamics.log_likelihood(tokens[:, 0], likely, memory.dynamics)
        return -float(torch.logsumexp(chances[likely].log() + found, 0)) / tokens.shape[-1]


def watch(
    world: WorldModel, number: int, faulty: FaultyEpisode, phase: int, rivals: bool
) -> Watched:
    """Let the world model see an episode, told what the robot was told."""
    episode = faulty.episode
    stride = stride_of(episode, world.config.dt)
    index = list(range(phase, len(episode), stride))
    frames = list(episode.frames(world.config.camera, 0, len(episode)))
    begins = index[:-1]
    told = [
        {"actions": plan(episode, i, stride), "proprioception": episode.proprioception[i]}
        for i in begins
    ]
    others = np.random.default_rng(number).permutation(len(told))
    dream = world.start()
    dream.observe(frames[index[0]])
    rows = []
    for step, i in enumerate(begins):
        frame, other = frames[i + stride], told[others[step]]
        row = {}
        if rivals:
            row["likelihood"] = likelihood(world, dream, frame, told[step])
            row["likelihood told"] = likelihood(world, dream, frame, other)
            row["pixels"] = float(np.abs(frame.astype(float) - frames[i]).mean())
            memory = dream._memory
            row["told"] = dream.observe(frame, **other).surprise
            dream._memory = memory
        began = now("cpu")
        observed = dream.observe(frame, **told[step])
        row["cost"] = now("cpu") - began
        rows.append(row | {"surprise": observed.surprise, "unexpected": observed.unexpected})
    ends = episode.stamps[[i + stride for i in begins]]
    kept = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Watched(
        number,
        ends,
        np.array([faulty.shows(i, i + stride) for i in begins]),
        ends - faulty.onset,
        kept.pop("surprise"),
        kept.pop("unexpected"),
        cost=kept.pop("cost"),
        rivals=kept,
    )


def watch_all(
    checkpoint: Path, folder: Path, fault: Fault | None, part: int, parts: int, rivals: bool
) -> list[Watched]:
    """Every `parts`-th episode of a folder in all its phases."""
    torch.set_num_threads(1)
    world = WorldModel.from_pretrained(checkpoint)
    found = []
    for number, faulty in list(enumerate(load(folder, fault)))[part::parts]:
        for phase in FAULTY_PHASES if fault else PHASES:
            if phase + stride_of(faulty.episode, world.config.dt) < len(faulty.episode):
                found.append(watch(world, number, faulty, phase, rivals and phase == RIVAL_PHASE))
    return found


def resampled(
    faulty: dict[int, np.ndarray], normal: dict[int, np.ndarray]
) -> tuple[float, float, float]:
    """AUROC of the values of episodes, and its interval over resampled episodes."""
    groups = [list(faulty.values()), list(normal.values())]

    def of(*drawn: Iterable[int]) -> float:
        pairs = zip(groups, drawn, strict=True)
        return auroc(*(np.concatenate([group[i] for i in chosen]) for group, chosen in pairs))

    whole = of(*(range(len(group)) for group in groups))
    return whole, *resampled_interval(of, [len(group) for group in groups], RESAMPLES)


def by_episode(
    watched: Sequence[Watched], values: Callable[[Watched], np.ndarray]
) -> dict[int, np.ndarray]:
    """`values` of the steps of each episode, if it has any."""
    found: dict[int, list[np.ndarray]] = {}
    for one in watched:
        found.setdefault(one.episode, []).append(values(one))
    joined = {number: np.concatenate(parts) for number, parts in found.items()}
    return {number: x for number, x in joined.items() if len(x)}


def seconds(one: Watched) -> np.ndarray:
    """The highest surprise in each second of a normal episode."""
    whole = len(one.surprise) // SECOND * SECOND
    return one.surprise[:whole].reshape(-1, SECOND).max(1)


def worst(one: Watched) -> np.ndarray:
    """The highest surprise in the second after a fault, if it can be seen in it."""
    return one.surprise[one.after].max(keepdims=True) if one.shows.any() else np.zeros(0)


def said(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f} to {found[2]:.3f})"


def fault_row(
    fault: Fault, watched: Sequence[Watched], normal: Sequence[Watched], hold: float
) -> list[str]:
    steps = resampled(
        by_episode(watched, lambda one: one.surprise[one.shows]),
        by_episode(normal, lambda one: one.surprise),
    )
    whole = resampled(by_episode(watched, worst), by_episode(normal, seconds))
    visible = [one for one in watched if one.shows.any()]
    above = np.concatenate([one.surprise[one.shows] > hold for one in visible])
    delays = []
    for one in visible:
        alarms = np.flatnonzero((one.surprise > hold) & one.after)
        if len(alarms):
            delays.append(alarms[0] - np.flatnonzero(one.after)[0] + 1)
    return [
        fault.value,
        str(len(above)),
        said(steps),
        said(whole),
        f"{above.mean():.0%}",
        f"{len(delays) / len(visible):.0%}",
        f"{np.mean(delays):.1f}" if delays else "-",
    ]


def rival_row(
    name: str, faults: dict[Fault, list[Watched]], normal: Sequence[Watched]
) -> list[str]:
    def values(one: Watched) -> np.ndarray:
        return one.surprise if name == "ours" else one.rivals[name]

    kept = [one for one in normal if one.rivals]
    low = np.concatenate([values(one) for one in kept])
    row = [RIVALS.get(name, "surprise")]
    for watched in faults.values():
        high = np.concatenate([values(one)[one.shows] for one in watched if one.rivals])
        row.append(f"{auroc(high, low):.3f}")
    return row


def draw(faults: dict[Fault, list[Watched]], slow: float, hold: float, picture: Path) -> None:
    """Surprise over time in one episode of each fault."""
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 5), sharey=True)
    for axis, (fault, watched) in zip(axes.flat, faults.items(), strict=True):
        one = max((w for w in watched if w.rivals), key=lambda w: w.shows.sum())
        axis.plot(one.end, one.surprise, marker="o", markersize=3, color="black")
        axis.axvline(one.end[0] - one.since[0], color="tab:red", label="onset")
        axis.axhline(hold, color="tab:red", linestyle="--", linewidth=0.8, label="hold")
        axis.axhline(slow, color="tab:orange", linestyle="--", linewidth=0.8, label="slow")
        axis.set(title=fault.value, xlabel="s", ylabel="surprise")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="world", help="a shipped one, or a folder")
    parser.add_argument(
        "--episodes", type=int, default=80, help="normal ones, twice as many in all"
    )
    parser.add_argument("--faulty", type=int, default=40, help="episodes of each fault")
    parser.add_argument("--out", type=Path, default=Path("runs/world/surprise"))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    add_write_option(parser)
    arguments = parser.parse_args()
    checkpoint = resolve(arguments.checkpoint)
    torch.set_num_threads(1)
    size = WorldModel.from_pretrained(checkpoint).image_size
    wanted = {
        "calibration": (None, arguments.episodes, CALIBRATION),
        "normal": (None, arguments.episodes, EVALUATION),
        **{fault.value: (fault, arguments.faulty, EVALUATION) for fault in Fault},
    }
    found: dict[str, list[Watched]] = {}
    workers = arguments.workers
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for name, (fault, count, seed) in wanted.items():
            folder = arguments.out / f"{name.replace(' ', '-')}-{count}"
            collect(folder, fault, count, seed, size)
            common = (repeat(x) for x in (checkpoint, folder, fault))
            rest = (repeat(workers), repeat(name != "calibration"))
            parts = pool.map(watch_all, *common, range(workers), *rest)
            found[name] = [one for part in parts for one in part]
            print(f"{name}: {sum(len(one.surprise) for one in found[name])} steps", flush=True)
    told = (
        f"--checkpoint {arguments.checkpoint} --episodes {arguments.episodes} "
        f"--faulty {arguments.faulty}"
    )
    write_section("surprise", report(found, arguments.out, told), arguments.write)


def report(found: dict[str, list[Watched]], out: Path, told: str) -> str:
    usual = np.concatenate([one.surprise for one in found["calibration"]])
    slow, hold = (float(np.quantile(usual, 1 - share, method="higher")) for share in (SLOW, HOLD))
    normal = found["normal"]
    faults = {fault: found[fault.value] for fault in Fault}
    draw(faults, slow, hold, out / "surprise.png")
    steps = np.concatenate([one.surprise for one in normal])
    held = int((steps > hold).sum())
    low, high = (1000 * bound for bound in wilson_interval(held, len(steps)))
    episodes = len({one.episode for one in normal})
    rows = [fault_row(fault, watched, normal, hold) for fault, watched in faults.items()]
    head = [
        "fault", "steps", "AUROC, steps", "AUROC, seconds", "steps above hold", "faults found",
        "after steps",
    ]  # fmt: skip
    rivals = [rival_row(name, faults, normal) for name in ("ours", *RIVALS)]
    cost = float(np.median(np.concatenate([one.cost for one in normal])))
    return f"""## World model: surprise

`python benchmarks/surprise.py {told}`
on {machine("plain torch")}.

Episodes of the simulated arm on seeds that were never trained on; in half of them the expert
wanders. A step is {1 / SECOND:g} s. The threshold to slow down, {slow:.2f}, is exceeded in
{SLOW:.0%} of {len(usual)} normal steps, that to hold, {hold:.2f}, in {HOLD:.2%}; of {len(steps)}
steps of {episodes} other normal episodes, {(steps > slow).mean():.1%} are above the first and
{held} above the second: {1000 * held / len(steps):.2f} false holds in 1000 steps ({low:.2f} to
{high:.2f}, Wilson). Observing a frame takes {ms(cost)} ms of processor time.

Steps with a fault are those of the second after its onset in which it can be seen: of a frozen
camera those in which the arm moves by 1 cm or more, of a blocked arm those in which it is told to;
of an object that an unseen hand moves (3.5 to 5.5 cm, at once or at 0.15 to 0.4 m/s) those in
which it moves by 1 cm or more; of the light (0.5 to 0.8 or 1.25 to 1.6 times as strong, at once)
the one in which it changes. AUROC is of those against all steps of normal episodes; beside it, of
the highest surprise in the second after the onset against that in each second of normal episodes.
Found is a fault with a surprise above the threshold to hold in that second.

{table(head, rows)}

AUROC of steps for other scores (below 0.5: less than usual; a frozen camera is told by a difference
of exactly nothing, which otherwise happens in the simulator only at rest):

{table(["", *(fault.value for fault in Fault)], rivals)}"""


if __name__ == "__main__":
    main()
