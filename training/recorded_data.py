"""Recordings made ready for training a policy: written once as shards, split, and told about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vla_ros.scene_language.words import words_of
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.gaps import together
from vla_ros.training.data.notices import say
from vla_ros.training.data.provenance import Provenance, remove_stale
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.shards import EpisodeShard, shard_folders, write_shards
from vla_ros.training.data.sources import Kind, sources
from vla_ros.training.run_folder import settle

_SPLIT_SEED = 0  # which episodes are held out is the same in all runs
_FEW = 4  # episodes; of fewer, none is held out


def shards(
    robot: Robot,
    data: Sequence[Path],
    out: Path,
    image_size: int,
    start: Sequence[Path] = (),
    needs: Collection[str] = (),
) -> Path:
    """Folder of the shards to train from: `data` if they are shards, else out/data.

    What is in out/data is used if it was made from just these recordings, for this robot, by this
    version of the package; else it is made anew, unless training has begun from it.

    Args:
        robot: how recordings are read.
        data: recordings.
        out: folder of the run.
        image_size: pixels.
        start: what else the run depends on.
        needs: what of "depth" and "intrinsics" is trained on beside images.

    Raises:
        ValueError: the run in `out` has begun on other data, or the recordings cannot be read.
    """
    folder, robot = out / "data", robot.seeing(needs)
    settings = {"robot": asdict(robot), "image size": image_size}
    if needs:
        settings["needs"] = sorted(needs)
    read = [*data, *map(Path, robot.msg)]
    now = Provenance.of([*read, *start], settings, Provenance.load(out))
    settle(out, now)
    found = list(sources(data[0])) if len(data) == 1 and data[0].is_dir() else []
    if found and all(kind is Kind.SHARD and place.parent == data[0] for kind, place in found):
        folder = data[0]
    else:
        made_from = Provenance.of(read, settings, now)
        remove_stale(folder, made_from, data)
        if not folder.exists():
            cameras, episodes = _beginning(robot, data)
            write_shards(folder, episodes, cameras, image_size, provenance=made_from, needs=needs)
    shard = EpisodeShard.load(shard_folders(folder)[0])
    if (size := shard.images.shape[2]) != image_size:
        raise ValueError(f"{folder} has images of {size} pixels, the model {image_size}")
    if robot.cameras and tuple(robot.cameras) != shard.cameras:
        raise ValueError(f"{folder} is of cameras {shard.cameras}, not {robot.cameras}")
    for episode in shard.episodes():
        robot.check(episode)
    return folder


def _beginning(robot: Robot, data: Sequence[Path]) -> tuple[Sequence[str], Iterator[Episode]]:
    """Cameras, and all episodes; the first is read at once, and tells the cameras."""
    episodes = robot.episodes(data)
    first = next((episode for episode in episodes if len(episode)), None)
    if first is None:
        raise ValueError(f"no episodes in {', '.join(map(str, data))}")

    def all_of_them() -> Iterator[Episode]:
        yield first
        yield from episodes

    cameras = robot.cameras or first.cameras
    if not cameras:
        raise ValueError(f"{first.name} has no pictures: a policy needs a camera")
    return cameras, tqdm(all_of_them(), desc="episodes", unit="episode")


def load(folder: Path) -> list[Episode]:
    """The episodes of shards, but for those that failed; their pictures stay on disk.

    Raises:
        ValueError: there are none.
    """
    found = map(EpisodeShard.load, shard_folders(folder))
    there = [episode for shard in found for episode in shard.episodes() if len(episode)]
    kept = [episode for episode in there if episode.outcome is not False]
    if len(kept) < len(there):
        say(f"{len(there) - len(kept)} of {len(there)} episodes failed and are left out")
    if not kept:
        raise ValueError(f"{folder} holds no episode to learn from; {len(there)} failed")
    return kept


def split(episodes: Sequence[Episode], share: float) -> tuple[list[Episode], list[Episode]]:
    """Episodes to train on, and those held out: one of each so many in a row, at random.

    Of a few at least one is held out; of fewer than four none. Parts of an episode that was cut at
    gaps stay together: they are of one demonstration.
    """
    rng = np.random.default_rng(_SPLIT_SEED)
    groups = together(episodes)
    row, count = max(round(1 / share), 1), len(groups)
    held = {begin + int(rng.integers(row)) for begin in range(0, count, row)}
    if count < _FEW:
        held = set()
    elif not 0 < len(held & {*range(count)}) < count:
        held = {min(held) % count}
    parts = [
        [e for i, group in enumerate(groups) if (i in held) == out for e in group]
        for out in (False, True)
    ]
    return parts[0], parts[1]


def summary(trained: Sequence[Episode], held: Sequence[Episode]) -> list[str]:
    """What a policy is about to be trained on, in lines."""
    episodes = [*trained, *held]
    frames = sum(map(len, episodes))
    lines = [f"{len(episodes)} episodes, {frames} frames: {len(held)} held out"]
    if not held:
        lines[0] += ", as there are so few; losses called held out are of what is trained on"
    instructions = Counter(" ".join(words_of(e.instruction)) for e in episodes)
    silent = instructions.pop("", 0)
    if not instructions:
        lines.append(
            "no episode has an instruction: the policy is trained without, and heeds no words; any "
            "instruction starts it"
        )
    elif silent:
        lines.append(
            f"{silent} of {len(episodes)} episodes have no instruction: they teach what to do when "
            "nothing is asked of the robot, which the nodes never do; others have "
            f"{len(instructions)} instructions"
        )
    return lines
