"""What SpatialVLA is trained on: demonstrations of one robot, or of the datasets of a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainingArguments

from vla_ros.models.spatial_vla.grid import BINS
from vla_ros.models.spatial_vla.layout import SpatialLayout
from vla_ros.models.spatial_vla.motions import Motions
from vla_ros.models.spatial_vla.normalization import ActionStatistics
from vla_ros.models.spatial_vla.policy import SpatialContract, prompt_of
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer
from vla_ros.paths import check_there
from vla_ros.scene_language.words import words_of
from vla_ros.training.data.notices import say
from vla_ros.training.data.provenance import Provenance
from vla_ros.training.data.recordings import Robot
from vla_ros.training.recorded_data import load, shards
from vla_ros.training.run_folder import settle
from vla_ros.training.spatial_vla.action_fit import fit_grid, measure
from vla_ros.training.spatial_vla.arguments import Data
from vla_ros.training.spatial_vla.demonstrations import Demonstration, read_recordings
from vla_ros.training.spatial_vla.mixing import Mixture
from vla_ros.training.spatial_vla.mixtures import PublicDataset, load_mixture
from vla_ros.training.spatial_vla.samples import SpatialSamples


@dataclass(frozen=True)
class Part:
    """One dataset.

    Args:
        key: name of its statistics.
        robot: how it is read.
        folders: its recordings.
        weight: of what is drawn.
        columns: see `SpatialLayout.of`.
        cameras: see `read_recordings`.
    """

    key: str
    robot: Robot
    folders: tuple[Path, ...]
    weight: float = 1.0
    columns: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()

    @property
    def layout(self) -> SpatialLayout:
        return SpatialLayout.of(self.robot.action, self.columns)


@dataclass(frozen=True)
class Read:
    """A part with its demonstrations."""

    part: Part
    trained: Sequence[Demonstration]
    held: Sequence[Demonstration]
    cameras: tuple[str, ...]

    def actions(self) -> np.ndarray:
        """[N, 7], each known motion once, in the robot's units.

        Raises:
            ValueError: there is none.
        """
        known = [one.motions[one.known[:, 0], 0] for one in self.trained]
        if not sum(map(len, known)):
            raise ValueError(f"no motion of {self.part.key} is known: there is nothing to learn")
        return np.concatenate(known)


def parts(data: Data, chunk: int) -> list[Part]:
    """What is told, checked as far as that goes without reading it.

    Args:
        chunk: actions of the model; a robot's horizon becomes as many.

    Raises:
        ValueError: an unknown robot, mixture or dataset, folders that are not there, actions that
            tokens cannot say.
    """
    if data.data:
        paths = tuple(map(Path, data.data))
        check_there(paths)
        robot = Robot.load(data.robot, [*map(Path, data.msg)])
        robot = replace(robot, action=replace(robot.action, horizon=chunk))
        key = data.unnorm_key or Path(data.robot).stem
        part = Part(key, robot, paths, 1.0, tuple(data.columns), tuple(data.cameras))
        Motions(robot.action, part.layout)
        return [part]
    root, found = Path(data.data_root_dir), load_mixture(data.data_mix, data.exclude)
    check_there([root])
    missing = [name for name, (source, _) in found.items() if not _there(source, root, name)]
    if missing:
        lines = "all of them" if len(missing) == len(found) else ", ".join(missing)
        raise ValueError(
            f"--data_root_dir {root} lacks datasets of {data.data_mix}: {lines}: put each at "
            "NAME/VERSION there, or leave them out by --exclude"
        )
    if data.unnorm_key and len(found) > 1:
        raise ValueError("--unnorm_key is for one dataset: those of a mixture have their names")
    return [
        Part(data.unnorm_key or name, source.dataset(chunk), (source.folder(root, name),), weight)
        for name, (source, weight) in found.items()
    ]


def _there(source: Any, root: Path, name: str) -> bool:
    try:
        source.folder(root, name)
    except ValueError:
        return False
    return True


def read(
    told: Sequence[Part], out: Path, image_size: int, held_out: float, args: TrainingArguments
) -> list[Read]:
    """Demonstrations of all parts, written once at the size of the model's images below out/data.

    Raises:
        ValueError: the run in `out` has begun on other data, or data cannot be read.
    """
    found = []
    with args.main_process_first(local=False):
        single = len(told) == 1 and not isinstance(told[0].robot, PublicDataset)
        if not single:
            settings = {part.key: [asdict(part.robot), part.weight] for part in told}
            paths = [folder for part in told for folder in part.folders]
            settle(out, Provenance.of(paths, {"mixture": settings}, Provenance.load(out)))
        for part in told:
            place = out if single else out / "data" / part.key
            share = held_out or 1e-9
            motions = Motions(part.robot.action, part.layout)
            cameras = part.cameras or tuple(part.robot.cameras)
            if not cameras:
                cameras = load(shards(part.robot, part.folders, place, image_size))[0].cameras
            trained, held = read_recordings(
                part.robot, part.folders, place, image_size, motions, cameras, share
            )
            if not held_out:
                trained, held = [*trained, *held], []
            frames = sum(map(len, trained))
            say(f"{part.key}: {len(trained)} episodes, {frames} frames; {len(held)} held out")
            found.append(Read(part, trained, held, tuple(cameras)))
    return found


def statistics(
    found: Sequence[Read], known: Mapping[str, Any], mode: str, chosen: str = ""
) -> dict[str, Any]:
    """Statistics of each part by its key: those that a checkpoint has, else measured.

    Args:
        known: of the checkpoint.
        chosen: a key that the user named.
    """
    made = {}
    for each in found:
        key = each.part.key
        if key in known:
            whose = "as told" if chosen else "the checkpoint has them"
            say(f"statistics {key!r}: {whose}, not measured anew")
            made[key] = known[key]
        else:
            made[key] = measure(each.actions(), len(each.trained), mode)
    return made


def grid(
    found: Sequence[Read],
    told: Mapping[str, Any],
    mode: str,
    bins: Mapping[str, int] = BINS,
    min_sigma: float = 0.02,
) -> SpatialActionTokenizer:
    """A grid fitted to the normalised motions of all parts together.

    Raises:
        ValueError: nothing moves, or the bins of an axis would be empty.
    """
    normal = []
    for each in found:
        one = told[each.part.key]["action"]
        used = ActionStatistics(one["q01"], one["q99"], one["mask"])
        normal.append(used.normalize(each.actions()))
    return fit_grid(np.concatenate(normal), mode, bins, min_sigma)[0]


def mixture(
    found: Sequence[Read], processor: SpatialVLAProcessor, data: Data
) -> tuple[Mixture, Mixture | None]:
    """Samples to train on, and held-out ones, if there are any.

    Raises:
        ValueError: see `SpatialSamples`.
    """

    def samples(demonstrations: Sequence[Demonstration], key: str, augment: bool) -> Any:
        return SpatialSamples(demonstrations, processor, key, prompt=data.prompt, augment=augment)

    trained = {each.part.key: samples(each.trained, each.part.key, data.augment) for each in found}
    held = {each.part.key: samples(each.held, each.part.key, False) for each in found if each.held}
    return Mixture(trained), Mixture(held) if held else None


def contract(found: Sequence[Read], data: Data) -> SpatialContract | None:
    """What the tokens mean to the robot; None of a mixture, which is of no robot."""
    if len(found) != 1:
        return None
    part = found[0].part
    texts = {text for one in found[0].trained for text in set(one.instructions)}
    words = tuple(sorted({word for text in texts for word in words_of(text)}))
    return SpatialContract(
        part.robot.action, found[0].cameras, part.columns, part.key, data.prompt, words or None
    )


def prompts(found: Sequence[Read], data: Data) -> list[str]:
    """All that is asked in the demonstrations, for a tokenizer of words."""
    texts = {text for each in found for one in each.trained for text in set(one.instructions)}
    return sorted(prompt_of(text, data.prompt) for text in texts)
