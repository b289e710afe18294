"""Which files are one recording, and which of a folder are several."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_ros.training.data.bag_files import Metadata, is_storage, storage_file

_PART = re.compile(r"(?P<name>.+)_(?P<number>\d+)(?P<ending>\.mcap|\.db3)(\.zstd)?")
_BREAK = 1_000_000_000  # ns from one part's end to the next one's begin; a recorder takes less


@dataclass(frozen=True)
class BagFiles:
    """The files of one recording, in order.

    Args:
        path: the folder or the first file, for messages.
        metadata: what metadata.yaml says of it.
    """

    path: Path
    files: tuple[Path, ...]
    metadata: Metadata = Metadata()


def find_files(path: Path) -> BagFiles:
    """The recording at a path: a file, or a folder that holds one. Raises ValueError."""
    found = recordings_in(path)
    if len(found) != 1:
        names = ", ".join(one.path.name for one in found)
        raise ValueError(f"{path} holds {len(found)} recordings: name one of {names}")
    return found[0]


def recordings_in(path: Path) -> list[BagFiles]:
    """All recordings of a folder itself, not of those in it; or the one of a file.

    Those files are one recording that metadata.yaml calls its parts. Each other file is one of its
    own, but for parts whose metadata.yaml was lost: of one name but for a number that counts up,
    each begun at most a second after the one before it ended.

    Raises:
        ValueError: there is none, metadata.yaml is damaged, or a file that it names is missing.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_file():
        if not is_storage(path):
            raise ValueError(f"{path} is no recording: expected a folder, .mcap or .db3")
        return [BagFiles(path, (path,))]
    there = {file.name: file for file in sorted(path.iterdir()) if is_storage(file)}
    found = []
    metadata = Metadata.read(path / "metadata.yaml")
    if metadata.there:
        files = _listed(path, metadata)
        found.append(BagFiles(path, files, metadata))
    # A compressed file beside what it was made of is no other recording.
    listed = {file.name.removesuffix(".zstd") for one in found for file in one.files}
    loose = []
    for name, file in there.items():
        plain = name.removesuffix(".zstd")
        if plain not in listed and (plain == name or plain not in there):
            loose.append(file)
    groups = _grouped(loose)
    alone = not found and len(groups) == 1 and not any(map(Path.is_dir, path.iterdir()))
    found += [BagFiles(path if alone else group[0], tuple(group)) for group in groups]
    if not found:
        raise ValueError(f"{path} is no recording: neither .mcap nor .db3 is in it")
    return found


def _listed(path: Path, metadata: Metadata) -> tuple[Path, ...]:
    files = [path / name for name in metadata.files]
    if not files:
        raise ValueError(f"{path} is no recording: neither .mcap nor .db3 is in it")
    for number, file in enumerate(files):
        if not file.exists():
            packed = file.with_name(f"{file.name}.zstd")
            if not packed.exists():
                raise ValueError(f"{path} lacks {file.name}, a part that metadata.yaml names")
            files[number] = packed
        if not files[number].is_file() or not is_storage(files[number]):
            raise ValueError(
                f"{path}/metadata.yaml is damaged: {file.name!r} is neither .mcap nor .db3: move "
                "it away to read the files without it"
            )
    return tuple(files)


def _grouped(files: Iterable[Path]) -> list[list[Path]]:
    """Files as recordings: most are one each."""
    parts: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    groups: list[list[Path]] = []
    for file in files:
        if match := _PART.fullmatch(file.name):
            named = parts.setdefault((match["name"], match["ending"]), [])
            named.append((int(match["number"]), file))
        else:
            groups.append([file])
    for named in parts.values():
        groups += _continued(sorted(named))
    return sorted(groups)


def _continued(numbered: Sequence[tuple[int, Path]]) -> list[list[Path]]:
    groups: list[list[Path]] = []
    before = None
    for _, file in numbered:
        now = _bounds(file) if len(numbered) > 1 else None
        # Parts may overlap by some messages; what goes on begins not before.
        if before and now and before[0] <= now[0] <= before[1] + _BREAK:
            groups[-1].append(file)
        else:
            groups.append([file])
        before = now
    return groups


def _bounds(file: Path) -> tuple[int, int] | None:
    """First and last receipt in a file, ns; None: it has no message, or cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            first, last = None, 0
            for entry in storage_file(file, Path(folder)).entries():
                first = entry.received if first is None else min(first, entry.received)
                last = max(last, entry.received)
        except (OSError, ValueError):
            return None  # whoever reads it is told why
    return None if first is None else (first, last)
