"""What an RLDS dataset says it holds (features.json), and its records decoded accordingly."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla_ros.images import metres, pixels_of_file, rgb
from vla_ros.training.data.tfrecord import parse_example

_NUMBERS = {"bool", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_TEXTS = {"string", "object"}
_CHANNELS = {(1,), (3,), (4,)}


@dataclass(frozen=True)
class Feature:
    """One feature of a step or an episode, such as an image of 480x640x3.

    Args:
        kind: "tensor", "image" or "text"; of others, which cannot be read, the class's name.
        shape: None for sizes that differ.
        dtype: by numpy's name.
        encoding: of a tensor: "none" for a list of numbers, "bytes" or "zlib" for its memory.
    """

    kind: str
    shape: tuple[int | None, ...] = ()
    dtype: str = ""
    encoding: str = "none"

    @property
    def is_numeric(self) -> bool:
        return self.kind == "tensor" and None not in self.shape and self.dtype in _NUMBERS

    @property
    def is_text(self) -> bool:
        return self.kind == "text" or (self.kind == "tensor" and self.dtype in _TEXTS)

    @property
    def is_colour(self) -> bool:
        """A camera's picture: RGB, RGBA (alpha is dropped) or grey (which is repeated)."""
        return self.kind == "image" and self.shape[2:] in _CHANNELS and self.dtype == "uint8"

    @property
    def is_depth(self) -> bool:
        if self.shape[2:] not in ((), (1,)) or len(self.shape) < 2:
            return False
        if self.kind == "image":
            return self.dtype == "uint16"
        return self.is_numeric and self.dtype.startswith("float")

    def __str__(self) -> str:
        shape = "x".join("?" if size is None else str(size) for size in self.shape)
        return " ".join(part for part in (self.kind, self.dtype, shape) if part)


def features_by_path(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Feature]]:
    """Features of a parsed features.json, named "steps/observation/image_0" and so on."""
    if "featuresDict" in node:
        for key, child in node["featuresDict"].get("features", {}).items():
            yield from features_by_path(child, f"{path}/{key}" if path else key)
    elif "sequence" in node and path == "steps":
        yield from features_by_path(node["sequence"]["feature"], path)
    else:
        kind = next((kind for kind in ("tensor", "image", "text") if kind in node), None)
        content = node[kind] if kind else {}
        sizes = content.get("shape", {}).get("dimensions", ())
        texts = (node.get("pythonClassName", "unknown"), content.get("dtype", ""))
        if not all(isinstance(text, str) for text in (*texts, content.get("encoding", "none"))):
            raise TypeError(f"{path} is described by what is no text")
        yield (
            path,
            Feature(
                kind or node.get("pythonClassName", "unknown").rpartition(".")[2],
                tuple(None if int(size) < 0 else int(size) for size in sizes),
                content.get("dtype", ""),
                content.get("encoding", "none"),
            ),
        )


