"""Latent action model: which of a few actions lies between two frames (Genie, section 2.1).

    frames x_1 .. x_t+1 ── encoder ── vector ── VQ ── one of 8 codes
    x_t and the code ── decoder ── x_t+1

Nobody labels the actions: the code is all that the decoder is told about the next frame, so it says
what changes. At inference only the encoder and the codebook survive; the user, or the robot's plan,
chooses codes.

Two things differ from the paper, for the sake of size. The encoder sees each frame beside how it
changed since the one before, instead of finding it out. And the decoder sees few of the frames
before x_t (nano's none, `decoder_window`): with them, motion could be guessed without any action.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_ros.models.genie.quantizers import VQ
from vla_ros.models.genie.st_transformer import Past, STTransformer
from vla_ros.models.part import Part

# What a step needs of those before: the frame before [B, 1, 3, S, S], and the transformer's past.
FramePast = tuple[Tensor, Past]


@dataclass(frozen=True)
class LatentActionConfig:
    """Shape of the latent action model; the defaults are nano's."""

    image_size: int = 64  # pixels of either side
    patch: int = 8
    width: int = 96
    heads: int = 4
    encoder_layers: int = 2
    decoder_layers: int = 3
    encoder_window: int = 2  # frames
    decoder_window: int = 1
    codes: int = 8
    code_width: int = 32

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"{self.image_size} pixels are not divisible by {self.patch}")

    @property
    def grid(self) -> int:
        """Patches of either side."""
        return self.image_size // self.patch


class LatentActionEncoder(nn.Module):
    """Frames to latent actions. Frames are [B, T, 3, S, S] from 0 to 1."""

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        c = config
        self.embed = nn.Conv2d(6, c.width, c.patch, stride=c.patch)
        self.read_out = nn.Parameter(torch.randn(c.width) * 0.02)
        self.transformer = STTransformer(
            c.width, c.encoder_layers, c.heads, c.grid**2 + 1, c.encoder_window
        )
        self.to_code = nn.Linear(c.width, c.code_width)
        self.quantizer = VQ(c.codes, c.code_width)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes [B, T - 1, C] of what lies between the frames, their indices int64 [B, T - 1], and
        the loss that keeps vectors near their codes."""
        before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        x = self.transformer(self._places(frames, before))
        return self.quantizer(self.to_code(x[:, 1:, 0]))

    def step(self, frame: Tensor, past: FramePast | None) -> tuple[Tensor, FramePast]:
        """The latent action int64 [B] that led to this frame [B, 1, 3, S, S] (meaningless for the
        first), and the past of the next."""
        before, of_transformer = past or (frame, None)
        x, present = self.transformer.step(self._places(frame, before), of_transformer)
        _, index, _ = self.quantizer(self.to_code(x[:, 0, 0]))
        return index, (frame, present)

    def _places(self, frames: Tensor, before: Tensor) -> Tensor:
        """[B, T, 1 + N, D]: a place to read out from, and the patches."""
        pixels = torch.cat([frames - 0.5, frames - before], dim=2)
        patches = self.embed(pixels.flatten(0, 1)).flatten(2).transpose(1, 2)
        read_out = self.read_out.to(patches.dtype).expand(len(patches), 1, -1)
        return torch.cat([read_out, patches], dim=1).unflatten(0, frames.shape[:2])


class LatentActionModel(Part):
    """The encoder with the decoder that trains it."""

    Config = LatentActionConfig

    def __init__(self, config: LatentActionConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or LatentActionConfig()
        self.encoder = LatentActionEncoder(c)
        self.embed = nn.Conv2d(3, c.width, c.patch, stride=c.patch)
        self.action = nn.Linear(c.code_width, c.width)
        self.decoder = STTransformer(
            c.width, c.decoder_layers, c.heads, c.grid**2, c.decoder_window
        )
        self.head = nn.ConvTranspose2d(c.width, 3, c.patch, stride=c.patch)
        nn.init.zeros_(self.head.weight)  # at first nothing changes
        nn.init.zeros_(self.head.bias)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Each frame but the first, from the one before and the latent action.

        Args:
            frames: [B, T, 3, S, S] from 0 to 1.

        Returns:
            "frames" [B, T - 1, 3, S, S], not clamped; "actions" int64 [B, T - 1]; "commitment", a
            loss.
        """
        code, index, commitment = self.encoder(frames)
        return {
            "frames": self.predict(frames[:, :-1], code),
            "actions": index,
            "commitment": commitment,
        }

    def predict(self, frames: Tensor, code: Tensor) -> Tensor:
        """The frames [B, T, 3, S, S] after `frames`, of codes [B, T, C]."""
        x = self.embed(frames.flatten(0, 1) - 0.5).flatten(2).transpose(1, 2)
        x = x.unflatten(0, frames.shape[:2]) + self.action(code)[:, :, None]
        x = self.decoder(x).flatten(0, 1).transpose(1, 2)
        change = self.head(x.unflatten(2, (self.config.grid, self.config.grid)))
        return frames + change.unflatten(0, frames.shape[:2]).float()
