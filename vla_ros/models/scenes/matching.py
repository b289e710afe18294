"""The matcher: whether a text fits a picture, which may show more than the text says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.models.scenes.captions import CELL, CELL_PIXELS, Cells
from vla_ros.models.scenes.config import ScenesConfig
from vla_ros.scene_language.drawing import SIZE

_QUERY = 64  # numbers that a place is looked for by
_SIDE = 4.0  # bins
_EPS = 1e-6
LOOKS = 2  # of each part of a text: at its thing, and at the gripper


class Matcher(nn.Module):
    """Each part of a text's embedding looks for its own places in the picture (attention, as the
    captioner's), which may be nowhere. What is found there, and how it lies to each other in the
    picture and in scenes that the text was imagined as, is then compared. Against the product of
    two embeddings, which must hold of a picture all that could be asked, this is asked one thing
    (Li et al. 2021, "Align before fuse", section 3.2).

    Shapes: T texts, S pictures, D `d_model`, P cells, L looks of a text, the first LOOKS of them
    those of its first thing; F numbers of `ways`.
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
        self.lies = nn.Linear(3 * (self.parts + 1) * self.parts, width)
        self.register_buffer("_places", _middles(), persistent=False)  # computed, hence not saved
        self.decide = nn.Sequential(
            nn.SiLU(), nn.Linear(width, width // 2), nn.SiLU(), nn.Linear(width // 2, 1)
        )

    def forward(self, text: Tensor, imagined: Tensor, cells: Cells) -> Tensor:
        """Logits [B] that texts, embeddings [B, D] and ways imagined [B, F], fit the pictures of
        the same rows."""
        weights = self.looks(text, cells).softmax(-1)
        found = torch.einsum("blp,bpc->blc", weights.to(cells.content.dtype)[..., :-1],
                             cells.content)  # fmt: skip
        return self._decide(self.said(text), imagined, found, weights)

    def every(self, text: Tensor, imagined: Tensor, cells: Cells) -> Tensor:
        """Logits [T, S] that each text, [T, D] and [T, F], fits each picture."""
        scores = torch.einsum("tld,spd->tslp", self._query(text), self.key(cells.content))
        weights = self._or_nowhere(scores).softmax(-1)
        found = torch.einsum("tslp,spc->tslc", weights.to(cells.content.dtype)[..., :-1],
                             cells.content)  # fmt: skip
        return self._decide(self.said(text)[:, None], imagined[:, None], found, weights)

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

    def _decide(self, said: Tensor, imagined: Tensor, found: Tensor, weights: Tensor) -> Tensor:
        found = torch.cat([found, weights[..., -1:]], dim=-1).flatten(-2)
        seen = self.ways_seen(weights)
        imagined = imagined.expand_as(seen)
        lies = self.lies(torch.cat([imagined, seen, imagined * seen], dim=-1))
        return self.decide(said + self.found(found) + lies)[..., 0].float()

    def ways_seen(self, weights: Tensor) -> Tensor:
        """The `ways` [..., F] between where the looks [..., L, P + 1] go."""
        somewhere = weights[..., :-1].sum(-1)  # [..., L]
        places = weights[..., :-1] @ self._places / somewhere.clamp(min=_EPS)[..., None]
        places, there = places.unflatten(-2, (-1, LOOKS)), somewhere.unflatten(-1, (-1, LOOKS))
        hand, hand_there = places[..., 1, :].mean(-2), there[..., 1].mean(-1)
        return ways(
            torch.cat([places[..., 0, :], hand[..., None, :]], dim=-2),
            torch.cat([there[..., 0], hand_there[..., None]], dim=-1),
        )


def ways(places: Tensor, there: Tensor) -> Tensor:
    """How K places [..., K, 2], in bins, lie to each other: [..., K * (K - 1)], of each pair in x
    and y which way the first is from the second, near -1 or 1 from a side that may be said on; 0
    where one is not `there` [..., K], 0 to 1."""
    first, second = torch.triu_indices(there.shape[-1], there.shape[-1], 1, device=there.device)
    way = ((places[..., first, :] - places[..., second, :]) / _SIDE).tanh()
    return (way * (there[..., first] * there[..., second])[..., None]).flatten(-2)


def _middles() -> Tensor:
    """[P, 2], x and y of the middles of cells, in bins."""
    middle = torch.arange(SIZE // CELL_PIXELS) * CELL_PIXELS + (CELL_PIXELS - 1) / 2
    row, column = torch.meshgrid(middle, middle, indexing="ij")
    # x and y of the table go up and to the left of the picture.
    return SIZE - 1 - torch.stack([row, column], dim=-1).flatten(0, 1)
