"""RLDS datasets (Open X-Embodiment, Bridge, DROID, ...) as episodes, read without TensorFlow.

A dataset is a folder that tensorflow-datasets wrote: features.json says what an episode consists
of, dataset_info.json which files hold it, and each record of those TFRecord files is one episode
(Ramos et al. 2021, "RLDS: an ecosystem to generate, share and use datasets in reinforcement
learning").
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.observations import CameraCalibration
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.gaps import steady_parts
from vla_ros.training.data.rlds_features import Feature, Record, features_by_path
from vla_ros.training.data.rlds_mapping import OBSERVATION, RldsMapping, camera_name
from vla_ros.training.data.rlds_times import step_times, time_feature
from vla_ros.training.data.tfrecord import read_record, read_records

# Where this package wrote the dataset: what RLDS has no place for.
OWN = "vla_ros"  # key of metadata.json
SUCCESS = "episode_metadata/success"  # 1, 0, or -1 for not known
KNOWN = "steps/action_is_known"  # bool; without it, what RLDS says of the last step holds
CALIBRATIONS = "calibrations"  # of cameras, which are the same in all episodes
METADATA = ("robot", "control_mode", "dt", "action_names", "proprioception_names")
_FIRST, _LAST, _TERMINAL = (f"steps/is_{what}" for what in ("first", "last", "terminal"))
_STATES = ("steps/observation/state", "steps/observation/proprio")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MOST_NUMBERS = 10_000  # of an action or a state
_INSTRUCTIONS = (
    "steps/language_instruction",
    "steps/observation/natural_language_instruction",
    "steps/observation/language_instruction",
)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What goes wrong with the content of a JSON file is an error that names it."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error!s:.400}") from None
    except RecursionError:
        raise ValueError(f"{path} is damaged: it is nested too deeply") from None


def _checked_metadata(told: dict[str, Any]) -> dict[str, Any]:
    """Raises TypeError or ValueError for what no dataset of this package has."""
    if not isinstance(told, dict):
        raise TypeError(f"{OWN} is {told!r}")
    for name, value in told.items():
        if name in ("robot", "control_mode") and not isinstance(value, str):
            raise TypeError(f"{name} is {value!r}")
        names = name in ("action_names", "proprioception_names")
        if names and not (isinstance(value, list) and all(isinstance(n, str) for n in value)):
            raise TypeError(f"{name} is {value!r}")
        if name == CALIBRATIONS:
            value = {camera: CameraCalibration.from_dict(one) for camera, one in value.items()}
        if name == "dt" and not 0.0 < float(value) < math.inf:
            raise ValueError(f"dt is {value!r}")
    return told


class RldsDataset:
    """One version's folder of an RLDS dataset: its features and its files.

    Raises:
        ValueError: not such a folder, or one in another format than TFRecord.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._info = self._json("dataset_info.json")
        told = self._json("features.json")
        with _damage(self.folder / "features.json"):
            self.features: dict[str, Feature] = dict(features_by_path(told))
        if not any(key.startswith("steps/") for key in self.features):
            raise ValueError(f"{self.folder}/features.json has no steps: it is not an RLDS dataset")
        file_format = self._info.get("fileFormat", "tfrecord")
        if file_format != "tfrecord":
            raise ValueError(f"{self.folder} is stored as {file_format}: convert it to tfrecord")
        # Of the datasets that this package writes; others may have a metadata.json of their own.
        there = (self.folder / "metadata.json").exists()
        own = self._json("metadata.json").get(OWN, {}) if there else {}
        with _damage(self.folder / "metadata.json"):
            self.metadata: dict[str, Any] = _checked_metadata(own)

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            versions = sorted(str(found.parent) for found in self.folder.glob(f"*/{name}"))
            hint = f": name one of {', '.join(versions)}" if versions else ""
            raise ValueError(f"{self.folder} has no {name}, so it is not an RLDS dataset{hint}")
        try:
            content = json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} does not hold an object")
        return content

    def shards(self, split: str) -> list[tuple[Path, int]]:
        """Files of a split, in order, and how many episodes are in each.

        Raises:
            ValueError: there is no such split, it is empty, or files are missing.
        """
        with _damage(self.folder / "dataset_info.json"):
            splits = {
                str(entry["name"]): [int(n) for n in entry.get("shardLengths", ())]
                for entry in self._info.get("splits", ())
            }
            templates = {
                str(entry["name"]): entry.get("filepathTemplate") or _TEMPLATE
                for entry in self._info.get("splits", ())
            }
        lengths = splits.get(split, [])
        if not sum(lengths):
            trouble = "is empty" if split in splits else "does not exist"
            sizes = [f"{name} ({sum(counts)})" for name, counts in splits.items()]
            raise ValueError(
                f"{self.folder}: split {split!r} {trouble}; splits and their episodes: "
                f"{', '.join(sizes) or 'none'}"
            )
        found = []
        for index, length in enumerate(lengths):
            place, of = f"{index:05d}", f"{len(lengths):05d}"
            with _damage(self.folder / "dataset_info.json"):
                path = self.folder / templates[split].format(
                    DATASET=self._info.get("name", ""),
                    SPLIT=split,
                    FILEFORMAT="tfrecord",
                    SHARD_X_OF_Y=f"{place}-of-{of}",
                    SHARD_INDEX=place,
                    NUM_SHARDS=of,
                )
            if not path.is_file():
                raise ValueError(f"{path} is missing: split {split!r} has {len(lengths)} files")
            found.append((path, length))
        return found

    def require(self, key: str, suits: Callable[[Feature], bool], what: str) -> Feature:
        """The feature `key`. Raises ValueError, which lists the features that would suit."""
        feature = self.features.get(key)
        if feature is None or not suits(feature):
            there = f"is {feature}" if feature else "does not exist"
            others = [name for name, other in self.features.items() if suits(other)]
            raise ValueError(
                f"{self.folder}: {key!r} {there}, so it is not {what}; those are: "
                f"{', '.join(others) or 'none'}"
            )
        return feature


