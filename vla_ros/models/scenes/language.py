"""The autoregressive language model: a text as one embedding, and texts word by word."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
        self.weigh = nn.Linear(width, 4)  # how much each word counts, in four ways
        self.project = nn.Sequential(
            nn.Linear(4 * width, config.d_model), nn.SiLU(), nn.Dropout(config.dropout),
            nn.Linear(config.d_model, config.d_model),
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
        weights = self.weigh(hidden).float().masked_fill(~real[..., None], -1e4).softmax(1)
        pooled = torch.einsum("btk,btd->bkd", weights.to(hidden.dtype), hidden).flatten(1)
        return logits, self.project(pooled)

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
