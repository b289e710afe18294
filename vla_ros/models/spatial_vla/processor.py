"""From images and a sentence to what SpatialVLA takes, and from its tokens to a robot's actions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from vla_ros.models.spatial_vla.configuration import TOKENS_PER_ACTION, SpatialVLAConfig
from vla_ros.models.spatial_vla.grid import ActionGrid
from vla_ros.models.spatial_vla.normalization import ActionStatistics, statistics_of
from vla_ros.models.spatial_vla.text import BOS, IMAGE, add_action_tokens
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer

ACTION_DIM = 7  # x, y, z, roll, pitch, yaw, gripper
_IGNORED = -100  # labels that the loss leaves out


class SpatialVLAProcessor(ProcessorMixin):
    """Images and instructions in, actions out.

    Args:
        image_processor: of SigLIP, to the model's image size, in 0..1 (the model normalises); with
            `image_seq_length`, the tokens of an image.
        tokenizer: for text, see `vla_ros.models.spatial_vla.text`.
        statistics: name of a dataset or robot -> {"action": {"q01", "q99", "mask"}} of 7 numbers
            each; what the mask leaves out (the gripper) is not normalised.
        action_encoding: `SpatialActionTokenizer.to_dict()`.
        action_chunk_size: actions of a chunk.
        bin_policy: the grid as published checkpoints have it, instead of `action_encoding`.
        action_config, intrinsic_config, num_obs_steps, obs_delta, min_sigma: of published
            checkpoints. Their camera is not used: geometry comes with the real camera's.

    Raises:
        ValueError: statistics, grid or image processor that do not fit.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        statistics: dict | None = None,
        action_encoding: dict | None = None,
        action_chunk_size: int = 4,
        bin_policy: dict | None = None,
        action_config: dict | None = None,
        intrinsic_config: dict | None = None,
        num_obs_steps: int = 1,
        obs_delta: int = 1,
        min_sigma: float = 0.0,
    ) -> None:
        length = getattr(image_processor, "image_seq_length", None)
        if not isinstance(length, int) or length < 1:
            raise ValueError("image_processor lacks image_seq_length, the tokens of an image")
        if num_obs_steps != 1:
            raise ValueError(f"num_obs_steps is {num_obs_steps}: only one image is taken")
        if IMAGE not in tokenizer.get_vocab():
            tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.action_tokenizer = _action_tokenizer(action_encoding, bin_policy, action_config)
        self.action_encoding = self.action_tokenizer.to_dict()
        self.action_token_begin_idx = add_action_tokens(tokenizer, self.action_tokenizer.vocab_size)
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        self.image_seq_length = length
        self.action_chunk_size = action_chunk_size
        self.statistics = dict(statistics or {})
        for key in self.statistics:
            self.action_statistics(key)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> SpatialVLAProcessor:
        """Load what `save_pretrained` wrote, or a published processor.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged.
        """
        path = Path(folder)
        if path.is_dir():
            for name in ("processor_config.json", "tokenizer.json"):
                if not (path / name).is_file():
                    raise FileNotFoundError(
                        f"{path} has no {name}: give the folder that save_pretrained wrote"
                    )
                try:
                    json.loads((path / name).read_text())
                except ValueError as error:
                    raise ValueError(f"{path / name} is damaged: {error}") from error
        return super().from_pretrained(folder, **kwargs)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        unnorm_key: str | None = None,
        suffix_actions: Any = None,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Make the model's inputs.

        Args:
            images: one a text, or a list of as many for each text: PIL images, or uint8 arrays
                [H, W, 3]; any size.
            text: what to do, in the words that the model was trained with, as "What action should
                the robot take to pick the cup?"
            unnorm_key: of the statistics; an unknown one is told here, before anything is computed.
            suffix_actions: for training, in -1..1 as `normalize_actions` gives them:
                [action_chunk_size, 7], or [B, action_chunk_size, 7].
            return_tensors: "pt", the only one.
            kwargs: of the image processor.

        Returns:
            input_ids [B, S], padded at the left: image tokens, begin, the text and a line break,
            then the actions' tokens and the end; attention_mask and token_type_ids [B, S] (1 from
            the first action on); pixel_values [B, 3, H, W]; with actions, labels [B, S].

        Raises:
            ValueError: not one image a text, an image of another shape or type, an unknown key,
                empty texts, or texts that hold special tokens.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}: only 'pt' is supported")
        if unnorm_key is not None:
            self.action_statistics(unnorm_key)
        texts = [text] if isinstance(text, str) else list(text or ())
        images = list(images) if isinstance(images, list | tuple) else [images]
        shown = [list(each) if isinstance(each, list | tuple) else [each] for each in images]
        if len(shown) != len(texts) or not texts:
            raise ValueError(f"{len(shown)} images for {len(texts)} texts: give one image a text")
        if (least := min(map(len, shown))) != max(map(len, shown)) or not least:
            raise ValueError("a text has no image or more than another: give each as many")
        images = [image for each in shown for image in each]
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("texts must be strings")
        pixels = self.image_processor(
            [_checked_image(image, i) for i, image in enumerate(images)],
            return_tensors="pt",
            **{"do_normalize": False, **kwargs},
        )
        prompts = [self.prompt_ids(each, least) for each in texts]
        suffixes = self._suffixes(suffix_actions, len(texts))
        data = self._padded(prompts, suffixes)
        if suffix_actions is None:
            del data["labels"]
        return BatchFeature({**data, "pixel_values": pixels["pixel_values"]})

    def prompt_ids(self, text: str, images: int = 1) -> list[int]:
        """Ids of a row before its first action: tokens of the images, begin, text, line break.

        Raises:
            ValueError: the text is empty, or holds special tokens.
        """
        text = text.removeprefix(IMAGE)  # where published code wants it written out
        if not text.strip():
            raise ValueError("the text is empty: tell the robot what to do")
        words = self.tokenizer(f"{text}\n", add_special_tokens=False)["input_ids"]
        special = {self.image_token_id, *self.tokenizer.all_special_ids}
        if wrong := [i for i in words if i in special or i >= self.action_token_begin_idx]:
            token = self.tokenizer.convert_ids_to_tokens(wrong[0])
            raise ValueError(f"the text holds the special token {token}: {text[:80]!r}")
        begin = self.tokenizer.bos_token_id
        if begin is None:
            raise ValueError(f"the text tokenizer has no token for the begin, {BOS}")
        return [self.image_token_id] * (images * self.image_seq_length) + [begin, *words]

    def _suffixes(self, actions: Any, rows: int) -> list[list[int]]:
        if actions is None:
            return [[]] * rows
        values = np.asarray(actions, dtype=np.float64)
        values = values[None] if values.ndim == 2 else values
        wanted = (rows, self.action_chunk_size, ACTION_DIM)
        if values.shape != wanted:
            raise ValueError(f"expected suffix_actions {list(wanted)}, got {list(values.shape)}")
        if not (np.abs(values) <= 1).all():  # NaN compares false
            raise ValueError(
                "suffix_actions must lie in -1..1: make them with normalize_actions, which clips"
            )
        ids = self.action_tokenizer.encode(values) + self.action_token_begin_idx
        end = self.tokenizer.eos_token_id
        return [[*row, end] for row in ids.reshape(rows, -1).tolist()]

    def _padded(self, prompts: list[list[int]], suffixes: list[list[int]]) -> dict[str, Tensor]:
        """Left, so that what is generated follows the text in each row."""
        length = max(len(p) + len(s) for p, s in zip(prompts, suffixes, strict=True))
        shape = (len(prompts), length)
        ids = torch.full(shape, self.tokenizer.pad_token_id)
        mask, types = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        for row, (prompt, suffix) in enumerate(zip(prompts, suffixes, strict=True)):
            start = length - len(prompt) - len(suffix)
            ids[row, start:] = torch.tensor(prompt + suffix)
            mask[row, start:] = 1
            types[row, length - len(suffix) :] = 1
        labels = ids.masked_fill(types == 0, _IGNORED)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "labels": labels}

    def action_statistics(self, unnorm_key: str | None = None) -> ActionStatistics:
        """Those of one dataset or robot.

        Raises:
            ValueError: an unknown key, or none where there are several; numbers that cannot be, or
                not seven.
        """
        statistics = statistics_of(self.statistics, unnorm_key)
        if len(statistics.q01) != ACTION_DIM:
            raise ValueError(
                f"statistics {unnorm_key!r} are of {len(statistics.q01)} numbers: an action has "
                f"{ACTION_DIM}"
            )
        return statistics

    def normalize_actions(self, actions: Any, unnorm_key: str | None = None) -> np.ndarray:
        """A robot's actions [..., 7] to -1..1, clipped, as `suffix_actions`.

        Raises:
            ValueError: see `action_statistics`; also actions that are not finite.
        """
        if not np.isfinite(actions).all():
            raise ValueError("actions are not finite")
        return np.clip(self.action_statistics(unnorm_key).normalize(actions), -1, 1)

    def decode_actions(
        self, generation_outputs: Any, unnorm_key: str | None = None, *, batched: bool = False
    ) -> dict[str, np.ndarray]:
        """Tokens of `predict_action` to a robot's actions.

        A row that ends before its last action is filled up with holding still: no motion, and the
        gripper as it was.

        Args:
            generation_outputs: ids of the vocabulary [B, 3 * action_chunk_size] or more, or those
                of one row.
            unnorm_key: of the statistics; may be left out where there is but one.
            batched: whether one row gives [1, ...] as well.

        Returns:
            "actions", [action_chunk_size, 7] of one row and [B, action_chunk_size, 7] of more, in
            the robot's units; "action_ids", the same with 3 for 7, counted from the first action
            token, -1 where a row was filled up; "spoken", how many actions of a row were not.

        Raises:
            ValueError: an id that is no action token or not in its place, a row without one whole
                action; see also `action_statistics`.
        """
        statistics = self.action_statistics(unnorm_key)
        ids = torch.as_tensor(generation_outputs).detach().cpu().long()
        if ids.ndim not in (1, 2):
            raise ValueError(f"expected ids [B, tokens], got {list(ids.shape)}")
        rows = [self._action_ids(row, i) for i, row in enumerate(torch.atleast_2d(ids).numpy())]
        if not rows:
            raise ValueError("no row of ids")
        whole = np.full((len(rows), self.action_chunk_size, TOKENS_PER_ACTION), -1, dtype=np.int64)
        actions = np.zeros((len(rows), self.action_chunk_size, ACTION_DIM))
        for i, row in enumerate(rows):
            normal = self.action_tokenizer.decode(row)
            whole[i, : len(row)] = row
            actions[i, : len(row)] = statistics.unnormalize(normal)
            actions[i, len(row) :, -1] = actions[i, len(row) - 1, -1]
        spoken = np.array([len(row) for row in rows])
        out = {"actions": actions, "action_ids": whole, "spoken": spoken}
        return out if batched or len(rows) > 1 else {name: v[0] for name, v in out.items()}

    def _action_ids(self, row: np.ndarray, number: int) -> np.ndarray:
        """Ids [actions, 3] of the whole actions of a row, counted from the first action token."""
        ended = np.isin(row, [self.tokenizer.eos_token_id, self.tokenizer.pad_token_id])
        length = int(ended.argmax()) if ended.any() else len(row)
        length = min(length, TOKENS_PER_ACTION * self.action_chunk_size)
        ids = row[:length] - self.action_token_begin_idx
        for place, token in enumerate(ids):
            legal = self.action_tokenizer.legal(place % TOKENS_PER_ACTION)
            if token not in legal:
                first = self.action_token_begin_idx
                raise ValueError(
                    f"id {row[place]} at place {place} of row {number} is not in "
                    f"{legal.start + first}..{legal.stop - 1 + first}, the action tokens of that "
                    "place: decode what predict_action of this model returned"
                )
        if length < TOKENS_PER_ACTION:
            raise ValueError(f"row {number} ends before its first action: {row[:5].tolist()}")
        return ids[: length - length % TOKENS_PER_ACTION].reshape(-1, TOKENS_PER_ACTION)

    def check(self, config: SpatialVLAConfig) -> None:
        """Raises ValueError when a model has other tokens, chunks or images than this processor."""
        legal = [self.action_tokenizer.legal(place) for place in range(TOKENS_PER_ACTION)]
        image = self.image_processor.size
        for name, ours, theirs in (
            ("action_token_begin_idx", self.action_token_begin_idx, config.action_token_begin_idx),
            ("spatial_token_num", self.action_tokenizer.vocab_size, config.spatial_token_num),
            ("legal tokens", [[r.start, r.stop] for r in legal], config.action_token_ranges),
            ("action_chunk_size", self.action_chunk_size, config.action_chunk_size),
            ("image_token_index", self.image_token_id, config.image_token_index),
            ("tokens of an image", self.image_seq_length, config.image_tokens),
            ("image height", image["height"], config.vision_config.image_size),
            ("image width", image["width"], config.vision_config.image_size),
        ):
            if ours != theirs:
                raise ValueError(
                    f"{name} is {ours} in the processor, {theirs} in the model: load both from one "
                    "folder"
                )


def _action_tokenizer(
    encoding: dict | None, bin_policy: dict | None, action_config: dict | None
) -> SpatialActionTokenizer:
    if encoding is not None:
        return SpatialActionTokenizer.from_dict(encoding)
    if bin_policy is None:
        raise ValueError("no grid of actions: give action_encoding, or bin_policy as published")
    if not (action_config or {}).get("use_spherical", True):
        raise ValueError("action_config has use_spherical false: only spherical grids are decoded")
    return SpatialActionTokenizer(ActionGrid.from_dict(bin_policy), mode="published")


def _checked_image(image: Any, number: int) -> Any:
    """RGB for the image processor, which would guess the order of channels of odd sizes."""
    if hasattr(image, "convert"):  # PIL
        return image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f"image {number}: expected a PIL image or uint8 [H, W, 3], got {array.dtype} "
            f"{list(array.shape)}"
        )
    return np.ascontiguousarray(array)
