"""Generation of whole actions alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vla_ros.models.spatial_vla.configuration import TOKENS_PER_ACTION


class LegalActionTokens(LogitsProcessor):
    """Leaves of the logits those of tokens that may come next; after the last action, the end.

    Args:
        ranges: ids that may stand at place 0, 1, 2 of an action.
        prompt: tokens of a row before the first action.
        actions: how many are said.
        end: id of the token that ends a row.
    """

    def __init__(self, ranges: Sequence[range], prompt: int, actions: int, end: int) -> None:
        if len(ranges) != TOKENS_PER_ACTION:
            raise ValueError(f"{len(ranges)} ranges for {TOKENS_PER_ACTION} tokens an action")
        self._ranges, self._prompt = ranges, prompt
        self._tokens = TOKENS_PER_ACTION * actions
        self._end = range(end, end + 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Ids so far [B, S] and logits [B, vocabulary] to logits [B, vocabulary].

        Raises:
            ValueError: logits of legal tokens are NaN: nothing can be chosen by them.
        """
        place = input_ids.shape[1] - self._prompt
        legal = self._end
        if 0 <= place < self._tokens:
            legal = self._ranges[place % TOKENS_PER_ACTION]
        kept = scores[:, legal.start : legal.stop]
        if kept.isnan().any():
            raise ValueError(f"logits of token {place} are NaN: the weights or inputs are damaged")
        allowed = torch.full_like(scores, -torch.inf)
        limit = torch.finfo(scores.dtype).max  # infinite ones would leave nothing to compare
        allowed[:, legal.start : legal.stop] = kept.clamp(-limit, limit)
        return allowed
