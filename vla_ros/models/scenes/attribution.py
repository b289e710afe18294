"""Which words made which pixels.

What a word does to a picture is how the picture would change if the word were not known: the
difference to the pictures of all that could stand there instead, each as likely as the language
model finds it among the other words (Zintgraf et al. 2017, "Visualizing deep neural network
decisions: prediction difference analysis", equation 3). A word that the others leave no choice
about, as "of" in "left of the bowl", does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.scene_language.vocabulary import PAD, TOKENS, tokens_of

_CHOICES = 12  # words that are tried in the place of each
_ROWS = 64  # pictures at once
_WORDS = [i for i, token in enumerate(TOKENS) if token.isalpha()]


@dataclass(frozen=True)
class Attribution:
    """What each word of a text did to its picture.

    Attributes:
        words: T tokens of the text.
        maps: float32 [T, 64, 64], 0 to 1: how much a pixel is expected to be another without the
            word, as a mean over the colours.
    """

    words: tuple[str, ...]
    maps: np.ndarray


@torch.inference_mode()
def attribution(model: CycleScenes, text: str, seed: int = 0) -> Attribution:
    """Which words made which pixels of `model.imagine(text, seed)`.

    Raises:
        ValueError: as for `CycleScenes.encode`.
    """
    words = tuple(tokens_of(text))
    ids = model.encode([words])
    choices, likely = _choices(model, ids)  # [T, C, T + 2], [T, C]
    scenes = _painted(model, torch.cat([ids, choices.flatten(0, 1)]), seed)
    scene, others = scenes[0], scenes[1:].unflatten(0, choices.shape[:2])
    expected = torch.einsum("tc,tcdhw->tdhw", likely, others - scene)
    return Attribution(words, expected.abs().mean(1).cpu().numpy())


def _choices(model: CycleScenes, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The text of ids [1, T + 2] with each of its T words in turn replaced by the likeliest others
    [T, C, T + 2], and how likely each is there [T, C]; the rest of 1 is the word's own."""
    count = ids.shape[1] - 2
    after = model.language(ids)[0].float()  # [T + 2, V] of what follows each id
    barred = torch.ones(after.shape[1], dtype=torch.bool, device=ids.device)
    barred[_WORDS] = False
    texts, chances = [], []
    for at in range(1, count + 1):
        said = after[at - 1].masked_fill(barred, -torch.inf)
        said[ids[0, at]] = -torch.inf
        tried = ids.repeat(_CHOICES, 1)
        tried[:, at] = said.topk(_CHOICES).indices
        texts.append(tried)
        chances.append(_likelihood(model, torch.cat([ids, tried])).softmax(0)[1:])
    return torch.stack(texts), torch.stack(chances)


def _likelihood(model: CycleScenes, ids: Tensor) -> Tensor:
    """Log-probability [B] of texts, nats."""
    nats = model.language(ids)[:, :-1].float().log_softmax(-1)
    return nats.gather(2, ids[:, 1:, None])[..., 0].where(ids[:, 1:] != PAD, 0.0).sum(1)


def _painted(model: CycleScenes, ids: Tensor, seed: int) -> Tensor:
    """Pictures [B, 3, 64, 64] of texts, all with the same draw."""
    noise = model.noise([seed])
    return torch.cat(
        [
            model.decoder(model.language.embed(part), noise.expand(len(part), -1)).scene
            for part in ids.split(_ROWS)
        ]
    )
