"""The files of a ROS 2 recording: what is the same for all of them.

The files are read directly, without their index: a killed recorder leaves none, and what an index
claims may differ from what is there. Only the head of each message is read to find it, so a large
recording is indexed without reading its pictures.

What a file says of sizes is not believed before it is checked: a few bytes can claim, or unpack to,
more than any memory holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import zstandard

HEAD = 16  # bytes of a message that its entry holds: CDR's four, a stamp's eight
LARGEST = 2**29  # bytes that one chunk or one message may unpack to; recorders make chunks of 1 MB
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no CDR message begins so
_NEWEST = 2**63  # ns; later times of receipt are damage

# Of an MCAP file: body of the chunk or -1, offset in it or in the file, bytes. Of sqlite: the row.
Place = tuple[int, int, int]
PlaceOf = Callable[[int, int], Place]


@dataclass(frozen=True)
class Channel:
    """What a file says of the messages of one topic."""

    topic: str
    type: str
    encoding: str  # "cdr" is the one that can be read
    definition: str = ""  # of the type; empty: the file does not carry it
    definition_format: str = ""  # "ros2msg" or "ros2idl"


class Entry(NamedTuple):
    """One message: its channel, when it was received (ns), where it lies, how it begins."""

    channel: int
    received: int
    place: Place
    head: bytes


class Reader(Protocol):
    """An opened file. `read` returns the bytes of the message at a place."""

    def read(self, place: Place) -> bytes | memoryview: ...

    def close(self) -> None: ...


class StorageFile(Protocol):
    """A file of a recording. `cut` and `channels` are complete after all `entries`."""

    channels: dict[int, Channel]
    cut: str  # how the file ends before its time; empty: it is whole

    def entries(self) -> Iterator[Entry]: ...

    def open(self) -> Reader: ...


def inflate(data: bytes | memoryview, size: int | None = None) -> bytes:
    """Undo zstd, whether or not the frame tells its size.

    Args:
        size: how many bytes it has to give; None: not known, up to `LARGEST`.

    Raises:
        ValueError: damaged, breaks off, or gives more than that.
    """
    most = LARGEST if size is None else min(size, LARGEST)
    try:
        told = zstandard.frame_content_size(data)
        if told > most:
            raise ValueError(f"zstd: it says {told} bytes, {most} are the most it may have")
        unpacker = zstandard.ZstdDecompressor()
        plain = unpacker.decompress(data, max_output_size=max(most, 1), allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(f"zstd: {error}") from None
    if size is not None and len(plain) != size:
        raise ValueError(f"zstd: it gives {len(plain)} bytes, not {size}")
    return plain


def inflate_head(data: bytes | memoryview) -> bytes:
    """The first bytes of what zstd packed. Raises ValueError."""
    try:
        return zstandard.ZstdDecompressor().stream_reader(data).read(HEAD)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd: {error}") from None


def check_received(time: object, path: Path) -> None:
    """Raises ValueError for a time of receipt that is none."""
    if not isinstance(time, int) or not -_NEWEST <= time < _NEWEST:
        raise ValueError(f"{path} is corrupt: a message was received at {time!r} ns")
