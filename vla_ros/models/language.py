"""Words in and words out: tokenizer, instruction encoder, autoregressive decoder.

A tokenizer is one of the `tokenizers` library, kept in the checkpoint as tokenizer.json. The one
that ships knows whole words, and takes a text as `words_of` divides it; one trained with byte pairs
serves as well, if it has the special tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from vla_ros.models.mamba import MambaStack, RMSNorm
from vla_ros.scene_language.instructions import (
    empty_instruction,
    missing_word,
    unknown_words,
)
from vla_ros.scene_language.words import words_of

PAD, END, UNKNOWN = "<pad>", "<end>", "<unk>"
_SPECIAL = {PAD: 0, END: 1, UNKNOWN: 2}
_MOST_UNKNOWN = 0.5  # of the words of an instruction
_LONGEST = 10_000  # characters of an instruction; all of them are read
_IGNORED = -100  # targets that cross-entropy leaves out


def word_tokenizer(heard: Iterable[str], said: Iterable[str] = ()) -> Tokenizer:
    """A tokenizer of whole words as `words_of` gives them.

    Args:
        heard: words of instructions; their ids come first.
        said: words of descriptions, as far as they are others.
    """
    first = sorted(set(heard))
    return ordered_tokenizer([*_SPECIAL, *first, *sorted(set(said) - set(first))])


def ordered_tokenizer(words: Iterable[str]) -> Tokenizer:
    """A tokenizer whose ids are the places of `words`, which begin with the special tokens."""
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    # Who uses the file without this package must give words_of's words, with spaces between them.
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def check_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises ValueError when a special token has not the id that the model wants, or when there are
    more tokens than `vocab_size`."""
    for token in (PAD, END):
        if tokenizer.token_to_id(token) != _SPECIAL[token]:
            raise ValueError(
                f"the tokenizer needs the special token {token} as id {_SPECIAL[token]}: train it "
                f"with special_tokens={list(_SPECIAL)}"
            )
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model {vocab_size}: raise "
            "vocab_size"
        )


def encode(tokenizer: Tokenizer, text: str, heard: int, needed: Sequence[str] = ()) -> list[int]:
    """Token ids of an instruction, below `heard`.

    Args:
        tokenizer: the model's.
        text: the instruction.
        heard: how many tokens may come in instructions.
        needed: words of which there must be one; other words may then be unknown, up to half of
            them. Without, none may.

    Raises:
        ValueError: the text is empty or too long, has words outside the vocabulary (all are named),
            or none that is needed.
    """
    pieces = _pieces(tokenizer, text)
    if not pieces:
        raise empty_instruction(text)
    ids = [i if i < heard else _SPECIAL[UNKNOWN] for _, i in pieces]
    unknown = _unheard(pieces, heard)
    if len(unknown) > (_MOST_UNKNOWN * len(ids) if needed else 0):
        raise unknown_words(text, unknown)
    if needed and not {tokenizer.token_to_id(word) for word in needed} & set(ids):
        raise missing_word(text, needed)
    return ids


def unheard(tokenizer: Tokenizer, text: str, heard: int) -> list[str]:
    """The words of an instruction that are outside the vocabulary."""
    return _unheard(_pieces(tokenizer, text), heard)


def _pieces(tokenizer: Tokenizer, text: str) -> list[tuple[str, int]]:
    """What an instruction is divided into, with ids. Raises ValueError: it is too long."""
    if len(text) > _LONGEST:
        raise ValueError(
            f"the instruction has {len(text)} characters: say it in {_LONGEST} at most"
        )
    if isinstance(tokenizer.model, models.WordLevel):
        # What a tokenizer of its own drops, such as digits, would make two instructions one.
        unknown = _SPECIAL[UNKNOWN]
        ids = ((word, tokenizer.token_to_id(word)) for word in words_of(text))
        return [(word, unknown if i is None else i) for word, i in ids]
    encoding = tokenizer.encode(text, add_special_tokens=False)
    spans = zip(encoding.ids, encoding.offsets, strict=True)
    return [(text[a:b].lower(), i) for i, (a, b) in spans]


