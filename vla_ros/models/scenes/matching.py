"""The matcher: whether a text fits a picture, which may show more than the text says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.models.scenes.captions import CELL, Cells
from vla_ros.models.scenes.config import ScenesConfig

_QUERY = 64  # numbers that a place is looked for by
_LOOKS = 2  # places that each part of a text looks at


class Matcher(nn.Module):
    """Each part of a text's embedding looks for its own places in the picture (attention, as the
    captioner's); whether what is found there, and where, is as the text says is then decided from
    all of it. Against the product of two embeddings, which must hold of a picture all that could
    be asked, this is asked one thing (Li et al. 2021, "Align before fuse", section 3.2).

    Shapes: T texts, S pictures, D `d_model`, P cells.
    """

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        self.parts = config.things
        part, width = config.d_model // self.parts, config.hidden_dim
        self.query = nn.Linear(part, _LOOKS * _QUERY)
        self.key = nn.Linear(CELL, _QUERY)
        self.said = nn.Linear(config.d_model, width)
        self.found = nn.Linear(self.parts * _LOOKS * CELL, width)
        self.decide = nn.Sequential(
            nn.SiLU(), nn.Linear(width, width // 2), nn.SiLU(), nn.Linear(width // 2, 1)
        )

    def forward(self, text: Tensor, cells: Cells) -> Tensor:
        """Logits [B] that texts [B, D] fit the pictures of the same rows."""
        query, keys = self._query(text), self.key(cells.content)
        scores = torch.einsum("bkd,bpd->bkp", query, keys) + cells.stands_out[:, None]
        weights = scores.float().softmax(-1).to(cells.content.dtype)
        found = torch.einsum("bkp,bpc->bkc", weights, cells.content)
        return self._decide(self.said(text), self.found(found.flatten(1)))

    def every(self, text: Tensor, cells: Cells) -> Tensor:
        """Logits [T, S] that each text [T, D] fits each picture."""
        query, keys = self._query(text), self.key(cells.content)
        scores = torch.einsum("tkd,spd->tskp", query, keys) + cells.stands_out[:, None]
        weights = scores.float().softmax(-1).to(cells.content.dtype)
        found = torch.einsum("tskp,spc->tskc", weights, cells.content)
        return self._decide(self.said(text)[:, None], self.found(found.flatten(2)))

    def _query(self, text: Tensor) -> Tensor:
        """[T, parts * looks, 64]"""
        query = self.query(text.unflatten(-1, (self.parts, -1)))
        return query.unflatten(-1, (_LOOKS, -1)).flatten(1, 2) * _QUERY**-0.5

    def _decide(self, said: Tensor, found: Tensor) -> Tensor:
        return self.decide(said + found)[..., 0].float()
