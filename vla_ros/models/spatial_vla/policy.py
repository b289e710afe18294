"""SpatialVLA as a policy: pictures and an instruction in, action chunks of a robot out.

A checkpoint is what `save_pretrained` of model and processor write, and policy.json beside them,
which says what its tokens mean to a robot.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging

from vla_ros.models import checkpoint
from vla_ros.models.policy import Action
from vla_ros.models.spatial_vla.configuration import TOKENS_PER_ACTION
from vla_ros.models.spatial_vla.geometry import GEOMETRY_DIM, geometry_features
from vla_ros.models.spatial_vla.layout import SpatialLayout
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.motions import Motions
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.models.vision.encoders import fingerprint
from vla_ros.models.vision.geometry import Geometry
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.words import words_of

CONTRACT = "policy.json"
PROMPT = "What action should the robot take to {}?"  # of published checkpoints
_UNTOLD = "do nothing"  # stands in the prompt of a robot that nobody told anything


def pixels_of(images: np.ndarray) -> Tensor:
    """uint8 [..., S, S, 3] to the model's pixel_values, float32 [..., 3, S, S] from 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3).float() / 255


def prompt_of(instruction: str | None, prompt: str = PROMPT) -> str:
    """What the model is asked, in training and when it runs.

    Args:
        prompt: with {} for the instruction.
    """
    return prompt.replace("{}", (instruction or "").strip() or _UNTOLD)