def _unheard(pieces: Iterable[tuple[str, int]], heard: int) -> list[str]:
    return [word for word, i in pieces if i == _SPECIAL[UNKNOWN] or i >= heard]


def pad(ids: Iterable[list[int]]) -> Tensor:
    """Sequences of token ids to one int64 [B, longest], 0 pads."""
    rows = [torch.tensor(row, dtype=torch.int64) for row in ids]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_SPECIAL[PAD])


def decode(tokenizer: Tokenizer, ids: Tensor) -> str:
    """Text of the ids [W] up to the end token."""
    kept = []
    for i in ids.tolist():
        if i in (_SPECIAL[END], _SPECIAL[PAD]):
            break
        kept.append(i)
    return tokenizer.decode(kept)


def sentence_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy [...] (nats a token) of sentences [..., W] (0 pads) and their end token.

    Takes the logits [..., W + 1, V] of the training form of LanguageDecoder.
    """
    lengths = (ids > 0).sum(-1, keepdim=True)
    ended = F.pad(ids, (0, 1)).scatter(-1, lengths, _SPECIAL[END])
    position = torch.arange(ended.shape[-1], device=ids.device)
    target = ended.masked_fill(position > lengths, _IGNORED)
    flat = logits.float().flatten(0, -2), target.flatten()
    loss = F.cross_entropy(*flat, ignore_index=_IGNORED, reduction="none").view(target.shape)
    return loss.sum(-1) / (lengths[..., 0] + 1)


class InstructionEncoder(nn.Module):
    """Token ids [B, W] (0 pads) to one vector [B, width]: embedding, then a bidirectional GRU."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width // 2, padding_idx=_SPECIAL[PAD])
        self.gru = nn.GRU(width // 2, width // 2, batch_first=True, bidirectional=True)

    def forward(self, ids: Tensor) -> Tensor:
        lengths = (ids > 0).sum(1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(ids), lengths, batch_first=True, enforce_sorted=False
        )
        _, last = self.gru(packed)
        return torch.cat([last[0], last[1]], dim=-1)


class LanguageDecoder(nn.Module):
    """Says what a feature vector holds, token by token: p(w_i | features, w_<i).

    The features stand in front of the sentence as its first input; a Mamba-2 stack reads on from
    there. Input and output embeddings are one matrix (Press and Wolf 2017).
    """

    def __init__(self, features: int, vocab_size: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.features = features
        self.prefix = nn.Sequential(
            RMSNorm(features), nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.core = MambaStack(width, n_layers, d_state=64)
        self.norm = RMSNorm(width)

    def forward(self, features: Tensor, ids: Tensor) -> Tensor:
        """Training form: logits [N, W + 1, V] for sentences [N, W] said about features [N, D].

        Position i holds the logits of token i given the tokens before it; the last one those of
        what follows the sentence.
        """
        x = torch.cat([self.prefix(features)[:, None], self.embedding(ids)], dim=1)
        return self._logits(self.core(x)[0])

    def generate(self, features: Tensor, max_tokens: int = 24) -> Tensor:
        """Greedy sentences int64 [N, <= max_tokens] for features [N, D]; 0 after the end token."""
        states = self.core.initial_state(len(features))
        x = self.prefix(features)
        over = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        said: list[Tensor] = []
        while len(said) < max_tokens and not over.all():
            x, states = self.core.step(x, states)
            word = self._logits(x).argmax(-1).masked_fill(over, _SPECIAL[PAD])
            said.append(word)
            over = over | (word == _SPECIAL[END])
            x = self.embedding(word)
        return torch.stack(said, dim=1)

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x).to(self.embedding.weight.dtype), self.embedding.weight)
