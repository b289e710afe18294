"""Training batches from recorded episodes: windows of consecutive frames, with action chunks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch

from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.windows import Batch, jitter, shift_images
from vla_ros.training.recipes import LENGTHS

_DONE = 0.25  # s at the end of a success in which the instruction counts as fulfilled
_FELT_NOISE = 0.02  # of each standard deviation
_TOOL = ("tool_x", "tool_y", "tool_z")


def action_chunks(episode: Episode, action: ActionConfig) -> tuple[np.ndarray, np.ndarray]:
    """What was done from each frame on.

    Offsets from the tool are told from where it was at the chunk's first action, as a policy tells
    them, though each was recorded from where the tool was by then.

    Returns:
        float32 [T, K, A], the last action repeated beyond the end; and which of them were recorded
        and are known, bool [T, K].

    Raises:
        ValueError: offsets from the tool, and nothing tells where it was.
    """
    length = len(episode)
    step = np.arange(length)[:, None] + np.arange(action.horizon)
    later = np.minimum(step, length - 1)
    chunks = episode.actions[later]
    if action.control_mode == "end_effector_offset":
        felt = list(episode.proprioception_names)
        if not {*_TOOL} <= {*felt} or not {"x", "y", "z"} <= {*action.action_names}:
            raise ValueError(
                f"{episode.name}: end_effector_offset needs actions x, y, z and proprioception "
                f"{', '.join(_TOOL)}"
            )
        tool = episode.proprioception[:, [felt.index(name) for name in _TOOL]]
        places = [action.action_names.index(name) for name in "xyz"]
        chunks[..., places] += tool[later] - tool[:, None]
    return chunks, (step < length) & episode.actions_known[later]


class EpisodeWindows:
    """Windows of consecutive frames from all episodes, drawn uniformly over frames.

    Args:
        episodes: whose pictures have the size of the model's images, such as those of shards.
        action: the policy's contract.
        cameras: in the model's order.
        tokens: ids of each instruction's words.
        felt_std: of each number of the proprioception.
        needs: what of "depth" [B, T, N, S, S] and "intrinsics" (as rays [B, 1, N, S, S, 3]) batches
            have beside images.

    Raises:
        ValueError: an episode lacks what is needed.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        action: ActionConfig,
        cameras: Sequence[str],
        tokens: Mapping[str, Sequence[int]],
        felt_std: np.ndarray,
        needs: Collection[str] = (),
    ) -> None:
        self._needs = needs
        for episode in episodes:
            episode.require(cameras, needs)
        self._episodes, self._cameras = episodes, tuple(cameras)
        self._chunks = [action_chunks(episode, action) for episode in episodes]
        self._tokens, self._noise = tokens, _FELT_NOISE * felt_std
        self._ends = np.cumsum([len(episode) for episode in episodes])
        self._widest = max(map(len, tokens.values()))
        longest = max(map(len, episodes))
        # Windows that are mostly padding teach little.
        kept = {length: share for length, share in LENGTHS.items() if length <= longest}
        self._lengths = list(kept)
        self._shares = np.array(list(kept.values())) / sum(kept.values())

    def batch(self, seed: int, step: int, frames: int, rank: int = 0) -> Batch:
        """Windows of one length, of `frames` frames in all, augmented; see `Windows.batch`."""
        rng = np.random.default_rng([seed, step])
        length = int(rng.choice(self._lengths, p=self._shares))
        if rank:
            rng = np.random.default_rng([seed, step, rank])
        windows = []
        for pick in rng.integers(self._ends[-1], size=max(frames // length, 1)):
            row = int(np.searchsorted(self._ends, pick, side="right"))
            total = len(self._episodes[row])
            first = int(pick - (self._ends[row] - total))
            if length == self._lengths[-1] and rng.random() < 0.5:
                first = 0
            first = min(first, max(total - length, 0))
            window = self._window(row, first, length)
            spatial = {name: window[name] for name in ("depth", "rays") if name in window}
            window["images"], _ = shift_images(window["images"], rng, spatial)
            window |= spatial
            windows.append(window)
        batch = _stacked(windows)
        batch["images"] = jitter(batch["images"], rng)
        noise = rng.normal(size=batch["proprioception"].shape) * self._noise
        batch["proprioception"] = batch["proprioception"] + torch.from_numpy(noise).float()
        return batch

    def whole(self, frames: int) -> Iterator[Batch]:
        """The first `frames` frames of each episode, one after the other, as they are."""
        for row, episode in enumerate(self._episodes):
            batch = _stacked([self._window(row, 0, min(len(episode), frames))])
            batch["images"] = batch["images"].permute(0, 1, 2, 5, 3, 4)
            yield batch

    def _window(self, row: int, first: int, length: int) -> dict[str, np.ndarray]:
        """`length` frames from `first` on; the last is repeated beyond the episode's end."""
        episode = self._episodes[row]
        last = min(first + length, len(episode))
        index = np.minimum(np.arange(first, first + length), last - 1)
        chunks, known = self._chunks[row]
        pictures = [np.stack([*episode.frames(camera, first, last)]) for camera in self._cameras]
        images = np.stack(pictures, axis=1)
        if len(images) < length:
            images = images[index - first]
        fulfilled = index >= len(episode) - round(_DONE / episode.dt)
        ids = np.zeros(self._widest, np.int64)
        words = self._tokens[episode.instruction]
        ids[: len(words)] = words
        return {
            "images": images,
            "proprioception": episode.proprioception[index],
            "actions": chunks[index],
            "known": known[index].astype(np.float32),
            "done": (fulfilled & bool(episode.outcome)).astype(np.float32),
            "done_known": np.full(length, episode.outcome is not None, np.float32),
            "mask": (np.arange(length) < last - first).astype(np.float32),
            "instruction": ids,
            **self._spatial(episode, first, last, index - first),
        }

    def _spatial(
        self, episode: Episode, first: int, last: int, rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        found = {}
        if "depth" in self._needs:
            layers = [np.stack([*episode.depth(name, first, last)]) for name in self._cameras]
            found["depth"] = np.stack(layers, axis=1)[rows]
        if "intrinsics" in self._needs:
            known = [episode.calibrations[name] for name in self._cameras]
            rays = np.stack([calibration.rays(calibration.width) for calibration in known])
            found["rays"] = rays[None]
        return found


def _stacked(windows: Sequence[Mapping[str, np.ndarray]]) -> Batch:
    names = windows[0]
    return {name: torch.from_numpy(np.stack([w[name] for w in windows])) for name in names}
