"""Running a vision-language-action model: one step at a time, with a state of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vla_ros.models import language
from vla_ros.models.mamba import MambaState
from vla_ros.models.policy import Action

if TYPE_CHECKING:
    from vla_ros.models.vision import Geometry
    from vla_ros.models.vlam import VisionLanguageActionModel


class Episode:
    """Runs of a policy, each under its instruction; owns the recurrent state.

    Args:
        model: the policy.
        instruction: one for all runs, or one each.
        batch: number of runs side by side.
    """

    def __init__(
        self, model: VisionLanguageActionModel, instruction: str | Sequence[str] | None, batch: int
    ) -> None:
        self.instruction, self.batch = instruction, batch
        self._model = model
        with torch.inference_mode():
            self._condition = model.instruction(model._token_ids(instruction, batch))
            self._queries = [keypoints.queries(self._condition) for keypoints in model.keypoints]
        self._states = model.core.initial_state(batch)
        self._context = self._condition.new_zeros(batch, model.language.features)

    @torch.inference_mode()
    def act(self, tokens: np.ndarray, proprioception: np.ndarray) -> Action:
        """The action chunk for one observation; advances the state.

        Args:
            tokens: [N, h, w, C] from `encode`.
            proprioception: [P], physical units.

        Raises:
            ValueError: wrong shape, or NaN or infinity in either (the state stays as it was).
        """
        model = self._model
        names = model.config.action.proprioception_names
        if tokens.shape != model.grid:
            raise ValueError(f"expected visual tokens {list(model.grid)}, got {list(tokens.shape)}")
        if proprioception.shape != (len(names),):
            raise ValueError(
                f"expected proprioception [{len(names)}], got {list(proprioception.shape)}"
            )
        if not (np.isfinite(tokens).all() and np.isfinite(proprioception).all()):
            raise ValueError("the observation holds NaN or infinity")
        device = self._condition.device
        grids = torch.from_numpy(tokens.astype(np.float32)).to(device)[:, None]
        felt = torch.from_numpy(proprioception.astype(np.float32)).to(device)[None]
        raw, done = self._advance(list(grids), felt)
        decided = torch.sigmoid(raw[0, :, model._binary].float())
        certain = 2.0 * (decided - 0.5).abs().mean() if decided.numel() else torch.tensor(1.0)
        return Action(
            actions=model._physical(raw)[0].cpu().double().numpy(),
            done=float(torch.sigmoid(done)),
            confidence=min(float(certain) + 1e-6, 1.0),
        )

    @torch.inference_mode()
    def watch(
        self, images: Tensor, proprioception: Tensor, geometry: Geometry | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance by frames [B, S, N, 3, H, W], proprioception [B, S, P] and, of a policy that
        fuses it, geometry [B, S, N, h, w].

        Returns:
            The newest frame's action chunk [B, K, A] and the probability [B] of being done.
        """
        length = images.shape[1]
        grids = self._model._encode(images, geometry)
        raw, done = self._advance(grids, proprioception.flatten(0, 1), length)
        return self._model._physical(raw), torch.sigmoid(done)

    @torch.inference_mode()
    def describe(self) -> list[str]:
        """What each run is doing, in the model's words."""
        ids = self._model.language.generate(self._context)
        return [language.decode(self._model.tokenizer, row) for row in ids]

    def save(self) -> dict[str, Tensor]:
        """The state as named tensors, ready for safetensors."""
        tensors = {"context": self._context.clone()}
        for i, state in enumerate(self._states):
            tensors[f"{i}.conv"], tensors[f"{i}.ssm"] = state.conv.clone(), state.ssm.clone()
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `save` returned, of this or of another episode of the same model.

        Raises:
            ValueError: the tensors are another model's, or of another number of runs.
        """
        mine = self.save()
        if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in tensors.items()}:
            raise ValueError("the saved state is of another model or batch: restore it there")
        self._context = tensors["context"].clone()
        self._states = [
            MambaState(tensors[f"{i}.conv"].clone(), tensors[f"{i}.ssm"].clone())
            for i in range(len(self._states))
        ]

    def _advance(
        self, grids: Sequence[Tensor], proprioception: Tensor, length: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Raw actions [B, K, A] and done logits [B] after `length` more frames.

        Takes each camera's tokens [B * length, h, w, C] and the proprioception [B * length, P].
        """
        model = self._model
        asked = (self._condition, *self._queries)
        if length == 1:
            known, _ = model._known(grids, proprioception, asked[0], asked[1:])
            x, self._states = model.core.step(model.fuse(known), self._states)
        else:
            asked = [one.repeat_interleave(length, dim=0) for one in asked]
            known, _ = model._known(grids, proprioception, asked[0], asked[1:])
            known = known.unflatten(0, (-1, length))
            history, self._states = model.core(model.fuse(known), self._states)
            x, known = history[:, -1], known[:, -1]
        self._context = torch.cat([x, known], dim=-1)
        return model._heads(x)
