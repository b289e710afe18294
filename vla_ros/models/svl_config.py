"""Shapes of the narrator's model, see svl.py, and of its eye."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# A checkpoint of "nano" has 4 MB, and it speaks on one core; "small" is for a GPU.
SIZES: dict[str, dict[str, int]] = {
    "nano": {"width": 128, "heads": 4, "layers": 4, "context": 256},
    "small": {"width": 384, "heads": 6, "layers": 6, "context": 512},
}
# The eye of the one that ships: a policy's of 64 pixels does not tell a cube from a cylinder.
EYE = {"model_type": "small", "image_size": 128, "channels": 48, "mixing": 3}


@dataclass(frozen=True)
class SVLConfig:
    """Shape of the model. Raises ValueError: settings that do not fit each other.

    Args:
        vocab_size: V.
        context: ids that a row has at most, prompt and answer together; the prefix does not count.
        width, heads, layers: D, H and the number of blocks; D / H is even.
        prefix_width, prefix_tokens: features of a token of the image encoder, and P; 0: no prefix.
        pad, bos, eos: ids of what fills a row up and is never said, begins it and ends it.
        coordinate_groups: (first id, count) of ids that are bins of one axis in order. They start
            with Fourier features, so that near bins start near each other.
    """

    vocab_size: int
    context: int = 256
    width: int = 128
    heads: int = 4
    layers: int = 4
    prefix_width: int = 0
    prefix_tokens: int = 0
    pad: int = 0
    bos: int = 1
    eos: int = 2
    coordinate_groups: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        groups = tuple(map(tuple, self.coordinate_groups))
        object.__setattr__(self, "coordinate_groups", groups)  # JSON makes lists of tuples
        shape = (self.context, self.width, self.heads, self.layers)
        if min(shape) < 1 or self.width % (2 * self.heads):
            raise ValueError(
                f"context, width, heads, layers are {shape}: give 1 or more, and as width an even "
                "multiple of heads"
            )
        prefix = (self.prefix_width, self.prefix_tokens)
        if min(prefix) < 0 or (prefix[0] == 0) != (prefix[1] == 0):
            raise ValueError(f"prefix_width, prefix_tokens are {prefix}: give both, or 0 for both")
        special = (self.pad, self.bos, self.eos)
        if len(set(special)) < 3 or min(special) < 0 or max(special) >= self.vocab_size:
            raise ValueError(f"pad, bos, eos are {special}: give three ids below {self.vocab_size}")
        end = 0
        for first, count in sorted(groups):
            if first < end or count < 2 or first + count > self.vocab_size:
                raise ValueError(
                    f"coordinate groups {groups}: give (first id, count), two ids or more, within "
                    f"the vocabulary of {self.vocab_size} and none in two groups"
                )
            end = first + count

    @classmethod
    def of(cls, size: str, vocab_size: int, **changes: Any) -> SVLConfig:
        """Of SIZES; `changes` replace or add arguments. Raises ValueError: no such size."""
        if size not in SIZES:
            raise ValueError(f"no size {size!r}: choose {', '.join(SIZES)}")
        return cls(vocab_size, **{**SIZES[size], **changes})
