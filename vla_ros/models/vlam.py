"""The vision-language-action model: images, proprioception, an instruction in; action chunks out.

    images ── encoder (a small CNN a camera) ── token grid [16, 16, 32] a camera
    tokens ── queries from the instruction ── spatial softmax (Levine et al. 2016)
    + proprioception + instruction ── Mamba-2 core, h_t = Mamba(phi(I_t), h_t-1) ── heads

The encoder never sees the instruction, so one node can encode for several consumers. The core
trains in its parallel form (`forward`) and runs in its recurrent form (`Episode.act`); both give
the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vla_ros.models.mamba import Mamba2, Mamba2State, RMSNorm
from vla_ros.scene_language.instructions import VOCABULARY, tokenize

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
STATISTICS = "statistics.json"
# What the first keypoints of each camera are trained to find.
NAMED_KEYPOINTS = ("object", "goal")


@dataclass(frozen=True)
class VLAMConfig:
    """Shapes of the model and the contract with the robot; travels inside the checkpoint."""

    cameras: tuple[str, ...] = ("camera", "wrist_camera")
    image_size: int = 64  # pixels, both sides
    grid_channels: int = 32
    keypoints: int = 16  # of each camera
    d_model: int = 160
    n_layers: int = 2
    d_state: int = 32
    instruction_width: int = 64
    vocabulary: tuple[str, ...] = VOCABULARY
    robot: str = "panda"
    control_mode: str = "end_effector_offset"
    action_names: tuple[str, ...] = ("x", "y", "z", "finger_opening")
    action_low: tuple[float, ...] = (-0.16, -0.16, -0.16, 0.0)  # m
    action_high: tuple[float, ...] = (0.16, 0.16, 0.16, 0.04)  # m
    proprioception_names: tuple[str, ...] = ("tool_x", "tool_y", "tool_z", "finger_opening")
    joint_names: tuple[str, ...] = (
        *(f"panda_joint{i}" for i in range(1, 8)),
        "panda_finger_joint1",
    )
    horizon: int = 8
    dt: float = 0.05  # s between action points, and between observations

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """Shape of the visual tokens: cameras, height, width, channels."""
        return (len(self.cameras), self.image_size // 4, self.image_size // 4, self.grid_channels)

    @classmethod
    def from_dict(cls, values: dict) -> VLAMConfig:
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            wrong = ", ".join(sorted(set(values) ^ known))
            raise ValueError(f"unexpected or missing settings: {wrong}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass
class Statistics:
    """Normalisation of proprioception and actions, from the training data."""

    proprioception_mean: np.ndarray  # [P]
    proprioception_std: np.ndarray  # [P]
    action_scale: np.ndarray  # [K, A]

    @classmethod
    def neutral(cls, config: VLAMConfig) -> Statistics:
        size = len(config.proprioception_names)
        scale = np.ones((config.horizon, len(config.action_names)))
        return cls(np.zeros(size), np.ones(size), scale * np.array(config.action_high))


@dataclass(frozen=True)
class Action:
    """One output of the policy.

    `actions` [K, A] in physical units and within the configured bounds; `done` is the probability
    that the instruction is fulfilled; `confidence` in (0, 1] falls with the ambiguity of the
    gripper decision.
    """

    actions: np.ndarray
    done: float
    confidence: float


class ImageEncoder(nn.Module):
    """One camera's tokens: uint8 [B, S, S, 3] (scaled to [-1, 1] here) to [B, S/4, S/4, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 5, stride=2, padding=2)
        self.down = nn.Conv2d(24, channels, 3, stride=2, padding=1)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        x = F.relu(self.stem(x.contiguous(memory_format=torch.channels_last)))
        x = F.relu(self.down(x))
        return (x + F.relu(self.mix(x))).permute(0, 2, 3, 1)


