"""MCAP files of a recording (MCAP 0, mcap.dev/spec), record by record."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

import lz4.frame

from vla_ros.training.data.bag_storage import (
    HEAD,
    LARGEST,
    Channel,
    Entry,
    Place,
    PlaceOf,
    Reader,
    check_received,
    inflate,
)

MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _STATISTICS, _DATA_END = 3, 4, 5, 6, 11, 15
_RESERVED = range(16, 128)  # records of MCAP versions to come: this one has none of them
_BLOCK = 2**20
_RECORD_HEAD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_CHUNK_HEAD = struct.Struct("<QQQII")
_STATISTICS_HEAD = struct.Struct("<QHIIIIQQI")


class McapFile:
    """An MCAP file, finished or not, chunked or not, indexed or not.

    Checksums are looked at where there are any, and the number of messages where it stands.

    Args:
        path: of the file.
        source: what it was unpacked from, for messages.
    """

    def __init__(self, path: Path, source: Path | None = None) -> None:
        self._path = path
        self.source = source or path  # the file that a user knows
        self.channels: dict[int, Channel] = {}
        self.cut = ""
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._counts: Counter[int] = Counter()  # messages of each channel
        self._unguarded = False  # there are messages that no chunk's checksum covers

    def entries(self) -> Iterator[Entry]:
        """All messages in the order of the file. Raises ValueError for what is no MCAP."""
        with open(self._path, "rb", buffering=1 << 14) as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{self.source} is not an MCAP file")
            end = os.fstat(file.fileno()).st_size
            try:
                whole, stopped = yield from self._walk(file, len(MAGIC), end, _in_file)
                if whole:
                    self._check_data(file, stopped)
                    self._check_counts(file, stopped, end)
                elif _is_finished(file, end):
                    raise self._corrupt(stopped, "a record exceeds the file, which has its end")
            except struct.error as error:
                raise ValueError(f"{self.source} is corrupt: {error}") from None
        if not whole:
            self.cut = f"{self.source.name} breaks off at byte {stopped} of {end}"

    def open(self) -> Reader:
        return _McapReader(self._path, self.source)

    def _walk(
        self, source: BinaryIO, first: int, end: int, place: PlaceOf, chunks: bool = True
    ) -> Generator[Entry, None, tuple[bool, int]]:
        """Messages of the records in [first, end), also in their chunks.

        Returns:
            Whether the end of all data was told, and where; if not, where the last record ends.
        """
        position = first
        while end - position >= _RECORD_HEAD.size:
            source.seek(position)
            head = source.read(_RECORD_HEAD.size + _MESSAGE_HEAD.size + HEAD)
            operation, length = _RECORD_HEAD.unpack_from(head)
            body = position + _RECORD_HEAD.size
            if operation in (0, *_RESERVED) or (operation == _CHUNK and not chunks):
                raise self._corrupt(position, f"record {operation} cannot be there")
            if operation == _CHUNK:
                yield from self._chunk(source, body, min(body + length, end))
            if body + length > end:
                break
            if operation == _MESSAGE:
                size, begin = length - _MESSAGE_HEAD.size, _RECORD_HEAD.size + _MESSAGE_HEAD.size
                if size < 0:
                    raise self._corrupt(position, "a message is too short")
                channel, _, received, _ = _MESSAGE_HEAD.unpack_from(head, _RECORD_HEAD.size)
                if channel not in self.channels:
                    raise self._corrupt(position, f"unknown channel {channel}")
                check_received(received, self.source)
                self._counts[channel] += 1
                self._unguarded |= chunks
                where = place(position + begin, size)
                yield Entry(channel, received, where, head[begin : begin + size])
            elif operation in (_SCHEMA, _CHANNEL):
                source.seek(body)
                self._declare(operation, source.read(length))
            elif operation == _DATA_END:
                return True, position
            position = body + length
        return False, position

    def _corrupt(self, position: int, why: str) -> ValueError:
        return ValueError(f"{self.source} is corrupt at byte {position}: {why}")

    def _chunk(self, source: BinaryIO, body: int, end: int) -> Iterator[Entry]:
        """Messages of a chunk. Of one that breaks off, those that can still be had."""
        source.seek(body)
        head = source.read(_CHUNK_HEAD.size)
        if len(head) < _CHUNK_HEAD.size:
            return
        *_, crc, size = _CHUNK_HEAD.unpack(head)
        compression = source.read(min(size, end - body))
        start = body + _CHUNK_HEAD.size + size + 8
        (packed,) = struct.unpack("<Q", source.read(8).ljust(8, b"\0"))
        whole = start + packed <= end
        if compression and not whole:
            return
        if compression:
            data = _load_chunk(source, body, self.source)
            source, first, last = io.BytesIO(data), 0, len(data)
            place = lambda at, n: (body, at, n)  # noqa: E731
        elif crc and whole:  # its messages are read by the chunk, so that the sum is looked at
            first, last = start, start + packed
            place = lambda at, n: (body, at - start, n)  # noqa: E731
        else:
            first, last, place = start, min(start + packed, end), _in_file
        if not crc:
            self._unguarded = True
        _, stopped = yield from self._walk(source, first, last, place, chunks=False)
        if whole and stopped != last:
            raise self._corrupt(body, "a record of the chunk exceeds it")

    def _check_data(self, file: BinaryIO, end: int) -> None:
        """The checksum of all data up to `end`, for messages that no chunk's checksum covers."""
        file.seek(end + _RECORD_HEAD.size)
        (told,) = struct.unpack("<I", file.read(4))
        if not told or not self._unguarded:
            return
        # Some writers begin with the magic at the front, some after the header.
        file.seek(len(MAGIC))
        _, length = _RECORD_HEAD.unpack(file.read(_RECORD_HEAD.size))
        begin = len(MAGIC) + _RECORD_HEAD.size + length
        file.seek(0)
        from_magic, from_header, position = zlib.crc32(file.read(begin)), 0, begin
        while position < end:
            block = file.read(min(_BLOCK, end - position))
            if not block:
                break
            from_magic, from_header = zlib.crc32(block, from_magic), zlib.crc32(block, from_header)
            position += len(block)
        if told not in (from_magic, from_header):
            raise ValueError(f"{self.source} is corrupt: the checksum of its data is wrong")

    def _check_counts(self, file: BinaryIO, position: int, end: int) -> None:
        """What the statistics after the data say: less than they count has been lost."""
        while end - position >= _RECORD_HEAD.size:
            file.seek(position)
            operation, length = _RECORD_HEAD.unpack(file.read(_RECORD_HEAD.size))
            if operation == _STATISTICS and length <= end - position:
                data = file.read(length)
                *_, size = _STATISTICS_HEAD.unpack_from(data)
                told = dict(struct.iter_unpack("<HQ", data[_STATISTICS_HEAD.size :][:size]))
                for number, count in told.items():
                    if self._counts[number] != count:
                        topic = self.channels[number].topic if number in self.channels else number
                        raise ValueError(
                            f"{self.source} is corrupt: its statistics count {count} messages on "
                            f"{topic}, {self._counts[number]} are there"
                        )
            position += _RECORD_HEAD.size + length

    def _declare(self, operation: int, record: bytes) -> None:
        if operation == _SCHEMA:
            (number,), rest = struct.unpack_from("<H", record), record[2:]
            name, rest = _string(rest)
            encoding, rest = _string(rest)
            self._schemas[number] = (name, encoding, _string(rest)[0])
            return
        number, schema = struct.unpack_from("<HH", record)
        topic, rest = _string(record[4:])
        encoding, _ = _string(rest)
        name, form, text = self._schemas.get(schema, ("", "", ""))
        channel = Channel(topic, name, encoding, text, form)
        if self.channels.setdefault(number, channel) != channel:
            raise ValueError(f"{self.source} is corrupt: channel {number} is declared in two ways")


