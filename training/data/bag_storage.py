"""The files of a ROS 2 recording: where each message lies in an MCAP or an sqlite3 file.

The files are read directly, without their index: a killed recorder leaves none, and what an index
claims may differ from what is there. Only the head of each message is read to find it, so a large
recording is indexed without reading its pictures.

Formats: MCAP 0 (mcap.dev/spec), rosbag2_storage_sqlite3 (schemas 1 to 4).
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import apsw
import lz4.frame
import zstandard

HEAD = 16  # bytes of a message that its entry holds: CDR's four, a stamp's eight
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no CDR message begins so
_MCAP_MAGIC = b"\x89MCAP0\r\n"
_HEADER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 1, 3, 4, 5, 6, 15
_RECORD_HEAD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_CHUNK_HEAD = struct.Struct("<QQQII")

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

    path: Path
    channels: dict[int, Channel]
    cut: str  # how the file ends before its time; empty: it is whole

    def entries(self) -> Iterator[Entry]: ...

    def open(self) -> Reader: ...


def inflate(data: bytes | memoryview) -> bytes:
    """Undo zstd, whether or not the frame tells its size. Raises ValueError."""
    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd: {error}") from None


def storage_file(path: Path) -> StorageFile:
    """The file at `path`, by its ending. Raises ValueError for an empty or an unknown one."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    return {".mcap": McapFile, ".db3": SqliteFile}[path.suffix](path)