class InstructionEncoder(nn.Module):
    """Word ids [B, W] (0 pads) to one vector [B, width]: embedding, then a bidirectional GRU."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32, padding_idx=0)
        self.gru = nn.GRU(32, width // 2, batch_first=True, bidirectional=True)

    def forward(self, ids: Tensor) -> Tensor:
        lengths = (ids > 0).sum(1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(ids), lengths, batch_first=True, enforce_sorted=False
        )
        _, last = self.gru(packed)
        return torch.cat([last[0], last[1]], dim=-1)


class InstructedKeypoints(nn.Module):
    """What in one camera's tokens the instruction is about, and where it is.

    Every keypoint asks with a query made from the instruction: its weight on a cell is the softmax
    of the query's product with the cell's features. It reports the expected position under these
    weights (spatial softmax) and a few features from there. In training the first keypoints are
    shown where to look (see NAMED_KEYPOINTS).
    """

    VALUES = 8  # features that a keypoint brings along

    def __init__(self, channels: int, keypoints: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.value = nn.Linear(channels, self.VALUES)
        self.query = nn.Linear(condition, keypoints * channels)

    def queries(self, condition: Tensor) -> Tensor:
        """Instructions [B, E] to queries [B, K, C]."""
        return self.query(condition).unflatten(1, (-1, self.first.in_channels))

    def forward(self, tokens: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, K * (2 + VALUES)] and log-weights [B, K, h * w] of tokens [B, h, w, C]."""
        x = F.relu(self.first(tokens.permute(0, 3, 1, 2)))
        x = F.relu(self.second(x))
        height, width = x.shape[2:]
        x = x.flatten(2).float()
        log_weight = torch.log_softmax(queries.float() @ x, dim=-1)
        weight = log_weight.exp()
        rows = torch.linspace(-1, 1, height, device=x.device).repeat_interleave(width)
        columns = torch.linspace(-1, 1, width, device=x.device).repeat(height)
        places = weight @ torch.stack([rows, columns], dim=-1)
        values = weight @ self.value(x.transpose(1, 2)).float()
        return torch.cat([places, values], dim=-1).flatten(1), log_weight


