"""Dynamics: the tokens of the next frame, by MaskGIT (Genie, section 2.1; Chang et al. 2022).

A frame's tokens are drawn in a few rounds: all are hidden at first, each round looks at those drawn
so far and at the frames before, and the cosine schedule says how many stay hidden. Latent actions
are added to the embeddings of the frame they lead to; no gradient flows back to where they come
from, since they are indices.

The paper hides tokens in all frames of a sequence, so in training the past is mostly hidden, and in
a rollout never. Here each sequence goes through the transformer twice at once, as it is and hidden;
the hidden frame t sees itself and the frames before t as they are. That is exactly what a rollout
with cached keys and values computes, and every frame of a sequence is trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_ros.models.genie.st_transformer import Past, STTransformer
from vla_ros.models.part import Part


@dataclass(frozen=True)
class DynamicsConfig:
    """Shape of the dynamics; the defaults are nano's."""

    vocabulary: int = 1000
    tokens: int = 64  # N, of a frame
    actions: int = 8  # latent ones
    width: int = 128
    heads: int = 4
    layers: int = 5
    window: int = 5  # frames
    lowest_rate: float = 0.5  # of hidden tokens in training; the highest is 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.lowest_rate < 1.0:
            raise ValueError(f"lowest_rate is {self.lowest_rate}: give 0 or more, less than 1")


