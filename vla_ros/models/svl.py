"""The narrator's model: a nanoGPT over one vocabulary of words, places and actions.

    prefix  what a camera sees, features of an image encoder's tokens  ─┐
    ids     <bos> words, <x12> <y40> <z3>, <a7> ... <eos>              ─┴─ blocks ── next id

Blocks are pre-norm (RMSNorm), the head is the embedding (Press and Wolf 2017). An id enters with
the five before it, mixed in by one matrix, so that the last id of a thing knows all of the thing;
what needs two looks back otherwise (Olsson et al. 2022, induction heads) then needs one. Features
of the prefix attend to each other in both directions, ids to the prefix and to the ids before them.
Positions are rotary (Su et al. 2021): the things of a scene come in any order, so what is learned
about "this id, then that one" should hold wherever it stands. A picture has no order: its features
all stand where the first id stands, and learned vectors say where in the picture they are.

Shapes: B rows, P features in the prefix, T ids, D numbers in each, H heads, V ids there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.models.genie.st_transformer import rotary, turn
from vla_ros.models.part import Part
from vla_ros.models.svl_config import SVLConfig

_BEFORE = 5  # ids before each one that its embedding tells of: <obj> red cube <x> <y>, at <z>
_STD = 0.02  # of embeddings at first; were they larger, every id would predict itself
# Ids that may come next, given all ids of a row so far, its prompt included; None: any.
Allowed = Callable[[Sequence[int]], "Sequence[int] | None"]
# Keys and values [B, H, places, D / H] of a block, or an empty list at first.
Past = list[Tensor]


@dataclass(frozen=True)
class Generated:
    """What follows a prompt: ids without the eos; whether it `ended`, or was cut at `max_tokens`.

    `log_probability`, in nats, is the sum over all ids and the eos, each among those that were
    allowed. Neither temperature nor top_k changes it; if all were allowed it is what `score` gives.
    """

    ids: list[int]
    log_probability: float
    ended: bool


class SVL(Part):
    """See the module's text."""

    Config = SVLConfig

    def __init__(self, config: SVLConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embed = nn.Embedding(c.vocab_size, c.width)
        nn.init.normal_(self.embed.weight, std=_STD)
        with torch.no_grad():
            for first, count in c.coordinate_groups:
                axis = (torch.randn(c.width) + fourier(count, c.width)) / 2**0.5
                self.embed.weight[first : first + count] = _STD * axis
        self.before = nn.Linear(_BEFORE * c.width, c.width, bias=False)
        nn.init.normal_(self.before.weight, std=c.width**-0.5 / 2)
        if c.prefix_tokens:
            project = nn.Linear(c.prefix_width, c.width)
            nn.init.normal_(project.weight, std=_STD * c.prefix_width**-0.5)
            self.prefix = nn.Sequential(nn.RMSNorm(c.prefix_width), project)
            self.prefix_position = nn.Parameter(torch.randn(c.prefix_tokens, c.width) * _STD)
        self.blocks = nn.ModuleList(Block(c.width, c.heads) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.width)
        for block in self.blocks:  # what enters the residual stream is small at first
            nn.init.normal_(block.out.weight, std=_STD / (2 * c.layers) ** 0.5)
            nn.init.normal_(block.mlp[-1].weight, std=_STD / (2 * c.layers) ** 0.5)
        turns = rotary(torch.arange(c.context), c.width // c.heads)
        self.register_buffer("_turns", turns, persistent=False)  # computed, hence not saved
        self.register_buffer("_no_pad", torch.zeros(c.vocab_size), persistent=False)
        self._no_pad[c.pad] = -math.inf

    def forward(
        self, ids: Tensor, prefix: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """Logits [B, T, V] of the id after each one.

        Args:
            ids: int64 [B, T], T at most `context`; rows are filled up at their ends.
            prefix: [B, P, prefix_width]; None: nothing is seen.
            seen: bool [B], which rows have a prefix; all by default. The others are as if there
                were none, and what stands there does not matter.

        Raises:
            ValueError: wrong shapes or types, ids outside the vocabulary, too many of them.
        """
        return self.head(self._hidden(ids, prefix, seen)[0])

    def loss(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        prefix: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy, nats an id.

        Args:
            ids, prefix, seen: as for `forward`.
            targets: bool [B, T], the ids to be predicted; all by default. Pads are never among
                them, and neither is the first id, which nothing comes before.

        Raises:
            ValueError: as for `forward`; nothing is left to be predicted.
        """
        chosen = self._chosen(ids, targets)
        if not chosen.any():
            raise ValueError("no id is a target: mark some after the first that are no pads")
        x = self._hidden(ids[:, :-1], prefix, seen)[0][chosen]
        return F.cross_entropy(self.head(x).float(), ids[:, 1:][chosen])

    @torch.no_grad()
    def score(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        prefix: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Log-likelihood [B], nats, of the targets of each row (0 without any) given all that comes
        before them. Arguments and errors are those of `loss`."""
        chosen = self._chosen(ids, targets)
        nats = self.head(self._hidden(ids[:, :-1], prefix, seen)[0]).float().log_softmax(-1)
        return nats.gather(2, ids[:, 1:, None])[..., 0].where(chosen, 0.0).sum(1)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        *,
        prefix: Tensor | None = None,
        seen: Tensor | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        allowed: Allowed | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Generated]:
        """Go on from each prompt until the eos.

        Prompts and prefixes are read once; then each id costs one step with cached keys and values.

        Args:
            prompts: B rows of ids, of any lengths.
            max_tokens: ids after a prompt at most, the eos among them.
            prefix, seen: as for `forward`.
            temperature: logits are divided by it; 0 takes the most likely id.
            top_k: only the k most likely ids (of those allowed) may be drawn; None: all.
            allowed: called for each row and step, with all ids so far; only ids that it returns can
                come next, the eos too only if it is one of them.
            generator: of what is drawn.

        Raises:
            ValueError: an empty prompt, ids outside the vocabulary, more than the context holds,
                a wrong prefix, temperature or top_k; `allowed` leaves nothing.
        """
        rows = [[int(i) for i in prompt] for prompt in prompts]
        if not rows or not all(rows):
            raise ValueError(f"prompts {rows}: give one or more, none empty ([bos] at least)")
        if max_tokens < 1 or not 0.0 <= temperature < math.inf or (top_k is not None and top_k < 1):
            given = f"max_tokens {max_tokens}, temperature {temperature}, top_k {top_k}"
            raise ValueError(f"{given}: give 1 or more, 0 or more, 1 or more")
        begins, eos = [len(row) for row in rows], self.config.eos
        self._check_room(max(begins) + max_tokens)
        at = torch.tensor(begins, device=self.embed.weight.device)
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, self.config.pad)
        x, pasts = self._hidden(ids.to(at.device), prefix, seen)
        x = x[torch.arange(len(rows)), at - 1]
        # What follows stands behind the longest prompt in all rows; pads are not attended to.
        within = torch.arange(ids.shape[1] + max_tokens, device=at.device)
        within = (within < at[:, None]) | (within >= ids.shape[1])
        within = torch.cat([self._sees(len(rows), prefix, seen), within], dim=1)
        hidden = not within.all()
        chances, going = [0.0] * len(rows), dict(enumerate(rows))
        while True:
            logits = self.head(x).float()
            if allowed is not None:
                logits = self._constrain(logits, going, allowed)
            drawn = draw(logits, temperature, top_k, generator)
            nats = logits.log_softmax(-1).gather(1, drawn[:, None])[:, 0].tolist()
            for b, i in enumerate(drawn.tolist()):
                if b in going:
                    rows[b].append(i)
                    chances[b] += nats[b]
                    if i == eos or len(rows[b]) - begins[b] == max_tokens:
                        del going[b]
            if not going:
                break
            count = pasts[0][0].shape[2] + 1
            attend = within[:, None, None, :count] if hidden else None
            last = torch.tensor([self._last(row) for row in rows], device=at.device)
            x, turns, at = self._embed(last)[:, -1:], self._turns[at, None, None], at + 1
            x = self._blocks(x, turns, attend, pasts)[:, 0]
        ended = [row[-1] == eos for row in rows]
        said = [row[a : len(row) - e] for row, a, e in zip(rows, begins, ended, strict=True)]
        return [Generated(*each) for each in zip(said, chances, ended, strict=True)]

    def _constrain(self, logits: Tensor, rows: dict[int, list[int]], allowed: Allowed) -> Tensor:
        barred = torch.zeros(logits.shape, dtype=torch.bool)
        for b, row in rows.items():
            if (may := allowed(row)) is None:
                continue
            if all(i == self.config.pad for i in may):
                raise ValueError(f"allowed() leaves row {b} nothing to say after {row}: return one")
            self._check_ids("allowed() returned", min(may), max(may))
            barred[b] = True
            barred[b, torch.as_tensor(may)] = False
        return logits.masked_fill(barred.to(logits.device), -math.inf)

    def _hidden(
        self, ids: Tensor, prefix: Tensor | None, seen: Tensor | None
    ) -> tuple[Tensor, list[Past]]:
        """[B, T, D] before the head, and what is to be kept for the ids after. As for `forward`."""
        self._check(ids, prefix, seen)
        x, turns, attend = self._embed(ids), self._turns[: ids.shape[1]], None
        if prefix is not None:
            count = self.config.prefix_tokens
            sees = self._sees(len(ids), prefix, seen)
            # Not merely out of sight: a NaN would get through a weight of 0.
            front = self.prefix(prefix.to(x.dtype).where(sees[..., None], 0.0))
            x = torch.cat([(front + self.prefix_position).to(x.dtype), x], dim=1)
            turns = torch.cat([turns[:1].expand(count, -1), turns])
            place = torch.arange(x.shape[1], device=x.device)
            attend = (place <= place[:, None]) | (place < count)
            # Features out of sight see themselves, because they must see something.
            sees = F.pad(sees, (0, ids.shape[1]), value=True)[:, None]
            attend = ((attend & sees) | (place == place[:, None]))[:, None]
        pasts: list[Past] = [[] for _ in self.blocks]
        return self._blocks(x, turns, attend, pasts)[:, -ids.shape[1] :], pasts

    def _last(self, row: Sequence[int]) -> list[int]:
        """The last id of a row and those before it that its embedding tells of."""
        last = list(row[-_BEFORE - 1 :])
        return [self.config.pad] * (_BEFORE + 1 - len(last)) + last

    def _embed(self, ids: Tensor) -> Tensor:
        """[B, T, D] of ids and of those before each; pads stand before the first."""
        x = self.embed(F.pad(ids, (_BEFORE, 0), value=self.config.pad))
        windows = x.unfold(1, _BEFORE, 1)[:, :-1].flatten(2)
        return x[:, _BEFORE:] + self.before(windows)

    def _sees(self, rows: int, prefix: Tensor | None, seen: Tensor | None) -> Tensor:
        """bool [B, P], or [B, 0] without a prefix: which features are there to be attended to."""
        if seen is None:
            seen = torch.ones(rows, dtype=torch.bool, device=self.embed.weight.device)
        return seen[:, None].expand(-1, 0 if prefix is None else self.config.prefix_tokens)

    def _blocks(self, x: Tensor, turns: Tensor, attend: Tensor | None, pasts: list[Past]) -> Tensor:
        for block, past in zip(self.blocks, pasts, strict=True):
            x = block(x, turns, attend, past)
        return x

    def hidden(self, ids: Tensor) -> Tensor:
        """What the blocks make of ids [B, T], before the head: [B, T, D]. Raises as `forward`."""
        return self._hidden(ids, None, None)[0]

    def head(self, x: Tensor) -> Tensor:
        """Logits [..., V] of the next id, for `hidden` [..., D]."""
        return F.linear(self.norm(x), self.embed.weight, self._no_pad)

    def _chosen(self, ids: Tensor, targets: Tensor | None) -> Tensor:
        """bool [B, T - 1]: which ids after the first are to be predicted."""
        if ids.ndim != 2 or ids.shape[1] < 2:
            raise ValueError(f"ids are {list(ids.shape)}: give [B, T], T of 2 or more")
        self._check_ids(
            "ids hold", *(int(i) for i in ids[:, -1].aminmax())
        )  # the only one not read
        real = ids != self.config.pad
        targets = real if targets is None else targets
        if targets.shape != ids.shape or targets.dtype != torch.bool:
            raise ValueError(f"targets are {list(targets.shape)}: give bool {list(ids.shape)}")
        return (targets & real)[:, 1:]

    def _check(self, ids: Tensor, prefix: Tensor | None, seen: Tensor | None) -> None:
        c = self.config
        if ids.ndim != 2 or ids.dtype != torch.int64 or not ids.numel():
            raise ValueError(f"ids are {ids.dtype} {list(ids.shape)}: give int64 [B, T], not empty")
        self._check_room(ids.shape[1])
        self._check_ids("ids hold", *map(int, ids.aminmax()))
        wanted = [len(ids), c.prefix_tokens, c.prefix_width]
        if prefix is not None and (list(prefix.shape) != wanted or not prefix.is_floating_point()):
            takes = f"floating point {wanted}" if c.prefix_tokens else "none"
            raise ValueError(f"the prefix is {prefix.dtype} {list(prefix.shape)}: give {takes}")
        given = seen is not None
        if given and (prefix is None or seen.dtype != torch.bool or seen.shape != (len(ids),)):
            raise ValueError(f"seen is wrong: give bool {wanted[:1]}, and only with a prefix")

    def _check_ids(self, what: str, least: int, most: int) -> None:
        if least < 0 or most >= self.config.vocab_size:
            raise ValueError(
                f"{what} {least if least < 0 else most}, but the vocabulary has "
                f"{self.config.vocab_size} ids: encode with the vocabulary of the checkpoint"
            )

    def _check_room(self, count: int) -> None:
        if count > self.config.context:
            raise ValueError(
                f"{count} ids, those to be said included, do not fit the context of "
                f"{self.config.context}: shorten them, or train with a longer context"
            )


class Block(nn.Module):
    """Attention, then the feed-forward layer, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.RMSNorm(width),
            nn.Linear(width, 4 * width, bias=False),
            SquaredReLU(),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, x: Tensor, turns: Tensor, attend: Tensor | None, past: Past) -> Tensor:
        """x: [B, L, D]; turns: of `rotary`, [L, D / H] or [B, 1, 1, D / H]; attend: bool, what each
        of L attends to, None: itself and those before, the past too if L is 1; past: gets what L
        adds to it."""
        parts = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        (q, k), v = turn(parts[:2], turns), parts[2]
        if past:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        past[:] = k, v
        mixed = attention(q.to(v.dtype), k.to(v.dtype), v, attend)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class SquaredReLU(nn.Module):
    """So et al. 2021 (Primer), section 4: as good as a GELU and cheaper on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


def attention(q: Tensor, k: Tensor, v: Tensor, attend: Tensor | None) -> Tensor:
    """Attention [B, H, L, D / H]; attend: as for `Block`. The fused kernel serves GPUs; on a CPU it
    is up to four times as slow as three matrix operations in bfloat16."""
    causal = attend is None and q.shape[-2] > 1
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attend, is_causal=causal)
    if causal:
        attend = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if attend is not None:
        bias = torch.zeros(attend.shape, dtype=q.dtype, device=q.device)
        scores = scores + bias.masked_fill(~attend, -1e4)
    return scores.softmax(-1) @ v


def fourier(count: int, width: int) -> Tensor:
    """Fourier features [count, width] of the bins of an axis, of mean square 1. Periods are from 4
    bins, which tells neighbours apart, to 256, and the same for all axes: so what a level of an
    action adds to a place is a turn by the same angles."""
    periods = torch.logspace(2, 8, width // 2, base=2.0)
    angles = 2 * math.pi * torch.arange(count)[:, None] / periods
    return 2**0.5 * torch.cat([angles.cos(), angles.sin()], dim=-1)


def draw(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Tensor:
    """Ids int64 [B] of logits [B, V]; -inf is never drawn."""
    if temperature == 0:
        return logits.argmax(-1)
    if top_k is not None and top_k < logits.shape[-1]:
        best = logits.topk(top_k)
        logits = torch.full_like(logits, -math.inf).scatter(1, best.indices, best.values)
    # The most likely one at 0, so that no temperature is too low.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature
    return torch.multinomial(scaled.softmax(-1), 1, generator=generator)[:, 0]
