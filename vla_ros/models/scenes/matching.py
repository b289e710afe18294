"""The matcher: whether a text fits a picture, which may show more than the text says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.models.scenes.captions import CELL, Cells
from vla_ros.models.scenes.config import ScenesConfig

_QUERY = 64  # numbers that a place is looked for by
LOOKS = 2  # of each part of a text: at its thing, and at the gripper


class Matcher(nn.Module):
    """Each part of a text's embedding looks for its own places in the picture (attention, as the
    captioner's), which may be nowhere; whether what is found there, and where, is as the text says
    is then decided from all of it. Against the product of two embeddings, which must hold of a
    picture all that could be asked, this is asked one thing (Li et al. 2021, "Align before fuse",
    section 3.2).

    Shapes: T texts, S pictures, D `d_model`, P cells, L looks of a text, the first LOOKS of them
    those of its first thing.
    """

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        self.parts = config.things
        part, width = config.d_model // self.parts, config.hidden_dim
        self.query = nn.Linear(part, LOOKS * _QUERY)
        self.key = nn.Linear(CELL, _QUERY)
        self.nowhere = nn.Parameter(torch.zeros(()))  # logit
        self.said = nn.Linear(config.d_model, width)
        self.found = nn.Linear(self.parts * LOOKS * (CELL + 1), width)
        self.decide = nn.Sequential(
            nn.SiLU(), nn.Linear(width, width // 2), nn.SiLU(), nn.Linear(width // 2, 1)
        )

    def forward(self, text: Tensor, cells: Cells) -> Tensor:
        """Logits [B] that texts [B, D] fit the pictures of the same rows."""
        weights = self.looks(text, cells).softmax(-1).to(cells.content.dtype)
        found = torch.einsum("blp,bpc->blc", weights[..., :-1], cells.content)
        return self._decide(self.said(text), found, weights)

    def every(self, text: Tensor, cells: Cells) -> Tensor:
        """Logits [T, S] that each text [T, D] fits each picture."""
        scores = torch.einsum("tld,spd->tslp", self._query(text), self.key(cells.content))
        weights = self._or_nowhere(scores).softmax(-1).to(cells.content.dtype)
        found = torch.einsum("tslp,spc->tslc", weights[..., :-1], cells.content)
        return self._decide(self.said(text)[:, None], found, weights)

    def looks(self, text: Tensor, cells: Cells) -> Tensor:
        """Logits [B, L, P + 1] of where each look goes; the last is nowhere."""
        scores = torch.einsum("bld,bpd->blp", self._query(text), self.key(cells.content))
        return self._or_nowhere(scores)

    def _or_nowhere(self, scores: Tensor) -> Tensor:
        return torch.cat([scores.float(), self.nowhere.expand(*scores.shape[:-1], 1)], dim=-1)

    def _query(self, text: Tensor) -> Tensor:
        """[T, L, 64]"""
        query = self.query(text.unflatten(-1, (self.parts, -1)))
        return query.unflatten(-1, (LOOKS, -1)).flatten(1, 2) * _QUERY**-0.5

    def _decide(self, said: Tensor, found: Tensor, weights: Tensor) -> Tensor:
        found = torch.cat([found, weights[..., -1:]], dim=-1).flatten(-2)
        return self.decide(said + self.found(found))[..., 0].float()