@dataclass(frozen=True)
class Record:
    """One episode's record. All methods raise ValueError for what is not as features.json says.

    Args:
        name: of the episode, for messages.
        features: of the dataset, by path.
        content: lists of bytes or numbers, by path.
    """

    name: str
    features: Mapping[str, Feature] = field(repr=False)
    content: Mapping[str, Sequence] = field(repr=False)

    @classmethod
    def parse(cls, name: str, features: Mapping[str, Feature], data: bytes) -> Record:
        try:
            return cls(name, features, parse_example(data))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def _values(self, key: str) -> Sequence:
        feature, values = self.features[key], self.content.get(key)
        if values is None:
            raise ValueError(f"{self.name} has no {key!r}, though features.json names it")
        in_bytes = not feature.is_numeric or feature.encoding != "none"
        if len(values) and isinstance(values[0], bytes) != in_bytes:
            raise ValueError(f"{self.name}: {key!r} is not stored as a {feature}")
        return values

    def steps(self, key: str) -> int:
        """How many there are of it."""
        values, feature = self._values(key), self.features[key]
        if feature.is_numeric and feature.encoding == "none":
            return len(values) // max(math.prod(feature.shape), 1)
        return len(values)

    def integers(self, key: str) -> list[int]:
        try:
            return [int(value) for value in self._values(key)]
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"{self.name}: {key!r} holds what is no whole number: {error}"
            ) from None

    def tensor(self, key: str) -> np.ndarray:
        """[T, ...], the tensors of all steps, in the type that they are stored in."""
        return self._tensors(key)

    def numbers(self, key: str) -> np.ndarray:
        """float32 [T, n], the tensors of all steps, flattened."""
        tensors = self._tensors(key)
        size = math.prod(self.features[key].shape)
        return tensors.reshape(len(tensors), size).astype(np.float32)

    def text(self, key: str) -> str:
        """The text that all steps hold."""
        # What is no UTF-8 stays apart: bytes that differ are other texts.
        texts = {value.decode(errors="backslashreplace") for value in self._values(key)}
        if len(texts) > 1:
            told = ", ".join(map(repr, sorted(texts)))
            raise ValueError(f"{self.name}: {key!r} changes within the episode: {told}")
        return texts.pop() if texts else ""

    def pictures(self, key: str, first: int, last: int) -> Iterator[np.ndarray]:
        """Steps `first` .. `last` - 1: uint8 [H, W, 3] RGB, or depth as float32 [H, W] in m."""
        feature = self.features[key]
        if feature.kind == "tensor":
            for depth in self._tensors(key, slice(first, last)):
                yield metres(depth.reshape(feature.shape[:2]))
            return
        for step, encoded in enumerate(self._values(key)[first:last], first):
            stored = self._decoded(encoded, feature, f"{self.name}: {key!r} of step {step}")
            yield rgb(stored) if feature.is_colour else metres(stored)

    def _tensors(self, key: str, steps: slice = slice(None)) -> np.ndarray:
        """[T, *shape] of the tensor's type, or of what a list of numbers keeps of it."""
        feature, values = self.features[key], self._values(key)
        size = math.prod(feature.shape)
        if feature.encoding == "none":
            flat = np.array(values)
            if size == 0 or flat.size % size:
                raise ValueError(f"{self.name}: {key!r} has {flat.size} numbers, not T x {size}")
            return flat.reshape(-1, *feature.shape)[steps]
        most = np.dtype(feature.dtype).itemsize * size
        try:
            packed = feature.encoding == "zlib"
            raw = (_inflated(value, most) if packed else value for value in values[steps])
            rows = [np.frombuffer(data, feature.dtype).reshape(feature.shape) for data in raw]
        except (zlib.error, ValueError) as error:
            raise ValueError(f"{self.name}: {key!r} cannot be decoded: {error}") from None
        return np.array(rows).reshape(-1, *feature.shape)

    @staticmethod
    def _decoded(encoded: bytes, feature: Feature, what: str) -> np.ndarray:
        try:
            pixels = pixels_of_file(encoded)
        except ValueError as error:
            raise ValueError(f"{what} {error}") from None
        fits = all(
            wanted in (None, size)
            for wanted, size in zip(feature.shape[:2], pixels.shape[:2], strict=True)
        )
        if not feature.is_colour:  # what is stored of a colour is made RGB, whatever was promised
            fits = fits and pixels.dtype == feature.dtype and pixels.ndim == 2
        if not fits:
            size = "x".join(map(str, pixels.shape))
            raise ValueError(f"{what} is {pixels.dtype} {size}, but features.json says {feature}")
        return pixels


def _inflated(data: bytes, size: int) -> bytes:
    """What zlib packed, of no more than `size` bytes. Raises ValueError."""
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(data, size + 1)
    if len(plain) != size or not unpacker.eof:
        raise ValueError(f"it breaks off, or is not of {size} bytes")
    return plain
