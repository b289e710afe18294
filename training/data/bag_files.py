"""The files of a recording: what metadata.yaml says of them, and how each is opened."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
import zstandard

from vla_ros.training.data import bag_mcap, bag_sqlite
from vla_ros.training.data.bag_storage import StorageFile

_KINDS = {
    ".mcap": (bag_mcap.McapFile, bag_mcap.MAGIC),
    ".db3": (bag_sqlite.SqliteFile, bag_sqlite.MAGIC),
}
_ENDINGS = tuple(_KINDS)
_BLOCK = 2**20
_DAMAGE = (yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError, RecursionError)
# A packed file may unpack to so many bytes, or so many times its size, and leave so much free.
_FEW, _RATIO, _FREE = 2**30, 1000, 2**30


@dataclass(frozen=True)
class Metadata:
    """What metadata.yaml says; nothing where there is none."""

    there: bool = False
    files: tuple[str, ...] = ()  # their names
    counts: Mapping[str, int] = field(default_factory=dict)  # messages of topics
    custom: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Metadata:
        """Raises ValueError for a damaged one; nothing if there is no such file."""
        try:
            told = yaml.safe_load(path.read_text())["rosbag2_bagfile_information"]
            names = [Path(_a(str, name)).name for name in _a(list, told["relative_file_paths"])]
            topics = _a(list, told.get("topics_with_message_count") or [])
            counts = {
                _a(str, topic["topic_metadata"]["name"]): _a(int, topic["message_count"])
                for topic in topics
            }
            custom = _a(dict, told.get("custom_data") or {}).items()
            texts = {_a(str, key): _a(str, text) for key, text in custom}
        except FileNotFoundError:
            return cls()
        except _DAMAGE as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}): move it away to read the files "
                "without it"
            ) from None
        return cls(True, tuple(names), counts, texts)


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def is_storage(path: Path) -> bool:
    """Whether a file is one of a recording, by its name; capitals do not matter."""
    return path.name.lower().removesuffix(".zstd").endswith(_ENDINGS)


def is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".zstd"


def storage_file(path: Path, folder: Path | None) -> StorageFile:
    """The file at `path`, by its ending; of one that is packed, what is unpacked into `folder`.

    Raises:
        ValueError: it is empty, or cannot be unpacked.
    """
    if not path.exists():
        raise ValueError(f"{path} is a link to what is not there: remove it, or mend it")
    plain = _unpacked(path, folder) if is_packed(path) else path
    if plain.stat().st_size == 0:
        raise ValueError(f"{path} is empty: nothing was recorded; remove it to read the others")
    return _KINDS[plain.suffix.lower()][0](plain, path)


def _unpacked(path: Path, folder: Path) -> Path:
    """The file that `path` holds, packed by zstd, written into `folder`.

    Raises:
        ValueError: it is damaged, holds something else than its name says, or more than the disk
            takes or a recording could hold.
    """
    target = folder / path.stem
    magic = _KINDS[target.suffix.lower()][1]
    most = min(max(_FEW, _RATIO * path.stat().st_size), shutil.disk_usage(folder).free - _FREE)
    written = 0
    try:
        with open(path, "rb") as packed, open(target, "wb") as plain:
            reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            while block := reader.read(_BLOCK):
                if not written:
                    if not block.startswith(magic):
                        raise ValueError(f"{path} holds no {target.suffix} file")
                    most = min(most, _told_size(block) or most)
                written += len(block)
                if written > most:
                    raise ValueError(
                        f"{path} unpacks to more than {most / 1e9:.1f} GB, what it may hold or the "
                        "disk has free: unpack it with `zstd -d`, and name what it gives"
                    )
                plain.write(block)
    except zstandard.ZstdError as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from None
    return target


def _told_size(head: bytes) -> int:
    """Bytes of a database, by its own head; 0: it does not tell, or is none."""
    if not head.startswith(bag_sqlite.MAGIC) or len(head) < 100:
        return 0
    page, (changes, pages), (told_at,) = (
        struct.unpack_from(">H", head, 16)[0],
        struct.unpack_from(">II", head, 24),
        struct.unpack_from(">I", head, 92),
    )
    return (65536 if page == 1 else page) * pages if changes == told_at else 0
