"""What a model of scenes is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vla_ros.models.part import config_from
from vla_ros.models.svl import SVLConfig
from vla_ros.scene_language.vocabulary import BOS, COORDINATES, EOS, PAD, TOKENS, VERSION


def _language() -> SVLConfig:
    return SVLConfig(
        len(TOKENS), context=96, width=128, heads=4, layers=3, pad=PAD, bos=BOS, eos=EOS,
        coordinate_groups=COORDINATES,
    )  # fmt: skip


@dataclass(frozen=True)
class ScenesConfig:
    """Shape of text -> scene -> text.

    Args:
        language: of the autoregressive language model that reads the text.
        d_model: numbers of a text's embedding.
        hidden_dim: width of what is between the bottleneck and a layout, and of the captioner.
        z_dim: numbers of the bottleneck.
        bottleneck: "vae", "vq" (a discrete vocabulary: `codes` codes in each of z_dim / 8 groups)
            or "none".
        painter: "sprites" paints each thing of the layout for itself and then looks at the whole,
            "convolutions" paints everything at once from the bottleneck and the layout.
        things: most things of a scene.
        dropout: of the embedding.
        vocabulary: version of the scene language's.

    Raises:
        ValueError: they do not fit each other, or this package.
    """

    language: SVLConfig = field(default_factory=_language)
    d_model: int = 512
    hidden_dim: int = 256
    z_dim: int = 128
    bottleneck: str = "vae"
    codes: int = 256
    painter: str = "sprites"
    things: int = 4
    dropout: float = 0.0
    vocabulary: int = VERSION

    def __post_init__(self) -> None:
        if isinstance(self.language, Mapping):  # from JSON
            object.__setattr__(self, "language", config_from(SVLConfig, self.language))
        if (self.vocabulary, self.language.vocab_size) != (VERSION, len(TOKENS)):
            raise ValueError(
                f"a model of vocabulary {self.vocabulary} with {self.language.vocab_size} tokens, "
                f"but this package speaks version {VERSION} with {len(TOKENS)}: train it anew"
            )
        if self.bottleneck not in ("vae", "vq", "none"):
            raise ValueError(f"bottleneck is {self.bottleneck!r}: choose vae, vq or none")
        if self.painter not in ("sprites", "convolutions"):
            raise ValueError(f"painter is {self.painter!r}: choose sprites or convolutions")
        sizes = (self.d_model, self.hidden_dim, self.z_dim, self.codes, self.things)
        if min(sizes) < 1 or self.z_dim % (8 * self.things) or self.d_model % self.things:
            raise ValueError(
                f"d_model, hidden_dim, z_dim, codes, things are {sizes}: give 1 or more, a d_model "
                "that the number of things divides, and a z_dim that eight times it divides"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}: give 0 or more, below 1")
