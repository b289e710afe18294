"""Play a world model, by a list of latent actions, a robot's plan, or the keyboard.

Leaves imagined.mp4 and imagined.png in a folder; with --grid codes.png, what each latent action
does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.models.genie.genie import Dream, Imagined, WorldModel
from vla_ros.training.data.episode import Episode
from vla_ros.training.genie_sheets import (
    Run,
    contact_sheet,
    film_frame,
    meanings,
    motion_table,
    save,
)
from vla_ros.training.genie_starts import (
    Start,
    motions,
    of_episode,
    of_files,
    recorded_episodes,
    simulated_episodes,
)
from vla_ros.training.genie_terminal import Terminal
from vla_ros.video import Video

_REPEATS = 4  # frames of a code in the grid
_STARTS = 3  # of the grid
_FAMILY = "pick"


def imagine(arguments: argparse.Namespace, codes: Sequence[int] | None) -> None:
    """Do what `vla imagine` is told; `codes` are latent actions.

    Raises:
        ValueError: where it begins cannot be read, or does not fit the world model.
        OSError: the checkpoint is not there.
    """
    world = WorldModel.from_pretrained(resolve(arguments.checkpoint))
    if arguments.grid is not None:
        show_codes(arguments, world)
    elif arguments.play:
        terminal = Terminal()
        start = _start(arguments, world)
        dream = start.watched(world)
        with terminal, filmed(arguments.out, start, world.config.dt) as film:
            play(dream, terminal, film, world)
        for run in film.runs:
            print("played: " + ",".join(map(str, run.codes)))
    else:
        start = _start(arguments, world)
        imagined = _imagined(start, start.watched(world), codes)
        with filmed(arguments.out, start, world.config.dt) as film:
            for one in imagined:
                film.add(one)
        if len(start.real):
            print(_figures(film.runs[0]))
    print(f"look at {arguments.out}")


# -- where it begins -------------------------------------------------------------------------------


def _start(arguments: argparse.Namespace, world: WorldModel) -> Start:
    if arguments.files:
        return of_files(arguments.files, world)
    horizon, acted = arguments.plan or 0, arguments.plan is not None
    if horizon > world.config.longest:
        raise ValueError(f"--plan is {horizon} frames: give 1 to {world.config.longest}")
    (episode,) = _episodes(arguments, world, 1, arguments.family or _FAMILY)
    return of_episode(episode, arguments.at, horizon, world, acted=acted)


def _episodes(
    arguments: argparse.Namespace, world: WorldModel, count: int, family: str | None
) -> list[Episode]:
    """The episodes asked for, one or more; of recordings maybe fewer than `count`."""
    if not arguments.data:
        wander = arguments.grid is not None  # what experts never do is to be seen too
        found = simulated_episodes(arguments.seed or 0, count, family, world, wander=wander)
        return list(tqdm(found, total=count, desc="simulated episodes", disable=count == 1))
    first = arguments.episode or 0
    episodes = recorded_episodes(arguments.data, arguments.robot)
    if not (found := list(islice(episodes, first, first + count))):
        raise ValueError(f"no episode {first} in {', '.join(map(str, arguments.data))}")
    return found


# -- imagining -------------------------------------------------------------------------------------


def _imagined(start: Start, dream: Dream, codes: Sequence[int] | None) -> Iterator[Imagined]:
    if codes is None:
        return dream.imagine(actions=start.actions, proprioception=start.proprioception)
    return dream.imagine(latent_actions=codes)


class Film:
    """A video, and the `runs` that are in it.

    Args:
        add_frame: takes the frames of the video.
        start: of every run.
        dt: s between frames.
    """

    def __init__(self, add_frame: Callable[[np.ndarray], None], start: Start, dt: float) -> None:
        self._add_frame, self._start, self._dt = add_frame, start, dt
        self.runs: list[Run] = []

    def begin(self) -> None:
        """Begin a run: show what was seen."""
        seen = self._start.seen
        self.runs.append(Run(seen[-1], self._start.real))
        for number, frame in enumerate(seen):
            when = self._dt * (number + 1 - len(seen))
            self._add_frame(film_frame(("seen", frame), ("imagined", None), f"{when:+.1f} s"))

    def add(self, imagined: Imagined) -> None:
        """Show the next frame of the run."""
        run = self.runs[-1]
        left = ("last seen", run.start)
        if len(run.real):
            left = ("what really came", run.real[len(run.frames)])
        run.frames.append(imagined.frame)
        run.codes.append(imagined.latent_action)
        words = f"+{self._dt * len(run.frames):.1f} s   latent action {imagined.latent_action}"
        self._add_frame(film_frame(left, ("imagined", imagined.frame), words))


@contextmanager
def filmed(out: Path, start: Start, dt: float) -> Iterator[Film]:
    """A film whose first run has begun; in the end its video and contact sheet are in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with Video(out / "imagined.mp4", 1 / dt) as video:
        film = Film(video.add, start, dt)
        film.begin()
        yield film
        sheet = contact_sheet(film.runs, dt)
    save(sheet, out / "imagined.png")


