"""What a policy is to whoever runs it: nodes, rollouts and evaluation know this and no model.

    images ── encode ── visual tokens ─┐
    instruction ── start ── episode ── act ── action chunk, done        one step of the robot
                       proprioception ─┘

`encode` and `act` run in two nodes, each with the checkpoint loaded; the tokens travel between them
in half precision. `load_policy` makes the policy of a checkpoint by the type that its config.json
names. The types of this package are in `TYPES`; another package adds its own through the entry
point group `ENTRY_POINTS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vla_ros.models import checkpoint
from vla_ros.robots.action_config import ActionConfig

if TYPE_CHECKING:
    from vla_ros.models.vision import Geometry

# Imported when a checkpoint of that type is loaded: some need packages that others do without.
TYPES = {
    "vlam": "vla_ros.models.vlam:VisionLanguageActionModel",
    "spatialvla": "vla_ros.models.spatial_vla.policy:SpatialVLAPolicy",
}
_EXTRAS = {"spatialvla": "vision"}  # of this package, which have what those need
ENTRY_POINTS = "vla_ros.policies"
_UNNAMED = "vlam"  # wrote no type into its checkpoints at first


@dataclass(frozen=True)
class Action:
    """One output of the policy.

    `actions` [K, A] in physical units and within the configured bounds; `done` is the probability
    that the instruction is fulfilled; `confidence` in (0, 1] falls with the ambiguity of the
    binary actions.
    """

    actions: np.ndarray
    done: float
    confidence: float


class ImageEncoder(Protocol):
    """The part of a model that makes visual tokens of images."""

    @property
    def cameras(self) -> Sequence[str]:
        """Names of the N cameras, in the order in which `encode` takes their images."""

    @property
    def image_size(self) -> int:
        """Pixels S of either side of an input image."""

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """Shape of the visual tokens: cameras, height, width, channels."""

    @property
    def encoder_id(self) -> str:
        """Tells encoders apart: equal where tokens of one may be given to the other."""

    @property
    def geometry_description(self) -> Mapping[str, Any] | None:
        """What is fused into the tokens beside images, see `vision.build_geometry`; None: nothing,
        so that images are all that `encode` needs. Else see `SpatialEncoder`."""

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Visual tokens float16 [N, h, w, C] of one frame: uint8 [S, S, 3] of each camera."""


class SpatialEncoder(ImageEncoder, Protocol):
    """An image encoder that fuses geometry: what its kind takes beside images is told by
    `vision.required_inputs`. One that holds weights of a depth model has `point_map` too, with the
    arguments of `vision.point_map` but for the encoder; for others it is made by the description.
    """

    def encode(self, images: Sequence[np.ndarray], geometry: Geometry | None = None) -> np.ndarray:
        """Visual tokens, with `vision.pool` of a point map of this frame or an earlier one."""


class PolicyEpisode(Protocol):
    """A policy that follows one instruction; owns what it remembers of it."""

    @property
    def instruction(self) -> str | None:
        """As it was given to `start`."""

    def act(self, tokens: np.ndarray, proprioception: np.ndarray) -> Action:
        """The action chunk for one observation; advances the memory.

        Args:
            tokens: [N, h, w, C] from `encode`.
            proprioception: float32 [P], what `proprioception_names` names, physical units.

        Raises:
            ValueError: wrong shape, or NaN or infinity in either (the memory stays as it was).
        """

    def describe(self) -> list[str]:
        """What is being done, in the model's words, of each run: one here; "" without words."""


class Policy(ImageEncoder, Protocol):
    """A model that drives a robot by instruction."""

    @property
    def action_config(self) -> ActionConfig:
        """The contract with the robot."""

    @property
    def language_conditioned(self) -> bool:
        """Whether instructions are heeded; else it does the same whatever is said."""

    @property
    def mean_action(self) -> np.ndarray:
        """[A] of the training data, physical units."""

    @property
    def statistics_keys(self) -> Sequence[str]:
        """Datasets whose statistics the checkpoint holds; none where it has those of one alone."""

    @property
    def statistics_key(self) -> str:
        """Which of them its actions are scaled by; "" where there is no choice, or none made."""

    def unheard_words(self, instruction: str) -> list[str]:
        """The words of an instruction that the model was not taught, and does without."""

    def start(self, instruction: str | None) -> PolicyEpisode:
        """Begin an episode, with nothing remembered. None: a robot that nobody told anything.

        Raises:
            ValueError: the instruction cannot be followed (why is told).
        """


_MEMBERS = [name for name in dir(Policy) if not name.startswith("_")]


def policy_type(folder: Path) -> str | None:
    """The type of policy that a checkpoint's config.json names; None: it is no policy's.

    Raises:
        FileNotFoundError: config.json is missing.
        ValueError: it is damaged.
    """
    checkpoint.require(folder, checkpoint.CONFIG)
    settings = checkpoint.read_json(folder, checkpoint.CONFIG)
    # "model_type" is how transformers names it.
    named = settings.get("type", settings.get("model_type"))
    if named is None:
        return _UNNAMED if "action" in settings else None
    if not isinstance(named, str):
        raise checkpoint.damaged(folder, f"the type in {checkpoint.CONFIG} is no text")
    return named


def load_policy(folder: str | Path) -> Policy:
    """The policy in a checkpoint folder, in evaluation mode, whatever its type.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing.
        ValueError: it is no policy's, of an unknown type (the known ones are named), or damaged.
        RuntimeError: its type needs a package that is not installed.
    """
    folder = Path(folder)
    named = policy_type(folder)
    if named is None:
        raise ValueError(
            f"checkpoint {folder} is no policy's: give one that `vla train policy` wrote, or 'arm' "
            "for the one that ships"
        )
    policy = _class(named, folder).from_pretrained(folder)
    if missing := [name for name in _MEMBERS if not _has(policy, name)]:
        raise ValueError(
            f"{type(policy).__name__}, the class of policies of type {named}, lacks "
            f"{', '.join(missing)}: give it what vla_ros.models.policy.Policy has"
        )
    return policy


def _class(named: str, folder: Path) -> Any:
    """The class of a type of policies."""
    if named in TYPES:
        module, _, name = TYPES[named].partition(":")
        load: Callable[[], Any] = lambda: getattr(import_module(module), name)  # noqa: E731
    else:
        added = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
        if named not in added:
            raise ValueError(
                f"checkpoint {folder} is of type {named!r}, the known types of policies are "
                f"{', '.join(sorted({*TYPES, *added}))}: install the package that adds it (entry "
                f"point group {ENTRY_POINTS}), or choose another checkpoint"
            )
        load = added[named].load
    try:
        return load()
    except ImportError as error:
        cure = f": pip install 'vla_ros[{_EXTRAS[named]}]'" if named in _EXTRAS else ""
        raise RuntimeError(
            f"policies of type {named} cannot be loaded ({error}): install what their model needs"
            f"{cure}"
        ) from error


def _has(policy: Any, name: str) -> bool:
    # A property is not evaluated for it: some take a while.
    return hasattr(type(policy), name) or inspect.getattr_static(policy, name, None) is not None