def open_rlds(
    folder: Path, mapping: RldsMapping | None = None, split: str = "train"
) -> Iterator[Episode]:
    """Episodes of one split, one after the other.

    One encoded episode is in memory at a time: RLDS stores each as one record, and pictures are
    read from it again when they are asked for.

    Raises:
        ValueError: at once, if the folder or the mapping is wrong; while iterating, if a file is
            truncated, corrupt or does not hold what features.json says.
    """
    source = _Source(RldsDataset(folder), mapping or RldsMapping(), split)
    return source.episodes()


class _Source:
    """A split with its mapping settled."""

    def __init__(self, dataset: RldsDataset, mapping: RldsMapping, split: str) -> None:
        self._dataset, self._split = dataset, split
        self._shards = dataset.shards(split)
        features = dataset.features
        cameras, depths, state, instruction = (
            mapping.cameras,
            mapping.depths,
            mapping.state,
            mapping.instruction,
        )
        if cameras is None:
            cameras = [k for k, f in features.items() if k.startswith(OBSERVATION) and f.is_colour]
        if depths is None:
            there = [f"{camera}_depth" for camera in cameras]
            depths = [key for key in there if key in features and features[key].is_depth]
        if state is None:
            blind = dataset.metadata.get("proprioception_names") == []
            state = [] if blind else [_first(_STATES, features)]
        if instruction is None:
            instruction = _first(_INSTRUCTIONS, features)
        if not mapping.action:
            raise ValueError(f"{dataset.folder}: name at least one feature as the action")
        for keys, suits, what in (
            (cameras, lambda feature: feature.is_colour, "a camera"),
            (depths, lambda feature: feature.is_depth, "a depth camera"),
            ((*mapping.action, *state), lambda feature: feature.is_numeric, "numbers"),
            ([instruction] if instruction else [], lambda feature: feature.is_text, "a text"),
        ):
            for key in keys:
                dataset.require(key, suits, what)
        self._stamp, self._asked_stamp = time_feature(features, mapping.stamp), mapping.stamp
        if self._stamp:
            dataset.require(self._stamp, lambda feature: feature.is_numeric, "numbers")
        self._cameras = {camera_name(key): key for key in cameras}
        self._depths = {camera_name(key).removesuffix("_depth"): key for key in depths}
        self._state, self._action, self._instruction = state, mapping.action, instruction
        self._settings = self._settled(mapping)
        self._calibrations = {
            camera: CameraCalibration.from_dict(values)
            for camera, values in dataset.metadata.get(CALIBRATIONS, {}).items()
            if camera in self._cameras
        }

    def _settled(self, mapping: RldsMapping) -> dict[str, Any]:
        """Arguments of every Episode: as the mapping says, or as the dataset does."""
        folder = self._dataset.folder
        settings = {
            "robot": "",
            "control_mode": "",
            "dt": None,
            "action_names": self._names("action", self._action),
            "proprioception_names": self._names("state", self._state),
            **self._dataset.metadata,
        }
        for name in METADATA:
            if getattr(mapping, name) is not None:
                settings[name] = getattr(mapping, name)
        if settings["dt"] is None:
            raise ValueError(
                f"{folder} does not say how fast it was recorded: give dt, the seconds between "
                "steps"
            )
        for name, keys in (("action_names", self._action), ("proprioception_names", self._state)):
            given, size = len(settings[name]), self._size(keys)
            if given != size:
                raise ValueError(
                    f"{folder}: {given} {name} were given for the {size} numbers of "
                    f"{', '.join(keys) or 'no feature'}"
                )
        return {name: settings[name] for name in METADATA}

    def _size(self, keys: Sequence[str]) -> int:
        size = sum(math.prod(self._dataset.features[key].shape) for key in keys)
        if size > _MOST_NUMBERS:
            raise ValueError(
                f"{self._dataset.folder}: {', '.join(keys)} would be {size} numbers a step, more "
                f"than the {_MOST_NUMBERS} that are read"
            )
        return size

    def _names(self, what: str, keys: Sequence[str]) -> list[str]:
        return [f"{what}_{index}" for index in range(self._size(keys))]

    def episodes(self) -> Iterator[Episode]:
        place = 0
        for path, length in self._shards:
            first = place
            for offset, data in read_records(path):
                for episode in self._episodes(path, offset, data, f"{self._split}[{place}]"):
                    yield from steady_parts(episode)
                place += 1
            if place - first != length:
                raise ValueError(
                    f"{path} holds {place - first} episodes, not the {length} that "
                    "dataset_info.json counts: copy it again"
                )

    def _episodes(self, path: Path, offset: int, data: bytes, place: str) -> Iterator[Episode]:
        """What a record holds: an episode, or several where its steps say that another begins."""
        name = f"{self._dataset.folder}:{place}"
        features = self._dataset.features
        record = Record.parse(name, features, data)
        columns = {key: record.numbers(key) for key in (*self._action, *self._state)}
        length = len(columns[self._action[0]])
        for key, column in columns.items():
            if len(column) != length:
                raise ValueError(f"{name}: {key!r} has {len(column)} steps, not {length}")
        pictured = (*self._cameras.values(), *self._depths.values())
        worded = [self._instruction] if self._instruction.startswith("steps/") else []
        for key in (*pictured, *worded):
            if (count := record.steps(key)) != length:
                raise ValueError(f"{name}: {key!r} has {count} steps, not {length}")
        dt, asked = float(self._settings["dt"]), bool(self._asked_stamp)
        stamps, noted = step_times(record, self._stamp, length, dt, asked)
        success = max(record.integers(SUCCESS), default=-1) if SUCCESS in features else -1

        def readers(keys: Mapping[str, str], begin: int) -> dict[str, _Pictures]:
            return {
                camera: _Pictures(path, offset, name, key, features[key], begin)
                for camera, key in keys.items()
            }

        def joined(keys: Sequence[str]) -> np.ndarray:
            return np.concatenate([np.empty((length, 0)), *map(columns.get, keys)], axis=1)

        felt, told = joined(self._state), joined(self._action)
        own = bool(self._dataset.metadata)
        known, begins, notes = _flags(record, length, own)
        notes += noted
        parts = list(zip(begins, [*begins[1:], length], strict=True))
        for number, (begin, end) in enumerate(parts):
            part = slice(begin, end)
            yield Episode(
                name=name if len(parts) == 1 else f"{name}, part {number}",
                **self._settings,
                instruction=record.text(self._instruction) if self._instruction else "",
                stamps=stamps[part],
                proprioception=felt[part],
                actions=told[part],
                pictures=readers(self._cameras, begin),
                depths=readers(self._depths, begin),
                outcome=None if success < 0 else bool(success),
                notes=notes,
                actions_known=known[part],
                calibrations=self._calibrations,
            )