class Dynamics(Part):
    """See the module's text. V tokens in the vocabulary, A latent actions."""

    Config = DynamicsConfig

    def __init__(self, config: DynamicsConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or DynamicsConfig()
        self.embed = nn.Embedding(c.vocabulary + 1, c.width)  # the last one: hidden
        self.action = nn.Embedding(c.actions + 1, c.width)  # the last one: nothing came before
        self.transformer = STTransformer(c.width, c.layers, c.heads, c.tokens, c.window)
        self.bias = nn.Parameter(torch.zeros(c.vocabulary))
        self.prior = nn.Linear(c.width, c.actions)
        nn.init.normal_(self.embed.weight, std=c.width**-0.5)
        nn.init.normal_(self.action.weight, std=c.width**-0.5)

    @property
    def hidden(self) -> int:
        """The token that stands for a hidden one."""
        return self.config.vocabulary

    # -- training ----------------------------------------------------------------------------------

    def forward(
        self, tokens: Tensor, actions: Tensor, hide: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of hidden tokens, and of the actions to come.

        Args:
            tokens: int64 [B, T, N].
            actions: int64 [B, T - 1], between the frames.
            hide: bool [B, T - 1, N], which tokens of all frames but the first are hidden.
            context: what the frames after see instead of `tokens`, such as damaged ones.

        Returns:
            [hidden tokens, V], in the order of `tokens[:, 1:][hide]`; and [B, T - 1, A], of the
            action after each frame but the last.
        """
        count = tokens.shape[1] - 1
        first = torch.full_like(actions[:, :1], self.config.actions)
        seen = (tokens if context is None else context)[:, :-1]
        whole = self._frames(seen, torch.cat([first, actions[:, :-1]], dim=1))
        covered = self._frames(tokens[:, 1:].masked_fill(hide, self.hidden), actions)
        times = torch.arange(count, device=tokens.device)
        times = torch.cat([times, times + 1])
        attend = _two_streams(count, self.config.window).to(tokens.device)
        x = self.transformer(torch.cat([whole, covered], dim=1), times, attend)
        return self._logits(x[:, count:][hide]), self.prior(x[:, :count].mean(2))

    def rates(self, like: Tensor) -> Tensor:
        """Which tokens to hide in training, bool [B, T, N]: each with the probability of its frame,
        which is uniform between `lowest_rate` and 1 (Bernoulli masking, Genie, section 2.1).

        Args:
            like: [B, T, N], for shape and device.
        """
        low = self.config.lowest_rate
        rate = low + (1 - low) * torch.rand(like.shape[:2], device=like.device)
        return torch.rand(like.shape, device=like.device) < rate[..., None]

    # -- running -----------------------------------------------------------------------------------

    def step(
        self, tokens: Tensor, action: Tensor | None, past: Past | None
    ) -> tuple[Tensor, Tensor, Past]:
        """One more frame, whole or with hidden tokens.

        Args:
            tokens: int64 [B, N].
            action: int64 [B] that led to it; None: it is the first.
            past: of the frames before.

        Returns:
            Logits [B, N, V]; logits [B, A] of the next action (of a whole frame); the past of the
            next frame if this one is whole.
        """
        if action is None:
            action = torch.full_like(tokens[:, 0], self.config.actions)
        x, present = self.transformer.step(self._frames(tokens, action)[:, None], past)
        return self._logits(x[:, 0]), self.prior(x[:, 0].mean(1)), present

    def sample(
        self,
        action: Tensor,
        past: Past,
        *,
        steps: int = 8,
        temperature: float = 1.0,
        randomness: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw the tokens int64 [B, N] of the next frame.

        Args:
            action: int64 [B] that leads to it.
            past: of the frames before.
            steps: rounds. One draws all tokens independently.
            temperature: of the logits; 0 takes the most likely token.
            randomness: how much noise (Gumbel) decides beside confidence which tokens stay; without
                any, those that stay the same come first, and then nothing moves.
            generator: of all that is drawn.
        """
        size, count = len(action), self.config.tokens
        tokens = torch.full((size, count), self.hidden, device=action.device)
        for left in schedule(count, steps):
            logits = self.step(tokens, action, past)[0].float()
            drawn = _draw(logits, temperature, generator)
            hidden = tokens == self.hidden
            chance = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
            noise = _gumbel(chance.shape, generator).to(chance.device)
            order = chance + randomness * (left / count) * noise
            order = order.masked_fill(~hidden, math.inf)
            tokens = torch.where(hidden, drawn, tokens)
            if left:
                lowest = order.topk(left, largest=False).indices
                tokens = tokens.scatter(1, lowest, self.hidden)
        return tokens

    def log_likelihood(
        self, tokens: Tensor, actions: Tensor, past: Past, rounds: int = 2
    ) -> Tensor:
        """Log probability, nats, of a whole frame after each of several actions.

        The tokens are revealed in `rounds` as by `sample`, in a fixed order: the sum of the log
        probabilities of each group given those before it.

        Args:
            tokens: int64 [1, N].
            actions: int64 [K].
            past: of the frames before, of one sequence.
            rounds: 1 takes the tokens as independent of each other.

        Returns:
            float32 [K].
        """
        count = self.config.tokens
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        ends = [count - left for left in schedule(count, rounds)]
        begins = [0, *ends[:-1]]
        rank = order.argsort().to(tokens.device)  # when each token is revealed
        covered = torch.cat([tokens.masked_fill(rank >= first, self.hidden) for first in begins])
        rows = covered.repeat(len(actions), 1)
        wide = [(k.expand(len(rows), *k.shape[1:]), v.expand(len(rows), *v.shape[1:]))
                for k, v in past]  # fmt: skip
        logits, _, _ = self.step(rows, actions.repeat_interleave(rounds), wide)
        chance = logits.float().log_softmax(-1)
        chance = chance.gather(-1, tokens.expand(len(rows), -1)[..., None])[..., 0]
        group = [(rank >= a) & (rank < b) for a, b in zip(begins, ends, strict=True)]
        chosen = torch.stack(group).repeat(len(actions), 1)
        return (chance * chosen).sum(-1).unflatten(0, (len(actions), rounds)).sum(-1)

    def _frames(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Embeddings [..., N, D] of tokens [..., N] and the actions [...] that led to them."""
        return self.embed(tokens) + self.action(actions)[..., None, :]

    def _logits(self, x: Tensor) -> Tensor:
        return x @ self.embed.weight[: self.config.vocabulary].T.to(x.dtype) + self.bias


def schedule(count: int, steps: int) -> list[int]:
    """How many of `count` tokens are still hidden after each of the steps: a cosine, then 0.

    Raises:
        ValueError: there are no steps, or more than tokens.
    """
    if not 1 <= steps <= count:
        raise ValueError(f"{steps} steps for {count} tokens: give 1 to {count}")
    left = [math.floor(count * math.cos(math.pi / 2 * (k + 1) / steps)) for k in range(steps)]
    left[-1] = 0
    for k in range(steps - 2, -1, -1):  # every step reveals one or more
        left[k] = max(left[k], left[k + 1] + 1)
    for k in range(steps):
        left[k] = min(left[k], count - 1 - k)
    return left


def _two_streams(count: int, window: int) -> Tensor:
    """Who attends to whom, bool [2 count, 2 count]: whole frames 0 .. count - 1 to whole ones not
    after them, hidden frames 1 .. count to whole ones before them and to themselves."""
    time = torch.arange(count)
    behind = time[:, None] - time
    whole = (behind >= 0) & (behind < window)
    before = (behind >= 0) & (behind < window - 1)  # the hidden frame i is of time i + 1
    none = torch.zeros(count, count, dtype=torch.bool)
    own = torch.eye(count, dtype=torch.bool)
    return torch.cat([torch.cat([whole, none], 1), torch.cat([before, own], 1)])


def _gumbel(shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    uniform = torch.rand(shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    return -(-uniform.log()).log()


def _draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    if temperature > 0:
        logits = logits / temperature + _gumbel(logits.shape, generator).to(logits.device)
    return logits.argmax(-1)