def _is_finished(file: BinaryIO, end: int) -> bool:
    file.seek(end - len(MAGIC))
    return end >= 2 * len(MAGIC) and file.read() == MAGIC


def _in_file(offset: int, size: int) -> Place:
    return (-1, offset, size)


def _string(data: bytes) -> tuple[str, bytes]:
    (size,) = struct.unpack_from("<I", data)
    if size > len(data) - 4:
        raise struct.error(f"a text of {size} bytes exceeds its record")
    return data[4 : 4 + size].decode(errors="replace"), data[4 + size :]


def _load_chunk(file: BinaryIO, body: int, path: Path) -> bytes:
    """The records of the chunk whose body begins at `body`, unpacked and checked."""
    file.seek(body)
    *_, size, crc, length = _CHUNK_HEAD.unpack(file.read(_CHUNK_HEAD.size))
    compression = file.read(length).decode(errors="replace")
    try:
        if size > LARGEST:
            raise ValueError(f"it says {size} bytes, {LARGEST} are the most that are read")
        (packed,) = struct.unpack("<Q", file.read(8))
        data = file.read(min(packed, os.fstat(file.fileno()).st_size))
        if compression == "zstd":
            data = inflate(data, size)
        elif compression == "lz4":
            data = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        elif compression:
            raise ValueError(f"unknown compression {compression!r}")
        if len(data) != size or (crc and zlib.crc32(data) != crc):
            raise ValueError("its checksum or size is wrong")
    except (ValueError, RuntimeError, struct.error, MemoryError) as error:
        raise ValueError(f"{path} is corrupt: chunk at byte {body}: {error}") from None
    return data


class _McapReader:
    def __init__(self, path: Path, source: Path) -> None:
        self._source = source
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by close)
        self._chunk, self._data = -1, memoryview(b"")

    def read(self, place: Place) -> bytes | memoryview:
        chunk, offset, size = place
        if chunk < 0:
            return os.pread(self._file.fileno(), size, offset)
        if chunk != self._chunk:
            self._data = memoryview(_load_chunk(self._file, chunk, self._source))
            self._chunk = chunk
        return self._data[offset : offset + size]

    def close(self) -> None:
        self._file.close()
