"""Databases of a recording (rosbag2_storage_sqlite3, schemas 1 to 4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw

from vla_ros.training.data.bag_storage import HEAD, Channel, Entry, Place, Reader, check_received

MAGIC = b"SQLite format 3\0"


class SqliteFile:
    """A .db3 file. What its write-ahead log holds, if a recorder left one, is read too.

    By apsw, which comes with a newer sqlite than Python does, at a lower price for large rows.
    """

    def __init__(self, path: Path, source: Path | None = None) -> None:
        self._path = path
        self.source = source or path  # the file that a user knows
        self.channels: dict[int, Channel] = {}
        self.cut = ""

    def connect(self) -> apsw.Connection:
        log = self._path.with_name(f"{self._path.name}-wal")
        # A log asks for locks and a writable folder; without one, promise that nobody writes.
        mode = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return apsw.Connection(f"{self._path.absolute().as_uri()}?{mode}", flags=flags)

    def entries(self) -> Iterator[Entry]:
        """All messages by row. Raises ValueError for what is no rosbag2 database, or damaged."""
        try:
            with closing(self.connect()) as database:
                self.channels = _sqlite_channels(database)
                for row, channel, received in database.execute(
                    "SELECT id, topic_id, timestamp FROM messages"
                ):
                    if not isinstance(row, int):  # the schema may have lost that it is the key
                        raise ValueError(f"{self.source} is corrupt: its messages have no numbers")
                    if channel not in self.channels:
                        raise ValueError(
                            f"{self.source} is corrupt: message {row} is of no topic ({channel!r})"
                        )
                    check_received(received, self.source)
                    # Not substr(data), for which sqlite would read the whole message.
                    with database.blob_open("main", "messages", "data", row, False) as blob:
                        size = blob.length()
                        head = blob.read(min(HEAD, size))
                    yield Entry(channel, received, (row, 0, size), head)
        except (apsw.Error, UnicodeDecodeError) as error:
            raise _unreadable(self.source, error) from None

    def open(self) -> Reader:
        return _SqliteReader(self)


def _unreadable(source: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{source} cannot be read: {' '.join(str(error).split())}"
    )  # it may quote SQL


def _sqlite_channels(database: apsw.Connection) -> dict[int, Channel]:
    definitions = {}
    kinds = dict(database.execute("SELECT name, type FROM sqlite_master"))
    tables = {name for name, kind in kinds.items() if kind == "table"}  # a view could be anything
    if missing := {"topics", "messages"} - tables:
        raise apsw.SQLError(f"it has no table {' and '.join(sorted(missing))}")
    if "message_definitions" in tables:
        definitions = {
            name: (text, form)
            for name, form, text in database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            )
        }
    return {
        number: Channel(*map(str, (topic, kind, encoding, *definitions.get(kind, ("", "")))))
        for number, topic, kind, encoding in database.execute(
            "SELECT id, name, type, serialization_format FROM topics"
        )
    }


class _SqliteReader:
    def __init__(self, file: SqliteFile) -> None:
        self._source = file.source
        try:
            self._database = file.connect()
        except apsw.Error as error:
            raise _unreadable(file.source, error) from None

    def read(self, place: Place) -> bytes:
        try:
            with self._database.blob_open("main", "messages", "data", place[0], False) as blob:
                return blob.read()
        except apsw.Error as error:
            raise _unreadable(self._source, error) from None

    def close(self) -> None:
        self._database.close()