class McapFile:
    """An MCAP file, finished or not, chunked or not, indexed or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channels: dict[int, Channel] = {}
        self.cut = ""
        self._schemas: dict[int, tuple[str, str, str]] = {}

    def entries(self) -> Iterator[Entry]:
        """All messages in the order of the file. Raises ValueError for what is no MCAP."""
        with open(self.path, "rb", buffering=1 << 14) as file:
            if file.read(len(_MCAP_MAGIC)) != _MCAP_MAGIC:
                raise ValueError(f"{self.path} is not an MCAP file")
            end = os.fstat(file.fileno()).st_size
            stopped = yield from self._walk(file, len(_MCAP_MAGIC), end, _in_file)
        if stopped is not None:
            self.cut = f"{self.path.name} breaks off at byte {stopped} of {end}"

    def open(self) -> Reader:
        return _McapReader(self.path)

    def _walk(
        self, source: BinaryIO, first: int, end: int, place: PlaceOf, chunks: bool = True
    ) -> Generator[Entry, None, int | None]:
        """Messages of the records in [first, end), also in their chunks.

        Returns:
            Where the last whole record ends; None once the end of all data has been told.
        """
        position = first
        while end - position >= _RECORD_HEAD.size:
            source.seek(position)
            head = source.read(_RECORD_HEAD.size + _MESSAGE_HEAD.size + HEAD)
            operation, length = _RECORD_HEAD.unpack_from(head)
            body = position + _RECORD_HEAD.size
            if operation == 0 or (operation == _CHUNK and not chunks):
                raise ValueError(f"{self.path} is corrupt: no record at byte {position}")
            if operation == _CHUNK:
                yield from self._chunk(source, body, min(body + length, end))
            if body + length > end:
                break
            if operation == _MESSAGE:
                channel, _, received, _ = _MESSAGE_HEAD.unpack_from(head, _RECORD_HEAD.size)
                if channel not in self.channels:
                    raise ValueError(
                        f"{self.path} is corrupt: unknown channel {channel} at byte {position}"
                    )
                size, begin = length - _MESSAGE_HEAD.size, _RECORD_HEAD.size + _MESSAGE_HEAD.size
                where = place(position + begin, size)
                yield Entry(channel, received, where, head[begin : begin + size])
            elif operation in (_SCHEMA, _CHANNEL):
                source.seek(body)
                self._declare(operation, source.read(length))
            elif operation == _DATA_END:
                return None
            position = body + length
        return position

    def _chunk(self, source: BinaryIO, body: int, end: int) -> Iterator[Entry]:
        """Messages of a chunk. Of one that breaks off, those that can still be had."""
        source.seek(body)
        head = source.read(_CHUNK_HEAD.size)
        if len(head) < _CHUNK_HEAD.size:
            return
        *_, crc, size = _CHUNK_HEAD.unpack(head)
        compression = source.read(size)
        start = body + _CHUNK_HEAD.size + size + 8
        (packed,) = struct.unpack("<Q", source.read(8).ljust(8, b"\0"))
        whole = start + packed <= end
        if compression and not whole:
            return
        if compression:
            data = _load_chunk(source, body, self.path)
            source, first, last = io.BytesIO(data), 0, len(data)
            place = lambda at, n: (body, at, n)  # noqa: E731
        elif crc and whole:  # its messages are read by the chunk, so that the sum is looked at
            first, last = start, start + packed
            place = lambda at, n: (body, at - start, n)  # noqa: E731
        else:
            first, last, place = start, min(start + packed, end), _in_file
        stopped = yield from self._walk(source, first, last, place, chunks=False)
        if whole and stopped != last:
            raise ValueError(f"{self.path} is corrupt: chunk at byte {body}: a record exceeds it")

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
        self.channels[number] = Channel(topic, name, encoding, text, form)


def _in_file(offset: int, size: int) -> Place:
    return (-1, offset, size)


def _string(data: bytes) -> tuple[str, bytes]:
    (size,) = struct.unpack_from("<I", data)
    return data[4 : 4 + size].decode(errors="replace"), data[4 + size :]


def _load_chunk(file: BinaryIO, body: int, path: Path) -> bytes:
    """The records of the chunk whose body begins at `body`, unpacked and checked."""
    file.seek(body)
    *_, size, crc, length = _CHUNK_HEAD.unpack(file.read(_CHUNK_HEAD.size))
    compression = file.read(length).decode(errors="replace")
    data = file.read(*struct.unpack("<Q", file.read(8)))
    try:
        if compression == "zstd":
            data = inflate(data)
        elif compression == "lz4":
            data = lz4.frame.decompress(data)
        elif compression:
            raise ValueError(f"unknown compression {compression!r}")
        if len(data) != size or (crc and zlib.crc32(data) != crc):
            raise ValueError("its checksum or size is wrong")
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is corrupt: chunk at byte {body}: {error}") from None
    return data


class _McapReader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by close)
        self._chunk, self._data = -1, memoryview(b"")

    def read(self, place: Place) -> bytes | memoryview:
        chunk, offset, size = place
        if chunk < 0:
            return os.pread(self._file.fileno(), size, offset)
        if chunk != self._chunk:
            self._data = memoryview(_load_chunk(self._file, chunk, self._path))
            self._chunk = chunk
        return self._data[offset : offset + size]

    def close(self) -> None:
        self._file.close()


class SqliteFile:
    """A .db3 file. What its write-ahead log holds, if a recorder left one, is read too.

    By apsw, which comes with a newer sqlite than Python does, at a lower price for large rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channels: dict[int, Channel] = {}
        self.cut = ""

    def connect(self) -> apsw.Connection:
        log = self.path.with_name(f"{self.path.name}-wal")
        # A log asks for locks and a writable folder; without one, promise that nobody writes.
        mode = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return apsw.Connection(f"{self.path.absolute().as_uri()}?{mode}", flags=flags)

    def entries(self) -> Iterator[Entry]:
        """All messages by row. Raises ValueError for what is no rosbag2 database, or damaged."""
        try:
            with closing(self.connect()) as database:
                self.channels = _sqlite_channels(database)
                for row, channel, received in database.execute(
                    "SELECT id, topic_id, timestamp FROM messages"
                ):
                    # Not substr(data), for which sqlite would read the whole message.
                    with database.blob_open("main", "messages", "data", row, False) as blob:
                        size = blob.length()
                        head = blob.read(min(HEAD, size))
                    yield Entry(channel, received, (row, 0, size), head)
        except apsw.Error as error:
            raise ValueError(f"{self.path} cannot be read: {error}") from None

    def open(self) -> Reader:
        return _SqliteReader(self)


def _sqlite_channels(database: apsw.Connection) -> dict[int, Channel]:
    definitions = {}
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if "message_definitions" in tables:
        definitions = {
            name: (text, form)
            for name, form, text in database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            )
        }
    return {
        number: Channel(topic, kind, encoding, *definitions.get(kind, ("", "")))
        for number, topic, kind, encoding in database.execute(
            "SELECT id, name, type, serialization_format FROM topics"
        )
    }


class _SqliteReader:
    def __init__(self, file: SqliteFile) -> None:
        self._path = file.path
        self._database = file.connect()

    def read(self, place: Place) -> bytes:
        try:
            with self._database.blob_open("main", "messages", "data", place[0], False) as blob:
                return blob.read()
        except apsw.Error as error:
            raise ValueError(f"{self._path} cannot be read: {error}") from None

    def close(self) -> None:
        self._database.close()
