"""The vision-language-action model: images, proprioception, an instruction in; action chunks out.

    images ── encoder (small CNN, DINOv2, SigLIP) ── token grid [h, w, C] a camera
    tokens ── queries from the instruction ── spatial softmax (Levine et al. 2016)
    + proprioception + instruction ── Mamba core, h_t = Mamba(phi(I_t), h_t-1) ─┬─ action chunk
                                                                               └─ description

The encoder never sees the instruction, so one node can encode for several consumers. The core
trains in its parallel form (`forward`) and runs in its recurrent form (`Episode`); both give the
same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from vla_ros.models import checkpoint, language, vlam_checkpoint
from vla_ros.models.episode import Episode
from vla_ros.models.keypoints import NAMED_KEYPOINTS, InstructedKeypoints
from vla_ros.models.mamba import MambaStack, RMSNorm
from vla_ros.models.vision import (
    Geometry,
    PointMap,
    SpatialVision,
    build_encoder,
    encode_images,
    fingerprint,
    pool,
    require_geometry,
)
from vla_ros.models.vlam_config import SIZES, Statistics, VLAMConfig
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.descriptions import DESCRIPTION_WORDS
from vla_ros.scene_language.instructions import VOCABULARY


class VisionLanguageActionModel(nn.Module):
    """See the module's text.

    Args:
        action_config: the contract with the robot.
        vision_model: "small", "dinov2-small" and so on, a folder, or a description: see
            `vision.build_encoder`. Named ones come with their weights, described ones without.
        d_model, n_layers, d_state, mixer: of the Mamba core.
        vocab_size: tokens the model has room for; as many as the tokenizer has if left out.
        freeze_vision: the encoder is not trained.
        tokenizer: of instructions and descriptions; the package's words if left out.
        statistics: of the training data.
        geometry: fuse where things are into the tokens: a name, folder or description, see
            `vision.build_geometry`. None: images alone.
        shape: further fields of VLAMConfig.

    Raises:
        FileNotFoundError: the weights of the vision model are not on this machine.
        ValueError: settings that do not fit each other.
    """

    def __init__(
        self,
        action_config: ActionConfig,
        vision_model: str | dict = "small",
        d_model: int = 512,
        n_layers: int = 4,
        d_state: int = 64,
        vocab_size: int | None = None,
        freeze_vision: bool = False,
        *,
        tokenizer: Tokenizer | None = None,
        statistics: Statistics | None = None,
        geometry: str | dict | None = None,
        **shape,
    ) -> None:
        super().__init__()
        if tokenizer is None:
            tokenizer = language.word_tokenizer(VOCABULARY, DESCRIPTION_WORDS)
            shape.setdefault("heard_tokens", 1 + tokenizer.token_to_id(VOCABULARY[-1]))
        self.tokenizer = tokenizer
        if vocab_size is None:
            vocab_size = tokenizer.get_vocab_size()
        shape.setdefault("heard_tokens", vocab_size)
        language.check_tokenizer(tokenizer, vocab_size)
        self.statistics = statistics or Statistics.neutral(action_config)
        cameras = tuple(shape.pop("cameras", VLAMConfig.cameras))
        # A small encoder a camera, because each sees the scene in its own way; a pretrained one
        # serves all.
        encoder = build_encoder(vision_model)
        vision = encoder.description()
        more = len(cameras) - 1 if vision["model_type"] == "small" else 0
        self.encoders = nn.ModuleList([encoder, *(build_encoder(vision) for _ in range(more))])
        if freeze_vision:
            for encoder in self.encoders:
                encoder.freeze()
        self.spatial = None if geometry is None else SpatialVision(geometry, self.encoders)
        self.config = c = VLAMConfig(
            action_config, vision, d_model, n_layers, d_state,
            vocab_size=vocab_size, freeze_vision=freeze_vision, cameras=cameras,
            geometry=self.spatial and self.spatial.description(), **shape,
        )  # fmt: skip
        self.instruction = language.InstructionEncoder(c.heard_tokens, c.instruction_width)
        self.keypoints = nn.ModuleList(
            InstructedKeypoints(
                encoder.channels, c.keypoint_width, c.keypoints, c.instruction_width
            )
            for _ in cameras
        )
        seen = len(cameras) * c.keypoints * (2 + InstructedKeypoints.VALUES)
        known = seen + len(action_config.proprioception_names) + c.instruction_width
        self.fuse = nn.Sequential(
            nn.Linear(known, 2 * c.d_model),
            nn.SiLU(),
            nn.Linear(2 * c.d_model, c.d_model),
        )
        self.core = MambaStack(c.d_model, c.n_layers, c.d_state, c.mixer)
        self.head = nn.Sequential(
            RMSNorm(c.d_model), nn.Linear(c.d_model, 2 * c.d_model), nn.SiLU()
        )
        self.action = nn.Linear(2 * c.d_model, action_config.horizon * action_config.action_dim)
        self.done = nn.Linear(2 * c.d_model, 1)
        # Training only: where the object and the goal are, from what is seen (6 offsets in 0.1 m).
        self.locate = nn.Linear(c.d_model, 6)
        # To name things takes more than to act on them: colours, say, are no matter to a grasp. So
        # this head also reads what goes into the core.
        self.language = language.LanguageDecoder(
            c.d_model + known, c.vocab_size, c.text_width, c.text_layers
        )
        self._register_statistics()

    @classmethod
    def from_size(
        cls, size: str, action_config: ActionConfig, **changes
    ) -> VisionLanguageActionModel:
        """A model of SIZES; `changes` replace or add arguments of the constructor."""
        if size not in SIZES:
            raise ValueError(f"no size '{size}': choose {', '.join(SIZES)}")
        return cls(action_config, **{**SIZES[size], **changes})

    def _register_statistics(self) -> None:
        for name, value in vars(self.statistics).items():
            self.register_buffer(f"_{name}", torch.tensor(value, dtype=torch.float32), False)
        bounds = torch.tensor(self.config.action.action_bounds, dtype=torch.float64)
        # Rounded inwards: a bound's nearest fp32 may be outside.
        single = bounds.float()
        inwards = torch.nextafter(single, single.flip(-1))
        outside = torch.stack([single[:, 0] < bounds[:, 0], single[:, 1] > bounds[:, 1]], dim=-1)
        low, high = torch.where(outside, inwards, single).unbind(-1)
        self.register_buffer("_low", low, False)
        self.register_buffer("_high", high, False)
        self.register_buffer("_binary", torch.tensor(self.config.action.binary), False)

    @property
    def image_size(self) -> int:
        """Pixels of either side of an input image."""
        return self.encoders[0].image_size

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """Shape of the visual tokens: cameras, height, width, channels."""
        return (len(self.config.cameras), *self.encoders[0].grid, self.encoders[0].channels)

    @property
    def encoder_id(self) -> str:
        """See `vision.fingerprint`."""
        if self.spatial is None:
            return fingerprint(self.encoders)
        return fingerprint(
            nn.ModuleList([self.encoders, self.spatial]), json.dumps(self.config.geometry)
        )

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names, in the order in which `encode` takes their images."""
        return self.config.cameras

    @property
    def action_config(self) -> ActionConfig:
        """The contract with the robot."""
        return self.config.action

    @property
    def language_conditioned(self) -> bool:
        """Whether instructions are heeded."""
        return self.config.language_conditioned

    @property
    def mean_action(self) -> np.ndarray:
        """[A] of the training data, physical units."""
        return self.statistics.action_offset[0]

    @property
    def geometry_description(self) -> dict | None:
        """What is fused into the visual tokens beside images."""
        return self.config.geometry

    statistics_keys: Sequence[str] = ()  # it has those of one dataset
    statistics_key = ""

    def get_action_description(self) -> dict:
        """What the actions mean: the fields of ActionConfig, as plain values."""
        return {**asdict(self.config.action), "robot_type": self.config.action.robot_type.value}

    # -- the parallel form: training, and prefilling a history -------------------------------------

    def forward(
        self,
        images: Tensor,
        proprioception: Tensor | None = None,
        instruction: str | Sequence[str] | Tensor | None = None,
        text: Tensor | None = None,
        geometry: Geometry | None = None,
    ) -> dict[str, Tensor]:
        """Whole sequences, each from an empty state.

        Args:
            images: [B, S, N, 3, H, W] of N cameras, or [B, S, 3, H, W] or [B, 3, H, W] of one;
                uint8 or floats from 0 to 1.
            proprioception: [B, S, P] (or [B, P] with one frame), physical units.
            instruction: one for all, one a row, or token ids int64 [B, W], 0 pads. None: a robot
                that nobody told anything.
            text: descriptions to score, token ids int64 [B, S, W], 0 pads.
            geometry: [B, S, N, h, w] of a policy that fuses it, of `spatial.geometry` or `points`.

        Returns:
            "actions" [B, S, A] and "action_chunks" [B, S, K, A], physical and within bounds;
            "raw_actions" [B, S, K, A] before that: normalised, binary ones as logits;
            "features" [B, S, D] of the core, and "context" [B, S, E] which has beside them what
            went into the core; "language_logits" [B, S, V] of a description's first token, or
            [B, S, W + 1, V] of all tokens of `text`; "done" logits [B, S]; "locate" [B, S, 6];
            "looks" [B, S, N, 2, h * w] log-weights of the named keypoints.

        Raises:
            ValueError: wrong shape or type, NaN or infinity, unknown words.
        """
        images, felt = self._observation(images, proprioception)
        batch, length, cameras = images.shape[:3]
        condition = self.instruction(self._token_ids(instruction, batch))
        queries = [keypoints.queries(condition) for keypoints in self.keypoints]
        grids = self._encode(images, geometry)
        known, looks = self._known(
            grids,
            felt.flatten(0, 1),
            condition.repeat_interleave(length, dim=0),
            [query.repeat_interleave(length, dim=0) for query in queries],
        )
        known = known.unflatten(0, (batch, length))
        fused = self.fuse(known)
        x, _ = self.core(fused)
        raw, done = self._heads(x)
        chunks = self._physical(raw)
        sentences = text if text is not None else images.new_zeros((batch, length, 0), dtype=int)
        context = torch.cat([x, known], dim=-1)
        logits = self.language(context.flatten(0, 1), sentences.flatten(0, 1))
        logits = logits.unflatten(0, (batch, length))
        named = [look[:, : len(NAMED_KEYPOINTS)].unflatten(0, (batch, length)) for look in looks]
        return {
            "actions": chunks[:, :, 0],
            "action_chunks": chunks,
            "raw_actions": raw,
            "features": x,
            "context": context,
            "language_logits": logits if text is not None else logits[:, :, 0],
            "done": done,
            "locate": self.locate(fused),
            "looks": torch.stack(named, dim=2),
        }

    def _observation(self, images: Tensor, proprioception: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images [B, S, N, 3, H, W] and proprioception [B, S, P], checked."""
        if images.ndim == 4:
            images = images[:, None]
            if proprioception is not None and proprioception.ndim == 2:
                proprioception = proprioception[:, None]
        if images.ndim == 5:
            images = images[:, :, None]
        cameras, names = self.config.cameras, self.config.action.proprioception_names
        if images.ndim != 6 or images.shape[2] != len(cameras):
            raise ValueError(
                f"images have shape {list(images.shape)}: give [B, S, {len(cameras)}, 3, H, W] of "
                f"{', '.join(cameras)}"
            )
        expected = (*images.shape[:2], len(names))
        if proprioception is None and not names:
            proprioception = self._proprioception_mean.new_zeros(expected)
        if proprioception is None or proprioception.shape != expected:
            got = "nothing" if proprioception is None else list(proprioception.shape)
            raise ValueError(
                f"expected proprioception {list(expected)} ({', '.join(names)}), got {got}"
            )
        if not torch.isfinite(proprioception).all():
            raise ValueError("the proprioception holds NaN or infinity")
        return images, proprioception

    def unheard_words(self, instruction: str) -> list[str]:
        """The words of an instruction that the model was not taught, and does without."""
        if not self.config.language_conditioned:
            return []
        return language.unheard(self.tokenizer, instruction, self.config.heard_tokens)

    def _token_ids(self, instruction: str | Sequence[str] | Tensor | None, batch: int) -> Tensor:
        """Token ids [batch, W] of the instructions."""
        if isinstance(instruction, Tensor):
            return instruction
        if instruction is None or not self.config.language_conditioned:
            return torch.zeros(batch, 1, dtype=torch.int64, device=self._low.device)
        texts = [instruction] * batch if isinstance(instruction, str) else list(instruction)
        if len(texts) != batch:
            raise ValueError(f"{len(texts)} instructions for {batch} rows of images")
        c = self.config
        ids = {
            text: language.encode(self.tokenizer, text, c.heard_tokens, c.needed_words)
            for text in set(texts)
        }
        return language.pad(ids[text] for text in texts).to(self._low.device)

    def _encode(self, images: Tensor, geometry: Geometry | None) -> list[Tensor]:
        """Tokens [B * S, h, w, C] of each camera of images [B, S, N, 3, H, W]."""
        require_geometry(self.spatial, geometry, images.shape[:3])
        grids = []
        for camera in range(images.shape[2]):
            encoder = self.encoders[min(camera, len(self.encoders) - 1)]
            tokens = encoder(images[:, :, camera].flatten(0, 1))
            if geometry is not None:
                parts = (part[:, :, camera].flatten(0, 1) for part in geometry)
                tokens = self.spatial.fuse(tokens, Geometry(*parts), camera)
            grids.append(tokens)
        return grids

    def _known(
        self,
        grids: Sequence[Tensor],
        proprioception: Tensor,
        condition: Tensor,
        queries: Sequence[Tensor],
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """All that is known now, one vector a row, and where each camera's keypoints look.

        Takes each camera's tokens [B, h, w, C] and queries [B, K, C], and the proprioception [B, P]
        and condition [B, E].
        """
        pairs = [
            keypoints(grid, query)
            for keypoints, grid, query in zip(self.keypoints, grids, queries, strict=True)
        ]
        seen, looks = zip(*pairs, strict=True)
        felt = (proprioception - self._proprioception_mean) / self._proprioception_std
        return torch.cat([*seen, felt, condition], dim=-1), looks

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.head(x)
        actions = self.action(x).unflatten(-1, (self.config.action.horizon, -1))
        return actions, self.done(x).squeeze(-1)

    def _physical(self, raw: Tensor) -> Tensor:
        """Raw actions [..., K, A] in physical units, within their bounds exactly."""
        raw = raw.float()
        decided = self._low + torch.sigmoid(raw) * (self._high - self._low)
        moved = self._action_offset + raw * self._action_scale
        return torch.where(self._binary, decided, moved).clamp(self._low, self._high)

    # -- the recurrent form: running ---------------------------------------------------------------

    def point_map(
        self,
        images: Sequence[np.ndarray],
        depth: Sequence[np.ndarray] | None = None,
        intrinsics: Sequence[np.ndarray] | None = None,
    ) -> PointMap:
        """Points of one frame of every camera: see `vision.SpatialVision.point_map`."""
        if self.spatial is None:
            raise ValueError("the policy was trained on images alone: it takes no geometry")
        return self.spatial.point_map(images, depth, intrinsics)

    def points(
        self,
        images: Sequence[np.ndarray],
        depth: Sequence[np.ndarray] | None = None,
        intrinsics: Sequence[np.ndarray] | None = None,
    ) -> Geometry:
        """Geometry [N, h, w] of what `point_map` takes."""
        return pool(self.point_map(images, depth, intrinsics), self.encoders[0].grid)

    def encode(self, images: Sequence[np.ndarray], geometry: Geometry | None = None) -> np.ndarray:
        """Visual tokens float16 [N, h, w, C] of one frame of every camera of `config.cameras`: see
        `vision.encode_images`; with the geometry of `points`, of this frame or an earlier one."""
        require_geometry(self.spatial, geometry, (len(self.config.cameras),))
        fuse = None
        if geometry is not None:

            def fuse(tokens: Tensor, camera: int) -> Tensor:
                return self.spatial.fuse(tokens, geometry.at(camera), camera)

        return encode_images(self.encoders, self.config.cameras, images, fuse)

    def start(self, instruction: str | Sequence[str] | None, batch: int = 1) -> Episode:
        """Begin `batch` episodes with a fresh state; one instruction for all, or one each.

        Raises:
            ValueError: empty instruction or unknown words (they are named).
        """
        return Episode(self, instruction, batch)

    def reset(self) -> None:
        """Forget the episode of `predict_next_action`."""
        self._episode = None

    _episode: Episode | None = None

    def predict_next_action(
        self,
        images: Tensor,
        proprioception: Tensor | None = None,
        instruction: str | Sequence[str] | None = None,
        geometry: Geometry | None = None,
    ) -> tuple[Tensor, str | list[str]]:
        """Advance the episode by what was seen; the next action, and what is being done.

        The recurrent state is kept from call to call. A new instruction or batch size, or `reset`,
        starts a new episode. For whole chunks and several episodes at once see `start`.

        Args:
            images, proprioception, geometry: as in `forward`; usually one frame.
            instruction: for this episode.

        Returns:
            The action [B, A] and its description (one a row if B > 1).
        """
        images, felt = self._observation(images, proprioception)
        asked = (instruction, len(images))
        if self._episode is None or (self._episode.instruction, self._episode.batch) != asked:
            self._episode = self.start(*asked)
        chunks, _ = self._episode.watch(images, felt, geometry)
        texts = self._episode.describe()
        return chunks[:, 0], texts[0] if len(texts) == 1 else texts

    # -- checkpoints -------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, configuration, statistics and tokenizer, each file whole or not at all."""
        texts = vlam_checkpoint.texts(self.config, self.statistics, self.tokenizer)
        checkpoint.write(Path(folder), self, texts)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VisionLanguageActionModel:
        """Load a checkpoint folder, in evaluation mode.

        Raises:
            FileNotFoundError: a file of the checkpoint is missing.
            ValueError: a file is damaged or does not fit the others.
        """
        folder = Path(folder)
        config, statistics, tokenizer = vlam_checkpoint.read(folder)
        shape = {k: v for k, v in vars(config).items() if k not in ("action", "vision")}
        given = {"tokenizer": tokenizer, "statistics": statistics, **shape}
        model = checkpoint.build(folder, lambda: cls(config.action, config.vision, **given))
        checkpoint.read_weights(folder, model)
        return model.eval()
