"""Text -> scene -> text: what words look like, and whether a picture means the same words again.

text ─ language model ─ embedding ─ decoder ─ picture ─ captioner ─ caption
                           └──────────── match ──────────── embedding ┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vla_ros.models.part import Part
from vla_ros.models.scenes.captions import CaptionNetwork, read_caption
from vla_ros.models.scenes.config import ScenesConfig
from vla_ros.models.scenes.decoder import SceneDecoder
from vla_ros.models.scenes.language import AutoregressiveLanguageModel
from vla_ros.models.scenes.layout import Picture, layout_of
from vla_ros.models.scenes.matching import Matcher, ways
from vla_ros.models.scenes.reading import not_shown
from vla_ros.scene_language.vocabulary import BOS, EOS, PAD, encode, tokens_of

_DRAWS = 8  # of what a text leaves open, that it is compared with a picture by


@dataclass(frozen=True)
class Imagined:
    """What a text looks like.

    Attributes:
        image: uint8 RGB [64, 64, 3], from above; a pixel is a bin of x and y.
        caption: tokens that the captioner says of it, see `captions`.
        score: see `CycleScenes.match`.
        missing: what of the text is not in the caption, in words; "" if nothing is.
    """

    image: np.ndarray
    caption: tuple[str, ...]
    score: float
    missing: str

    @property
    def picture(self) -> Picture:
        """What the caption says."""
        return read_caption(self.caption)


class CycleScenes(Part):
    """See the module's text."""

    Config = ScenesConfig

    def __init__(self, config: ScenesConfig | None = None) -> None:
        super().__init__()
        self.config = config or ScenesConfig()
        self.language = AutoregressiveLanguageModel(self.config)
        self.decoder = SceneDecoder(self.config)
        self.captioner = CaptionNetwork(self.config)
        self.matcher = Matcher(self.config)
        draws = torch.Generator().manual_seed(0)
        draws = torch.randn(_DRAWS, self.config.z_dim, generator=draws)
        self.register_buffer("_draws", draws, persistent=False)  # the same always, hence not saved
        self.temperature = nn.Parameter(torch.tensor(2.5))  # log of what similarities are scaled by
        # Logistic regression from what the matcher says to a score; fitted after the training.
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    def encode(self, texts: Sequence[str | Sequence[str]]) -> Tensor:
        """Ids [B, T] of texts (or their tokens), padded.

        Raises:
            ValueError: words that the model was never taught (all are named), an empty text, or one
                that is too long.
        """
        rows, most = [], self.config.language.context - 2
        for text in texts:
            words = tokens_of(text) if isinstance(text, str) else list(text)
            if not any(word.isalpha() for word in words):
                raise ValueError("the text has no words: describe a scene, as in 'a red cube'")
            if len(words) > most:
                raise ValueError(
                    f"the text has {len(words)} words and punctuation marks, {most} at most: "
                    "shorten it"
                )
            rows.append(torch.tensor([BOS, *encode(words), EOS]))
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        return ids.to(self.temperature.device)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """What the bottleneck draws for seeds: [B, z_dim], the same on every machine."""
        draws = [
            torch.randn(self.config.z_dim, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        return torch.stack(draws).to(self.temperature.device)

    @torch.inference_mode()
    def imagine(self, text: str | Sequence[str], seed: int = 0) -> Imagined:
        """A picture of a text; the same text and seed give the same picture.

        Raises:
            ValueError: as for `encode`.
        """
        words = tokens_of(text) if isinstance(text, str) else list(text)
        embedding = self.language.embed(self.encode([words]))
        scene = eight_bits(self.decoder(embedding, self.noise([seed])).scene)
        (caption,) = self.captioner.generate_caption(scene)
        score = self._score(embedding, scene)
        missing = not_shown(words, read_caption(caption))
        return Imagined(_image(scene[0]), tuple(caption), score, missing)

    @torch.inference_mode()
    def match(self, text: str | Sequence[str], picture: Picture) -> float:
        """How well a text fits what is seen, 0 to 1: the cycle score. The scene is painted, as an
        imagined one would be, and what is seen in it is compared with the text.

        Raises:
            ValueError: as for `encode`.
        """
        embedding = self.language.embed(self.encode([text]))
        layout = layout_of([picture], max(len(picture.things), 1)).to(embedding.device)
        scene = eight_bits(self.decoder.paint(layout))
        return self._score(embedding, scene)

    @torch.no_grad()
    def ways_imagined(self, text: Tensor) -> Tensor:
        """How things lie in what texts [B, D] are imagined as, [B, F] of `matching.ways`: the mean
        over draws, so that what the text leaves open comes out near 0."""
        draws = self._draws.repeat(len(text), 1)
        layout = self.decoder.layout(
            self.decoder.bottleneck(text.float().repeat_interleave(_DRAWS, 0), draws)[0]
        )
        places = torch.cat([layout.place, layout.reach[:, None]], dim=1)
        there = torch.cat([layout.there, layout.gripper[:, None]], dim=1).sigmoid()
        return ways(places, there).unflatten(0, (-1, _DRAWS)).mean(1)

    def fits(self, text: Tensor, scene: Tensor) -> Tensor:
        """Logits [B] of the matcher that texts, embeddings [B, D], fit pictures [B, 3, 64, 64]."""
        return self.matcher(text, self.ways_imagined(text), self.captioner.look(scene))

    def _score(self, text: Tensor, scene: Tensor) -> float:
        slope, offset = self.calibration
        return (slope * self.fits(text, scene) + offset).sigmoid().item()


def eight_bits(scene: Tensor) -> Tensor:
    """Pictures as they are after they were a message: whole levels of 255."""
    return (scene * 255).round() / 255


def _image(scene: Tensor) -> np.ndarray:
    return (scene * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