@dataclass(frozen=True)
class SpatialContract:
    """What the action tokens of a checkpoint mean to a robot.

    Args:
        action: the contract with the robot; its horizon is the length of the chunks.
        cameras: in the order in which their pictures are given.
        columns: the robot's names for x, y, z, roll, pitch, yaw and gripper, "-" for what it has
            not; found by their names if empty.
        statistics_key: which of the processor's statistics its actions have; may be left out where
            there is but one.
        prompt: what is asked, with {} for the instruction.
        words: that it was taught; None: all that its tokenizer has.
        geometry: what is fused into image tokens, see `vision.build_geometry`; None: nothing.
    """

    action: ActionConfig
    cameras: tuple[str, ...]
    columns: tuple[str, ...] = ()
    statistics_key: str = ""
    prompt: str = PROMPT
    words: tuple[str, ...] | None = None
    geometry: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "columns", tuple(self.columns))
        if self.words is not None:
            object.__setattr__(self, "words", tuple(self.words))
        if not self.cameras or not all(isinstance(name, str) for name in self.cameras):
            raise ValueError("cameras are no list of names")
        if self.prompt.count("{}") != 1:
            raise ValueError(f"the prompt {self.prompt!r} must have {{}} once, for the instruction")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        robot_type = self.action.robot_type.value
        return {**asdict(self), "action": {**asdict(self.action), "robot_type": robot_type}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpatialContract:
        """From what `to_dict` returns. Raises ValueError, TypeError, KeyError."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        return cls(**{**values, "action": ActionConfig.from_dict(values["action"])})


class SpatialVLAPolicy:
    """See the module's text, and `vla_ros.models.policy.Policy` for what has no text here.

    Args:
        model, processor: of one kind.
        contract: with the robot.

    Raises:
        ValueError: they do not fit each other; a statistics key that the processor has not (those
            that it has are named).
    """

    language_conditioned = True

    def __init__(
        self,
        model: SpatialVLAForConditionalGeneration,
        processor: SpatialVLAProcessor,
        contract: SpatialContract,
    ) -> None:
        processor.check(model.config)
        self.model, self.processor, self.contract = model.eval(), processor, contract
        chunk, horizon = model.config.action_chunk_size, contract.action.horizon
        if chunk != horizon:
            raise ValueError(f"the model says {chunk} actions, the robot's horizon is {horizon}")
        if (model.model.geometry is None) != (contract.geometry is None):
            which = "lacks" if contract.geometry is None else "has, and the model lacks"
            raise ValueError(f"the contract {which} geometry: tell both the same")
        if model.config.geometry_dim not in (0, GEOMETRY_DIM):
            raise ValueError(
                f"the model takes {model.config.geometry_dim} numbers of geometry a token, a "
                f"policy has {GEOMETRY_DIM}: the features of published checkpoints, of four points "
                "a token, are made for the model alone (geometry.ego3d_features), not for nodes"
            )
        layout = SpatialLayout.of(contract.action, contract.columns)
        self.motions = Motions(contract.action, layout)
        self.statistics_keys = tuple(processor.statistics)
        self.statistics_key = contract.statistics_key
        if not self.statistics_key and len(self.statistics_keys) == 1:
            self.statistics_key = self.statistics_keys[0]
        if self.statistics_key or not self.statistics_keys:
            processor.action_statistics(self.statistics_key or None)

    @property
    def cameras(self) -> tuple[str, ...]:
        return self.contract.cameras

    @property
    def image_size(self) -> int:
        return self.model.config.vision_config.image_size

    @property
    def grid(self) -> tuple[int, int, int, int]:
        side = self.image_size // self.model.config.vision_config.patch_size
        return (len(self.cameras), side, side, self.model.config.hidden_size)

    @property
    def encoder_id(self) -> str:
        """See `vision.fingerprint`."""
        inner = self.model.model
        parts = [inner.vision_tower, inner.multi_modal_projector, inner.geometry]
        more = "" if inner.geometry is None else json.dumps(self.contract.geometry)
        return fingerprint(torch.nn.ModuleList(part for part in parts if part is not None), more)

    @property
    def geometry_description(self) -> Mapping[str, Any] | None:
        return self.contract.geometry

    @property
    def action_config(self) -> ActionConfig:
        return self.contract.action

    @property
    def mean_action(self) -> np.ndarray:
        statistics = self.processor.action_statistics(self.statistics_key or None)
        told = self.processor.statistics[self.statistics_key]["action"]
        middle = np.add(statistics.q01, statistics.q99) / 2
        return self.motions.to_chunks(np.array([told.get("mean", middle)]))[0]

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray], geometry: Geometry | None = None) -> np.ndarray:
        """Visual tokens float16 [N, h, w, C] of one frame of every camera.

        Args:
            images: uint8 [S, S, 3] of each.
            geometry: [N, h, w], of a policy that fuses it.

        Raises:
            ValueError: wrong number, size or type of images, or geometry.
        """
        size = self.image_size
        if len(images) != len(self.cameras):
            raise ValueError(f"expected images of {', '.join(self.cameras)}")
        for camera, image in zip(self.cameras, images, strict=True):
            if image.shape != (size, size, 3) or image.dtype != np.uint8:
                raise ValueError(
                    f"{camera}: expected uint8 [{size}, {size}, 3], "
                    f"got {image.dtype} {list(image.shape)}"
                )
        weight = self.model.lm_head.weight
        pixels = pixels_of(np.stack(images)).to(weight.device, weight.dtype)
        features = None if geometry is None else geometry_features(geometry)
        tokens = self.model.get_image_features(pixels, features).pooler_output
        return tokens.view(self.grid).to(torch.float16).cpu().numpy()

    def unheard_words(self, instruction: str) -> list[str]:
        if self.contract.words is None:
            return []
        return [word for word in words_of(instruction) if word not in self.contract.words]

    def start(self, instruction: str | None) -> SpatialEpisode:
        """Begin an episode. Raises ValueError: an empty instruction, or one with special tokens, or
        no statistics were chosen."""
        if instruction is not None and not instruction.strip():
            raise ValueError("the instruction is empty")
        return SpatialEpisode(self, instruction)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model, processor and policy.json."""
        folder = Path(folder)
        with _quietly():
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
        save_contract(folder, self.contract)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SpatialVLAPolicy:
        """Load a checkpoint folder, in evaluation mode.

        Raises:
            FileNotFoundError: a file of the checkpoint is missing.
            ValueError: a file is damaged or does not fit the others.
        """
        folder = Path(folder)
        if not (folder / CONTRACT).is_file():
            raise FileNotFoundError(
                f"checkpoint {folder} has no {CONTRACT}, so nothing says which robot its actions "
                "are for: write it with spatial_vla.policy.save_contract"
            )
        try:
            contract = SpatialContract.from_dict(checkpoint.read_json(folder, CONTRACT))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise checkpoint.damaged(folder, f"{CONTRACT}: {error}") from error
        with _quietly():
            model = SpatialVLAForConditionalGeneration.from_pretrained(folder)
            processor = SpatialVLAProcessor.from_pretrained(folder)
        try:
            return cls(model, processor, contract)
        except ValueError as error:
            raise ValueError(f"checkpoint {folder}: {error}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the progress bars of transformers, and what it suspects of types it does not know."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def save_contract(folder: str | Path, contract: SpatialContract) -> None:
    """Write policy.json, which makes a checkpoint of SpatialVLA a policy, whole or not at all."""
    checkpoint.write_text(Path(folder), CONTRACT, json.dumps(contract.to_dict(), indent=1) + "\n")


class SpatialEpisode:
    """A run of the policy; it remembers nothing but its instruction."""

    def __init__(self, policy: SpatialVLAPolicy, instruction: str | None) -> None:
        self.instruction = instruction
        self._policy = policy
        processor = policy.processor
        self._statistics = processor.action_statistics(policy.statistics_key or None)
        text = prompt_of(instruction, policy.contract.prompt)
        ids = processor.prompt_ids(text, len(policy.cameras))
        self._prompt = torch.tensor([ids], device=policy.model.lm_head.weight.device)

    def act(self, tokens: np.ndarray, proprioception: np.ndarray) -> Action:
        """The action chunk for one observation; `done` is the probability that the model says the
        end, and no action. See `vla_ros.models.policy.PolicyEpisode`."""
        policy = self._policy
        if tokens.shape != policy.grid:
            raise ValueError(
                f"expected visual tokens {list(policy.grid)}, got {list(tokens.shape)}"
            )
        names = policy.action_config.proprioception_names
        if proprioception.shape != (len(names),):
            raise ValueError(
                f"expected proprioception [{len(names)}], got {list(proprioception.shape)}"
            )
        if not (np.isfinite(tokens).all() and np.isfinite(proprioception).all()):
            raise ValueError("the observation holds NaN or infinity")
        ids, done, certain = self._speak(tokens)
        motions = policy.processor.action_tokenizer.decode(ids)
        chunk = policy.motions.to_chunks(self._statistics.unnormalize(motions))
        return Action(chunk, done, min(certain + 1e-6, 1.0))

    @torch.inference_mode()
    def _speak(self, tokens: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Action ids [K, 3], the probability of the end before them, and how sure the grippers are.

        What `predict_action` says, without what `generate` does for models in general.
        """
        model, config = self._policy.model, self._policy.model.config
        weight = model.lm_head.weight
        image = torch.from_numpy(tokens.reshape(len(tokens), -1, tokens.shape[-1]))
        image = BaseModelOutputWithPooling(pooler_output=image.to(weight.device, weight.dtype))
        out = model(
            self._prompt,
            mm_encoder_outputs={"image": image},
            token_type_ids=torch.zeros_like(self._prompt),
            use_cache=True,
            logits_to_keep=1,
        )
        said, sure, done = [], [], 0.0
        for place in range(TOKENS_PER_ACTION * config.action_chunk_size):
            legal = config.legal_ids(place % TOKENS_PER_ACTION)
            logits = out.logits[0, -1].float()
            scores = logits[legal.start : legal.stop]
            if scores.isnan().any():
                raise ValueError(f"logits of token {place} are NaN: the weights are damaged")
            if place == 0:
                done = float((logits[config.end_token_id] - _all(logits, scores, config)).exp())
            if place % TOKENS_PER_ACTION == TOKENS_PER_ACTION - 1:
                sure.append(abs(2 * float(scores.softmax(-1)[0]) - 1))
            said.append(legal.start + int(scores.argmax()))
            if len(said) < TOKENS_PER_ACTION * config.action_chunk_size:
                newest = self._prompt.new_tensor([[said[-1]]])
                out = model(
                    newest,
                    cache=out.cache,
                    token_type_ids=torch.ones_like(newest),
                    use_cache=True,
                )
        ids = np.array(said).reshape(-1, TOKENS_PER_ACTION) - config.action_token_begin_idx
        return ids, done, float(np.mean(sure))

    def describe(self) -> list[str]:
        return [""]


def _all(logits: Tensor, scores: Tensor, config: Any) -> Tensor:
    """Logarithm of what the end and all first tokens of an action have together."""
    end = logits[config.end_token_id]
    return torch.logaddexp(end, scores.logsumexp(-1))
