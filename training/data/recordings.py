"""Recordings of one robot, in whatever they were recorded, as episodes."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vla_ros.cameras import beside
from vla_ros.observations import CameraCalibration
from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.alignment import Stream
from vla_ros.training.data.bag import Bag, NoMessages
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bag_folders import BagFiles
from vla_ros.training.data.bag_types import MsgFolders
from vla_ros.training.data.bags import NoEpisode, open_bag
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.notices import announced, say
from vla_ros.training.data.rlds_mapping import RldsMapping, camera_name
from vla_ros.training.data.settings_file import check_keys, convert, fill, read
from vla_ros.training.data.shards import EpisodeShard
from vla_ros.training.data.sources import Kind, sources

_PRESETS = {
    "arm": ActionConfig.get_arm_config,
    "joint_arm": ActionConfig.get_joint_arm_config,
    "humanoid": ActionConfig.get_humanoid_config,
    "mobile_manipulator": ActionConfig.get_mobile_manipulator_config,
}
# Control modes that have a meaning for what reads recordings; there may be others.
_MODES = (
    "joint_position",
    "joint_velocity",
    "joint_effort",
    "joint_torque",
    "joint_delta",
    "base_velocity_and_joint_position",
    "end_effector_offset",
    "end_effector_delta",
    "end_effector_velocity",
)
DATA_HELP = "recordings (bags, RLDS datasets, shards, folders of them) instead of the simulator"
_REASONS = 10  # of recordings that hold no episode, in the error about all of them
ROBOT_HELP = f"what they are of: {', '.join(_PRESETS)}, or a YAML file"


@dataclass(frozen=True)
class Robot:
    """What recordings of a robot hold, and where.

    Args:
        action: the contract that the policy will have.
        cameras: in the order in which the policy sees them; all that a recording has if empty.
        bag: further arguments of `bag_contract.Contract`.
        rlds: arguments of `rlds.RldsMapping`.
        msg: folders of .msg files, for types that a recording does not define; in a file, from
            where it lies.
        camera_info: name of a camera -> its calibration (`CameraCalibration.from_dict`), for
            recordings that hold none; in a file also the path of another one, from where it lies,
            such as camera_calibration writes.
    """

    action: ActionConfig
    cameras: Sequence[str] = ()
    bag: Mapping[str, Any] = field(default_factory=dict)
    rlds: Mapping[str, Any] = field(default_factory=dict)
    msg: Sequence[str | Path] = ()
    camera_info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str, msg: Sequence[str | Path] = ()) -> Robot:
        """A preset of ActionConfig, or a YAML file with this class' fields; see config/widowx.yaml.

        Everything in the file is checked here, whether a recording needs it or not. `msg` are more
        folders of .msg files.

        Raises:
            ValueError: neither, or something in the file is wrong; the place in it is named.
        """
        if name in _PRESETS:
            return cls(_PRESETS[name](), msg=msg)
        if not Path(name).exists():
            raise ValueError(f"no robot {name!r}: choose {', '.join(_PRESETS)} or a YAML file")
        told = read(Path(name))
        try:
            robot = _from_file(told)
            folders = [*msg, *(Path(name).parent / folder for folder in robot.msg)]
            MsgFolders(folders)
            known = _calibrations(robot.camera_info, Path(name).parent)
            return replace(robot, msg=folders, camera_info=known)
        except ValueError as error:
            raise ValueError(f"{name} describes no robot: {error}") from None

    def seeing(self, needs: Collection[str]) -> Robot:
        """The same robot, of whose recordings "depth" and "intrinsics" are read too, as far as they
        are in `needs`.

        Where the robot does not say in which topics of a bag they are, they are beside the images,
        such as camera/depth/image_raw and camera/camera_info beside camera/image_raw.
        """
        contract, told = Contract(self.action, **self.bag), dict(self.bag)
        cameras = {
            name: stream.topic
            for name, stream in contract.cameras.items()
            if not self.cameras or name in self.cameras
        }
        if "depth" in needs and not contract.depth:
            told["depth"] = {
                name: Stream(beside(topic, "depth/image_raw")) for name, topic in cameras.items()
            }
        if "intrinsics" in needs and not contract.camera_info:
            told["camera_info"] = {
                name: beside(topic, "camera_info")
                for name, topic in cameras.items()
                if name not in self.camera_info
            }
        return replace(self, bag=told)

    def episodes(self, paths: Sequence[Path]) -> Iterator[Episode]:
        """Episodes of recordings, RLDS datasets, folders of shards, and folders of any of them.

        Raises:
            ValueError: one of the paths cannot be read, or is of another kind of robot, or there is
                no episode in any. A recording without an episode beside others is left out and
                said.
        """
        return announced(self._checked(paths))

    def _checked(self, paths: Sequence[Path]) -> Iterator[Episode]:
        there, empty, seen = False, [], set()
        for path in paths:
            for episode in self._open(path, empty, seen):
                self.check(episode)
                there = True
                yield self._calibrated(episode)
        if empty and not there:
            more = f"; and {len(empty) - _REASONS} more" if len(empty) > _REASONS else ""
            raise ValueError("; ".join(empty[:_REASONS]) + more)
        for reason in empty:
            say(f"{reason}: left out")

    def _calibrated(self, episode: Episode) -> Episode:
        known = {
            name: CameraCalibration.from_dict(values)
            for name, values in self.camera_info.items()
            if name in episode.pictures and name not in episode.calibrations
        }
        return replace(episode, calibrations={**episode.calibrations, **known})

    def _open(self, path: Path, empty: list[str], seen: set[Path]) -> Iterator[Episode]:
        """Episodes of a path; recordings that hold none are told in `empty`."""
        for kind, place in sources(path, seen=seen):
            if kind is Kind.RLDS:
                yield from self._open_rlds(place)
            elif kind is Kind.SHARD:
                yield from EpisodeShard.load(place).episodes()
            else:
                try:
                    yield from self._open_bag(place)
                except (NoEpisode, NoMessages) as error:
                    empty.append(str(error))

    def _open_bag(self, files: BagFiles) -> Iterator[Episode]:
        contract = None
        if (bag := Bag(files, self.msg)).custom:  # of an RLDS dataset: it tells how to be read
            from vla_ros.training.data.rlds_to_bag import contract_of

            contract = contract_of(bag)
        return open_bag(bag, contract or Contract(self.action, **self.bag))

    def _open_rlds(self, path: Path) -> Iterator[Episode]:
        # An extra of its own: who trains from bags or in simulation can do without.
        from vla_ros.training.data.rlds import RldsDataset, RldsMapping, open_rlds

        told = dict(self.rlds)
        if not RldsDataset(path).metadata:  # then nothing but the robot says what numbers mean
            told |= {
                "dt": self.action.dt,
                "control_mode": self.action.control_mode,
                "action_names": self.action.action_names,
                "proprioception_names": self.action.proprioception_names,
            }
            if not self.action.proprioception_names:
                told["state"] = ()
        return open_rlds(path, RldsMapping(**told))

    def check(self, episode: Episode) -> None:
        """Raises ValueError if the episode's numbers mean something else than this robot's."""
        for what, given, wanted in (
            ("actions", episode.action_names, self.action.action_names),
            ("proprioception", episode.proprioception_names, self.action.proprioception_names),
            ("control mode", episode.control_mode, self.action.control_mode),
            ("dt", round(episode.dt, 6), round(self.action.dt, 6)),
        ):
            if given != wanted:
                raise ValueError(
                    f"{episode.name}: its {what} {_said(given)}, the robot's {_said(wanted)}"
                )


def _said(value: Any) -> str:
    return "are " + ", ".join(value) if isinstance(value, tuple) else f"is {value}"


def _from_file(told: dict[str, Any]) -> Robot:
    """A robot from what a file says. Raises ValueError with the place and the cure."""
    check_keys(told, [field.name for field in fields(Robot)])
    if not isinstance(told.get("action"), dict):
        raise ValueError("action is missing: say what the numbers of an action are")
    action = fill(ActionConfig, _with_defaults(told["action"]), "action")
    near = difflib.get_close_matches(action.control_mode, _MODES, 1, 0.9)
    if near and action.control_mode not in _MODES:
        raise ValueError(
            f"action.control_mode is {action.control_mode!r}: did you mean {near[0]}? Name another "
            "one unlike it"
        )
    cameras = convert(told.get("cameras", []), Sequence[str], "cameras")
    bag, rlds = {}, {}
    if "bag" in told:
        bag = _fields(fill(Contract, told["bag"], "bag", {"action": action}), told["bag"])
    if "rlds" in told:
        rlds = _fields(fill(RldsMapping, told["rlds"], "rlds"), told["rlds"])
    if len(set(cameras)) < len(cameras):
        raise ValueError(f"cameras names one twice: {', '.join(cameras)}")
    for place, there in (
        ("bag.cameras", bag.get("cameras")),
        ("rlds.cameras", list(map(camera_name, rlds.get("cameras") or ()))),
    ):
        if there and (missing := [name for name in cameras if name not in there]):
            raise ValueError(f"cameras: {missing[0]} is not of {place}: {', '.join(there)}")
    msg = convert(told.get("msg", []), Sequence[str], "msg")
    camera_info = told.get("camera_info", {})
    if not isinstance(camera_info, dict):
        raise ValueError("camera_info names no cameras: give a calibration for each")
    return Robot(action, cameras, bag, rlds, msg, camera_info)


def _calibrations(told: Mapping[str, Any], folder: Path) -> dict[str, dict]:
    """Those of cameras, each given in place or as a file. Raises ValueError with the place."""
    found = {}
    for name, values in told.items():
        where = f"camera_info.{name}"
        if isinstance(values, str):
            if not (folder / values).is_file():
                raise ValueError(f"{where}: there is no file {folder / values}")
            values = read(folder / values)
        if not isinstance(values, dict):
            raise ValueError(f"{where} is no calibration: give width, height, k and d, or a file")
        try:
            found[name] = CameraCalibration.from_dict(values).to_dict()
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return found


def _with_defaults(action: dict[str, Any]) -> dict[str, Any]:
    """The fields of an ActionConfig; how many actions there are is told by their names."""
    what = "action_names" if "action_names" in action else "joint_names"
    if what not in action:
        raise ValueError("action.action_names is missing: name each number of an action in a list")
    names = convert(action[what], Sequence[str], f"action.{what}")
    return {"action_dim": len(names), "joint_names": [], **action}


def _fields(made: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(made, name) for name in told}
