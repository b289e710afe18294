"""A policy to go on from, with the words of new recordings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tokenizers import models

from vla_ros.models import language
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.scene_language.words import words_of

_EMBEDDINGS = ("instruction.embedding.weight", "language.embedding.weight")


def new_words(policy: VisionLanguageActionModel, texts: Iterable[str]) -> list[str]:
    """Words of instructions that a policy cannot hear yet. A vocabulary of byte pairs has none."""
    if not isinstance(policy.tokenizer.model, models.WordLevel):
        return []
    heard, ids = policy.config.heard_tokens, policy.tokenizer.get_vocab()
    words = {word for text in texts for word in words_of(text)}
    return sorted(word for word in words if ids.get(word, heard) >= heard)


def with_words(
    policy: VisionLanguageActionModel, words: Sequence[str], needed: Sequence[str]
) -> VisionLanguageActionModel:
    """The same policy with more words, each heard at first as any unknown word was.

    Args:
        policy: whose words are whole.
        words: of `new_words`.
        needed: words of which an instruction must have one, see `VLAMConfig`.
    """
    config, ids = policy.config, policy.tokenizer.get_vocab()
    old = sorted(ids, key=ids.get)
    heard = min(config.heard_tokens, len(old))
    order = [*old[:heard], *words, *(word for word in old[heard:] if word not in words)]
    tokenizer = language.ordered_tokenizer(order)
    shape = {name: getattr(config, name) for name in vars(config)}
    action, vision = shape.pop("action"), shape.pop("vision")
    shape |= {
        "heard_tokens": max(config.heard_tokens, heard + len(words)),
        "vocab_size": max(config.vocab_size, len(order)),
        "needed_words": tuple(needed),
        "language_conditioned": True,
    }
    grown = VisionLanguageActionModel(
        action, vision, tokenizer=tokenizer, statistics=policy.statistics, **shape
    )
    weights, fresh = policy.state_dict(), grown.state_dict()
    unknown = ids[language.UNKNOWN]
    for name in _EMBEDDINGS:
        before, rows = weights[name], fresh[name].clone()
        for place, word in enumerate(order[: len(rows)]):
            row = ids.get(word, unknown)
            rows[place] = before[row if row < len(before) else unknown]
        weights[name] = rows
    with torch.no_grad():
        grown.load_state_dict(weights)
    return grown