def _flags(record: Record, length: int, own: bool) -> tuple[np.ndarray, list[int], tuple[str, ...]]:
    """Which actions of a record are known [T], where its episodes begin, and notes.

    In the step that is_last marks there is an observation and nothing else: RLDS leaves the rest
    undefined, and converters fill it in with anything. An episode that was cut off has no such
    step, and all of its actions count; so do those of datasets that this package wrote (`own`).
    """
    flags, notes = {}, []
    for key in (_FIRST, _LAST, _TERMINAL, KNOWN):
        feature = record.features.get(key)
        if feature is None or not feature.is_numeric:
            continue
        values = np.array(record.integers(key), dtype=bool)
        if len(values) != length:
            raise ValueError(f"{record.name}: {key!r} has {len(values)} steps, not {length}")
        if key != KNOWN and length > 1 and values.all():
            notes.append(f"{key} is true of all steps and tells nothing")
            continue
        flags[key] = values
    none = np.zeros(length, bool)
    last = flags.get(_LAST, flags.get(_TERMINAL, none))
    begins = flags.get(_FIRST, none).copy()
    begins[1:] |= flags.get(_LAST, none)[:-1]
    begins[:1] = True
    known = flags.get(KNOWN, np.ones(length, bool) if own else ~last)
    if not known.all():
        notes.append("the action of the last step is not known: RLDS leaves it undefined")
    if begins.sum() > 1:
        notes.append(f"one record of {begins.sum()} episodes, by is_first and is_last")
    return known, np.flatnonzero(begins).tolist() or [0], tuple(notes)


def _first(candidates: Sequence[str], features: Mapping[str, Feature]) -> str:
    """The first that exists; if none does, the first, for the error message."""
    return next((key for key in candidates if key in features), candidates[0])


@dataclass(frozen=True)
class _Pictures:
    """Reads one feature of one record when asked to. Can be sent to another process."""

    path: Path
    offset: int
    name: str
    key: str
    feature: Feature
    begin: int  # of the episode in the record, steps

    def __call__(self, first: int, last: int) -> Iterator[np.ndarray]:
        data = read_record(self.path, self.offset)
        record = Record.parse(self.name, {self.key: self.feature}, data)
        yield from record.pictures(self.key, self.begin + first, self.begin + last)