def play(dream: Dream, terminal: Terminal, film: Film, world: WorldModel) -> None:
    """Imagine by keys until q is pressed: a digit is the next frame's latent action, r begins
    anew. `film` has begun."""
    keys, longest = terminal.keys(), world.config.longest
    digits = [str(code) for code in range(min(world.codes, 10))]
    pressed = ""

    def chosen() -> Iterator[int]:
        nonlocal pressed
        for pressed in keys:
            if pressed in digits:
                yield int(pressed)
            elif pressed in ("r", "q"):
                return
        pressed = "q"  # the terminal was closed

    while True:
        run = film.runs[-1]
        hint = f"keys 0-{digits[-1]}: next frame, r: begin anew, q: end"
        terminal.draw(run.start, f"seen; {hint}")
        for one in dream.play(chosen()):
            film.add(one)
            words = f"frame {len(run.frames)} of {longest}, latent action {one.latent_action}"
            terminal.draw(one.frame, f"{words}; {hint}")
        while pressed not in ("r", "q"):  # as long as can be
            pressed = next(keys, "q")
        if pressed == "q":
            return
        pressed = ""
        film.begin()


def _figures(run: Run) -> str:
    real = np.asarray(run.real)
    copied = np.broadcast_to(run.start, real.shape)
    one, other = (_psnr(real, np.asarray(guess)) for guess in (run.frames, copied))
    return f"imagined {one:.1f} dB from what came (mean PSNR), the last frame seen {other:.1f} dB"


def _psnr(real: np.ndarray, guess: np.ndarray) -> float:
    """dB, mean over frames uint8 [H, S, S, 3]."""
    error = ((real.astype(np.float64) - guess) ** 2).mean((1, 2, 3)) / 255**2
    return float((-10 * np.log10(np.maximum(error, 1e-10))).mean())


# -- what latent actions do ------------------------------------------------------------------------


def show_codes(arguments: argparse.Namespace, world: WorldModel) -> None:
    """Write codes.png; print how the tool moved with each latent action, if episodes tell."""
    found = None
    if arguments.files:
        starts = [of_files(arguments.files, world)]
    else:
        episodes = _episodes(arguments, world, arguments.grid, arguments.family)
        starts = _spread(episodes, arguments.at, world)
        found = motions(episodes, world)
    dreams = [start.watched(world) for start in starts]
    repeats = min(_REPEATS, world.config.longest)
    imagined = [
        [[one.frame for one in d.imagine(latent_actions=[code] * repeats)] for d in dreams]
        for code in tqdm(range(world.codes), desc="latent actions")
    ]
    picture = meanings([start.seen[-1] for start in starts], imagined, world.config.dt, found)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save(picture, arguments.out / "codes.png")
    if found:
        print(motion_table(found))


def _spread(episodes: Sequence[Episode], at: float | None, world: WorldModel) -> list[Start]:
    """Where the grid begins: at `at` of the first episodes, or here and there in all of them."""
    if at is not None:
        return [of_episode(episode, at, 0, world) for episode in episodes[:_STARTS]]
    found = []
    for i in range(_STARTS):
        episode = episodes[i * len(episodes) // _STARTS]
        moment = (i + 1) / (_STARTS + 1) * (len(episode) - 1) * episode.dt
        found.append(of_episode(episode, moment, 0, world))
    return found