class VisionLanguageActionModel(nn.Module):
    """See the module's text."""

    def __init__(self, config: VLAMConfig, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.config = config
        self.statistics = statistics or Statistics.neutral(config)
        c = config
        proprioception, action = len(c.proprioception_names), len(c.action_names)
        self.encoders = nn.ModuleList(ImageEncoder(c.grid_channels) for _ in c.cameras)
        self.instruction = InstructionEncoder(len(c.vocabulary), c.instruction_width)
        self.keypoints = nn.ModuleList(
            InstructedKeypoints(c.grid_channels, c.keypoints, c.instruction_width)
            for _ in c.cameras
        )
        seen = len(c.cameras) * c.keypoints * (2 + InstructedKeypoints.VALUES)
        self.fuse = nn.Sequential(
            nn.Linear(seen + proprioception + c.instruction_width, 2 * c.d_model),
            nn.SiLU(),
            nn.Linear(2 * c.d_model, c.d_model),
        )
        self.norms = nn.ModuleList(RMSNorm(c.d_model) for _ in range(c.n_layers))
        self.core = nn.ModuleList(Mamba2(c.d_model, c.d_state) for _ in range(c.n_layers))
        self.head = nn.Sequential(
            RMSNorm(c.d_model), nn.Linear(c.d_model, 2 * c.d_model), nn.SiLU()
        )
        self.action = nn.Linear(2 * c.d_model, c.horizon * action)
        self.done = nn.Linear(2 * c.d_model, 1)
        # Training only: where the object and the goal are, from what is seen (6 offsets in m /
        # 0.1).
        self.locate = nn.Linear(c.d_model, 6)

    # -- training: the parallel form ---------------------------------------------------------------

    def forward(self, images: Tensor, proprioception: Tensor, words: Tensor) -> dict[str, Tensor]:
        """Whole sequences.

        Args:
            images: uint8 [B, T, N, S, S, 3].
            proprioception: [B, T, P], physical units.
            words: int64 [B, W] word ids, 0 pads.

        Returns:
            "actions" [B, T, K, A] normalised (the finger opening as a logit), "done" logits [B, T],
            "locate" [B, T, 6], "looks" [B, T, N, 2, h * w] log-weights of the named keypoints.
        """
        batch, length = images.shape[:2]
        tokens = [encoder(images[:, :, i].flatten(0, 1)) for i, encoder in enumerate(self.encoders)]
        condition = self.instruction(words)
        x, looks = self._fuse(
            tokens,
            proprioception.flatten(0, 1),
            condition.repeat_interleave(length, dim=0),
        )
        seen = x = x.unflatten(0, (batch, length))
        for norm, layer in zip(self.norms, self.core, strict=True):
            x = x + layer(norm(x))[0]
        actions, done = self._heads(x)
        named = [look[:, : len(NAMED_KEYPOINTS)].unflatten(0, (batch, length)) for look in looks]
        return {
            "actions": actions,
            "done": done,
            "locate": self.locate(seen),
            "looks": torch.stack(named, dim=2),
        }

    def _fuse(
        self, tokens: Sequence[Tensor], proprioception: Tensor, condition: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """One vector [B, D] of all that is known now, and where each camera's keypoints look.

        Takes tokens of each camera [B, h, w, C], proprioception [B, P] and condition [B, E].
        """
        seen, looks = zip(
            *(
                keypoints(grid, keypoints.queries(condition))
                for keypoints, grid in zip(self.keypoints, tokens, strict=True)
            ),
            strict=True,
        )
        mean = proprioception.new_tensor(self.statistics.proprioception_mean)
        std = proprioception.new_tensor(self.statistics.proprioception_std)
        fused = self.fuse(torch.cat([*seen, (proprioception - mean) / std, condition], dim=-1))
        return fused, looks

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.head(x)
        actions = self.action(x).unflatten(-1, (self.config.horizon, -1))
        return actions, self.done(x).squeeze(-1)

    # -- running: the recurrent form ---------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Visual tokens of one frame of every camera.

        Args:
            images: one uint8 [S, S, 3] a camera, in the order of `config.cameras`.

        Returns:
            float16 [N, h, w, C] (half precision because it travels between nodes).

        Raises:
            ValueError: wrong number, size or type of images.
        """
        size, expected = self.config.image_size, len(self.config.cameras)
        if len(images) != expected:
            raise ValueError(f"expected images of {', '.join(self.config.cameras)}")
        for camera, image in zip(self.config.cameras, images, strict=True):
            if image.shape != (size, size, 3) or image.dtype != np.uint8:
                raise ValueError(
                    f"{camera}: expected uint8 [{size}, {size}, 3], "
                    f"got {image.dtype} {list(image.shape)}"
                )
        tokens = [
            encoder(torch.from_numpy(np.ascontiguousarray(image))[None])[0]
            for encoder, image in zip(self.encoders, images, strict=True)
        ]
        return torch.stack(tokens).to(torch.float16).numpy()

    def start(self, instruction: str) -> Episode:
        """Begin an episode with a fresh state.

        Raises:
            ValueError: empty instruction or unknown words (they are named).
        """
        return Episode(self, instruction)

    @property
    def encoder_id(self) -> str:
        """Fingerprint of the encoders' weights: tokens only fit the policy trained on them."""
        digest = hashlib.sha256()
        for name, value in sorted(self.encoders.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    # -- checkpoints -------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, configuration and statistics; each file appears whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        statistics = {name: value.tolist() for name, value in vars(self.statistics).items()}
        texts = {CONFIG: asdict(self.config), STATISTICS: statistics}
        for name, values in texts.items():
            partial = folder / f".{name}.partial"
            partial.write_text(json.dumps(values, indent=1) + "\n")
            os.replace(partial, folder / name)
        partial = folder / f".{WEIGHTS}.partial"
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, partial)
        partial.chmod(0o644)
        os.replace(partial, folder / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VisionLanguageActionModel:
        """Load a checkpoint folder, in evaluation mode.

        Raises:
            FileNotFoundError: a file of the checkpoint is missing.
            ValueError: a file is damaged or does not fit the others.
        """
        folder = Path(folder)
        for name in (CONFIG, STATISTICS, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"checkpoint {folder} has no {name}: give the folder written by training, "
                    "or 'arm' for the one that ships"
                )
        try:
            config = VLAMConfig.from_dict(json.loads((folder / CONFIG).read_text()))
            values = json.loads((folder / STATISTICS).read_text())
            statistics = Statistics(**{k: np.array(v, dtype=np.float64) for k, v in values.items()})
            weights = load_file(folder / WEIGHTS)
        except (ValueError, TypeError, SafetensorError) as error:
            raise ValueError(
                f"checkpoint {folder} is damaged ({error}): copy or train it again"
            ) from error
        neutral = vars(Statistics.neutral(config))
        for name, value in vars(statistics).items():
            if value.shape != neutral[name].shape or not np.isfinite(value).all():
                raise ValueError(
                    f"checkpoint {folder}: {name} in {STATISTICS} does not fit {CONFIG}"
                )
        model = cls(config, statistics)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"checkpoint {folder}: the weights do not fit {CONFIG}: {error}"
            ) from error
        return model.eval()


class Episode:
    """One run of a policy under one instruction; owns the recurrent state."""

    def __init__(self, model: VisionLanguageActionModel, instruction: str) -> None:
        words = tokenize(instruction, model.config.vocabulary)
        self.instruction = instruction
        self._model = model
        with torch.inference_mode():
            self._condition = model.instruction(torch.tensor([words]))
        self._states: list[Mamba2State] = [layer.initial_state(1) for layer in model.core]
        self._low = np.array(model.config.action_low)
        self._high = np.array(model.config.action_high)

    @torch.inference_mode()
    def act(self, tokens: np.ndarray, proprioception: np.ndarray) -> Action:
        """The action chunk for one observation; advances the state.

        Args:
            tokens: [N, h, w, C] from `encode`.
            proprioception: [P], physical units.

        Raises:
            ValueError: wrong shape, or NaN or infinity in either (the state stays as it was).
        """
        config = self._model.config
        if tokens.shape != config.grid:
            raise ValueError(
                f"expected visual tokens {list(config.grid)}, got {list(tokens.shape)}"
            )
        if proprioception.shape != (len(config.proprioception_names),):
            raise ValueError(
                f"expected proprioception [{len(config.proprioception_names)}], "
                f"got {list(proprioception.shape)}"
            )
        if not (np.isfinite(tokens).all() and np.isfinite(proprioception).all()):
            raise ValueError("the observation holds NaN or infinity")
        model = self._model
        grids = torch.from_numpy(tokens.astype(np.float32))[:, None]
        felt = torch.from_numpy(proprioception.astype(np.float32))[None]
        x, _ = model._fuse(list(grids), felt, self._condition)
        states = []
        for norm, layer, state in zip(model.norms, model.core, self._states, strict=True):
            y, state = layer.step(norm(x), state)
            x = x + y
            states.append(state)
        self._states = states
        actions, done = model._heads(x)
        return self._action(actions[0].double().numpy(), float(done))

    def _action(self, raw: np.ndarray, done: float) -> Action:
        opening = 1.0 / (1.0 + np.exp(-raw[:, -1]))
        actions = raw * self._model.statistics.action_scale
        actions[:, -1] = opening * self._high[-1]
        return Action(
            actions=np.clip(actions, self._low, self._high),
            done=1.0 / (1.0 + math.exp(-min(max(done, -30.0), 30.0))),
            confidence=float(2.0 * np.abs(opening - 0.5).mean() + 1e-6),
        )
