"""Mixtures of public datasets: which, by what weight, and what each one's numbers mean.

open_x.yaml beside this file has those of Open X-Embodiment; a file of one's own has the same keys,
and may name the datasets of that one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from vla_ros.models.spatial_vla.layout import SPATIAL
from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.rlds_mapping import RldsMapping, camera_name
from vla_ros.training.data.settings_file import check_keys, fill, read
from vla_ros.training.spatial_vla.conventions import CONTROL_MODE, Convention, converted

_TABLE = Path(__file__).parent / "mixtures" / "open_x.yaml"


@dataclass(frozen=True)
class Source:
    """One dataset.

    Args:
        dt: s between steps.
        cameras: features whose pictures are learned from.
        action, state: features whose numbers the convention counts, one after the other.
        instruction: a text feature; None: what most datasets call it.
        codes: a feature with the instruction's characters as numbers, instead of it.
        convention: what the numbers mean.
        version: the folder's name of the only version that can be relied on; "" for any.

    Raises:
        ValueError: no time between steps, or no camera.
    """

    dt: float
    cameras: Sequence[str]
    action: Sequence[str] = ("steps/action",)
    state: Sequence[str] = ()
    instruction: str | None = None
    codes: str = ""
    convention: Convention = Convention()
    version: str = ""

    def __post_init__(self) -> None:
        if not 0.0 < self.dt < math.inf:
            raise ValueError(f"dt is {self.dt}: give the seconds between steps")
        if not self.cameras:
            raise ValueError("cameras is empty: name one")
        if self.codes and self.instruction:
            raise ValueError("instruction and codes both tell what is asked: give one")

    def dataset(self, chunk: int) -> PublicDataset:
        """How its recordings are read, for chunks of so many motions."""
        action = ActionConfig(
            robot_type="arm",
            action_dim=len(SPATIAL),
            action_bounds=[(-2.0, 2.0)] * 3 + [(-math.pi, math.pi)] * 3 + [(0.0, 1.0)],
            joint_names=(),
            action_names=SPATIAL,
            binary_names=SPATIAL[-1:],
            control_mode=CONTROL_MODE,
            horizon=chunk,
            dt=self.dt,
        )
        mapping = {
            "cameras": tuple(self.cameras),
            "depths": (),
            "action": tuple(self.action),
            "state": (*self.state, *([self.codes] if self.codes else ())),
            "instruction": "" if self.codes else self.instruction,
            "dt": self.dt,
            "control_mode": self.convention.motion,
        }
        cameras = tuple(map(camera_name, self.cameras))
        return PublicDataset(
            action, cameras, rlds=mapping, convention=self.convention, codes=self.codes
        )

    def folder(self, root: Path, name: str) -> Path:
        """Where the dataset is below `root`.

        Raises:
            ValueError: it is not there.
        """
        place = root / name / self.version if self.version else root / name
        if not place.is_dir():
            raise ValueError(
                f"dataset {name} is not in {root}: put it at {place}, or leave it out by --exclude"
            )
        return place


@dataclass(frozen=True)
class PublicDataset(Robot):
    """A dataset whose episodes are read by its own convention, and come by this package's.

    Args:
        convention: see there.
        codes: feature of the instruction's characters, the last one of the state; "" for none.
    """

    convention: Convention = field(default_factory=Convention)
    codes: str = ""

    def _open_rlds(self, path: Path) -> Iterator[Episode]:
        from vla_ros.training.data.rlds import RldsDataset, open_rlds

        dataset, count = RldsDataset(path), 0
        if self.codes and self.codes in dataset.features:
            count = math.prod(size or 0 for size in dataset.features[self.codes].shape)
        for episode in open_rlds(path, RldsMapping(**self.rlds)):
            yield converted(episode, self.convention, count)


def load_mixture(name: str, exclude: Sequence[str] = ()) -> dict[str, tuple[Source, float]]:
    """Datasets of a mixture and their weights, by name.

    Args:
        name: of a mixture of open_x.yaml or a dataset of it, or a YAML file; a file with several
            mixtures is told as FILE:NAME.
        exclude: datasets to leave out.

    Raises:
        ValueError: no such mixture, dataset or file; or a file in which something is wrong, with
            the place in it.
    """
    sources, mixtures = map(dict, _table(_TABLE))
    path, _, inside = name.partition(":")
    if path.endswith((".yaml", ".yml")):
        if not Path(path).is_file():
            raise ValueError(f"--data_mix {path} does not exist")
        more, mixtures = _table(Path(path))
        sources |= more
        if not inside and len(mixtures) != 1:
            there = ", ".join(mixtures) or "none"
            raise ValueError(f"tell which mixture of {path} by {path}:NAME: there are {there}")
        chosen = inside or next(iter(mixtures))
    else:
        chosen = name
        mixtures = {**{each: {each: 1.0} for each in sources}, **mixtures}
    if chosen not in mixtures:
        near = difflib.get_close_matches(chosen, mixtures, 1)
        cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(mixtures)}"
        raise ValueError(f"no mixture or dataset {chosen!r}: {cure}")
    weights = mixtures[chosen]
    for each in (*weights, *exclude):
        if each not in sources or (each in exclude and each not in weights):
            near = difflib.get_close_matches(each, weights if each in exclude else sources, 1)
            cure = f": did you mean {near[0]}?" if near else ""
            where = f"mixture {chosen}" if each in exclude else str(path)
            raise ValueError(f"{where} has no dataset {each!r}{cure}")
    left = {
        each: (sources[each], weight) for each, weight in weights.items() if each not in exclude
    }
    if not left:
        raise ValueError(f"nothing is left of mixture {chosen}")
    return left


@cache
def _table(path: Path) -> tuple[dict[str, Source], dict[str, Mapping[str, float]]]:
    told = read(path)
    try:
        check_keys(told, ("datasets", "mixtures"))
        for key in ("datasets", "mixtures"):
            if not isinstance(told.get(key, {}), dict):
                raise ValueError(f"{key} has no names")
        sources = {
            name: fill(Source, entry, f"datasets.{name}")
            for name, entry in told.get("datasets", {}).items()
        }
        mixtures = {}
        for name, weights in told.get("mixtures", {}).items():
            place = f"mixtures.{name}"
            if not isinstance(weights, dict) or not weights:
                raise ValueError(f"{place} has no datasets with weights")
            for each, weight in weights.items():
                number = isinstance(weight, int | float) and not isinstance(weight, bool)
                if not number or not 0.0 < weight < math.inf:
                    raise ValueError(f"{place}.{each} is {weight!r}: give a weight above 0")
            mixtures[name] = {each: float(weight) for each, weight in weights.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return sources, mixtures
