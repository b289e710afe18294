"""Arrays in files that this package wrote: mapped into memory after they were looked at."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

_SUMS = "checksums.json"


def map_array(
    path: Path, kind: str, shape: Sequence[int | None], whole: Path | None = None
) -> np.ndarray:
    """The array of a .npy file, read where it lies.

    Args:
        kind: its type, such as "float32"; "S" for texts of any length.
        shape: its sizes; None where any will do.
        whole: the folder that is useless without it; by default the one it is in.

    Raises:
        ValueError: it is damaged, or of another type or shape.
        OSError: it is not there.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # numpy gives the head of the file to Python's own parser
        raise damaged(path, f"{type(error).__name__}: {error}", whole) from None
    fits = array.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=False)
    )
    if kind not in (array.dtype.name, array.dtype.kind) or not fits:
        wanted = ", ".join("?" if size is None else str(size) for size in shape)
        raise damaged(
            path, f"it is {array.dtype} {list(array.shape)}, not {kind} [{wanted}]", whole
        )
    return array


def damaged(path: Path, why: str, whole: Path | None = None) -> ValueError:
    """An error for a file of a folder that this package wrote, with the cure."""
    return ValueError(
        f"{path} is damaged ({' '.join(why.split()):.400}): "
        f"delete the folder {whole or path.parent}, to have it written again"
    )


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write the CRC-32 of files of a folder beside them."""
    sums = {name: _checksum(folder / name) for name in names}
    (folder / _SUMS).write_text(json.dumps(sums, indent=1) + "\n")


def check_sums(folder: Path, whole: Path | None = None) -> None:
    """Look whether files are as they were when `write_sums` saw them, if it did.

    Args:
        whole: the folder that is useless if one is not; by default this one.

    Raises:
        ValueError: one is not.
        OSError: one is not there.
    """
    path = folder / _SUMS
    if not path.exists():  # older versions wrote none
        return
    try:
        sums = dict(json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path, str(error), whole) from None
    for name, told in sums.items():
        if told != _checksum(folder / name):
            raise damaged(folder / name, "its checksum differs", whole)


def _checksum(path: Path) -> int:
    return zlib.crc32(path.read_bytes())
