"""Videos as tokens and latent actions, computed once: what a world model's dynamics train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vla_ros.models.genie.latent_actions import LatentActionEncoder
from vla_ros.models.genie.tokenizer import VideoTokenizer
from vla_ros.training.data.arrays import check_sums, map_array, write_sums
from vla_ros.training.data.clips import Clips
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.provenance import code

_BLOCK = 48  # frames that are encoded at once


@dataclass(frozen=True)
class TokenClips:
    """The sequences of `clips.rows`, one after the other, mapped from disk.

    Args:
        clips: whose videos they are.
        tokens: uint16 [all frames, N].
        actions: uint8 [all frames], the latent action that led to each; meaningless for the first
            of a sequence.
    """

    clips: Clips
    tokens: np.ndarray
    actions: np.ndarray

    @classmethod
    def of(
        cls,
        clips: Clips,
        tokenizer: VideoTokenizer,
        latent_actions: LatentActionEncoder,
        folder: Path,
    ) -> TokenClips:
        """Read them from a folder in `folder`; write it if it is not there.

        The folder's name tells the weights, the code and each frame, so that it never serves
        others.

        Raises:
            ValueError: what is there is damaged.
        """
        target = folder / _fingerprint(clips, tokenizer, latent_actions)
        if not target.exists():
            _write(clips, tokenizer, latent_actions, target)
        check_sums(target)
        frames = int(clips.rows[:, 2].sum())
        tokens = map_array(target / "tokens.npy", "uint16", (frames, None))
        actions = map_array(target / "actions.npy", "uint8", (frames,))
        return cls(clips, tokens, actions)

    def batch(
        self, seed: int, step: int, count: int, length: int, rank: int = 0
    ) -> dict[str, Tensor]:
        """Of the clips of (seed, step, rank): "tokens" int64 [count, length, N] and "actions"
        int64 [count, length - 1]."""
        row, first = self.clips.pick(np.random.default_rng([seed, step, rank]), count, length)
        first = first + np.cumsum(self.clips.rows[:, 2])[row] - self.clips.rows[row, 2]
        index = first[:, None] + np.arange(length)
        return {
            "tokens": torch.from_numpy(self.tokens[index].astype(np.int64)),
            "actions": torch.from_numpy(self.actions[index[:, 1:]].astype(np.int64)),
        }

    def sequences(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Episode, which frames of it, their tokens, and the actions that led to them."""
        begin = 0
        for number, index in self.clips.sequences():
            part = slice(begin, begin + len(index))
            begin = part.stop
            yield number, index, self.tokens[part], self.actions[part]


def _write(
    clips: Clips, tokenizer: VideoTokenizer, latent_actions: LatentActionEncoder, target: Path
) -> None:
    tokenizer.eval()
    latent_actions.eval()
    tokens, actions = [], []
    with whole_folder(target) as folder, torch.inference_mode():
        for number, index in tqdm(clips.sequences(), total=len(clips.rows), desc="tokens"):
            for begin, part in blocks(index, _reach(tokenizer, latent_actions)):
                frames = torch.from_numpy(clips.frames(number, part))
                frames = (frames.permute(0, 3, 1, 2).float() / 255)[None]
                _, found, _ = latent_actions(frames)
                led = torch.cat([found.new_zeros(1, 1), found], dim=1)
                tokens.append(tokenizer.encode(frames)[0, begin:].numpy().astype(np.uint16))
                actions.append(led[0, begin:].numpy().astype(np.uint8))
        np.save(folder / "tokens.npy", np.concatenate(tokens))
        np.save(folder / "actions.npy", np.concatenate(actions))
        write_sums(folder, ("tokens.npy", "actions.npy"))


def blocks(index: np.ndarray, reach: int) -> Iterator[tuple[int, np.ndarray]]:
    """Parts of a sequence, each after the `reach` frames before it that can have a say in it; and
    how many those are."""
    for first in range(0, len(index), _BLOCK):
        begin = max(first - reach, 0)
        yield first - begin, index[begin : first + _BLOCK]


def _reach(tokenizer: VideoTokenizer, latent_actions: LatentActionEncoder) -> int:
    """How many frames back what a frame is encoded as depends on others."""
    return 1 + max(
        len(transformer.blocks) * (transformer.window - 1)
        for transformer in (tokenizer.encoder, latent_actions.transformer)
    )


def _fingerprint(clips: Clips, *models: nn.Module) -> str:
    digest = hashlib.sha256()
    for model in models:
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    digest.update(
        code("vla_ros.models.genie.tokenizer", "vla_ros.models.genie.latent_actions").encode()
    )
    digest.update(json.dumps([clips.camera, clips.rows.tolist()]).encode())
    for number, index in clips.sequences():
        digest.update(clips.frames(number, index).tobytes())
    return digest.hexdigest()[:16]
