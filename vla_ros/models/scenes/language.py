"""The autoregressive language model: a text as one embedding, and texts word by word."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.models.scenes.config import ScenesConfig
from vla_ros.models.svl import SVL, Generated


class AutoregressiveLanguageModel(nn.Module):
    """Token ids of a text to logits of what follows each, and to one embedding of all.

    Shapes: B texts, T ids, D `d_model`, V ids there are.
    """

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        self.config = config
        self.core = SVL(config.language)
        width = config.language.width
        # The words are looked at once for each thing, each time knowing what was seen before: "the
        # next one that was not mentioned yet" is then a matter of one look. A part of the embedding
        # stands for each look.
        self.looks = config.things
        self.start = nn.Parameter(torch.randn(width))
        self.query, self.key = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.value = nn.Linear(width, width)
        self.remember = nn.GRUCell(2 * width, width)
        part = config.d_model // self.looks
        self.project = nn.Sequential(
            nn.Linear(3 * width, width), nn.SiLU(), nn.Dropout(config.dropout),
            nn.Linear(width, part), nn.RMSNorm(part),
        )  # fmt: skip

    def forward(
        self, ids: Tensor, mask: Tensor | None = None, return_embeddings: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [B, T, V]; with `return_embeddings` the texts' embeddings [B, D] too.

        Args:
            ids: int64 [B, T], from bos to eos, padded at their ends.
            mask: bool [B, T], which of them count for the embedding; all but pads by default.

        Raises:
            ValueError: ids outside the vocabulary, too many of them, or a text of none.
        """
        hidden = self.core.hidden(ids)
        logits = self.core.head(hidden)
        if not return_embeddings:
            return logits
        real = ids != self.config.language.pad if mask is None else mask
        if real.shape != ids.shape or not real.any(1).all():
            raise ValueError("a text has no ids that count: give one or more")
        return logits, self.project(self._read(hidden.float(), real)).flatten(1)

    def _read(self, hidden: Tensor, real: Tensor) -> Tensor:
        """[B, looks, 3 * width] of what the blocks made of the words, [B, T, width]."""
        hidden = F.rms_norm(hidden, hidden.shape[-1:])
        keys, values = self.key(hidden).unflatten(-1, (2, -1)), self.value(hidden)
        state, seen = self.start.expand(len(hidden), -1), []
        for _ in range(self.looks):
            query = self.query(state).unflatten(-1, (2, -1))
            scores = torch.einsum("bhd,bthd->bht", query, keys) * query.shape[-1] ** -0.5
            weights = scores.float().masked_fill(~real[:, None], -1e4).softmax(-1)
            looked = torch.einsum("bht,btd->bhd", weights.to(values.dtype), values).flatten(1)
            state = self.remember(looked.float(), state.float())
            seen.append(torch.cat([looked.float(), state], dim=-1))
        return torch.stack(seen, dim=1)

    def embed(self, ids: Tensor) -> Tensor:
        """The texts' embeddings [B, D]."""
        return self(ids, return_embeddings=True)[1]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[Generated]:
        """Texts that go on from prompts of ids; see `SVL.generate`."""
        return self.core.generate(prompts, max_tokens, temperature=temperature, generator=generator)
