"""Arrays in files, mapped into memory only after their size and type were checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def map_array(path: Path, kind: str, shape: Sequence[int | None]) -> np.ndarray:
    """The array of a .npy file, read where it lies.

    Args:
        kind: its type, such as "float32".
        shape: its sizes; None where any will do.

    Raises:
        ValueError: it is damaged, or of another type or shape; the folder it is in is useless then.
        OSError: it is not there.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OverflowError, TypeError, SyntaxError, MemoryError) as error:
        raise damaged(path, f"{error}".partition("\n")[0]) from None
    fits = array.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=False)
    )
    if array.dtype != kind or not fits:
        wanted = ", ".join("?" if size is None else str(size) for size in shape)
        raise damaged(path, f"it is {array.dtype} {list(array.shape)}, not {kind} [{wanted}]")
    return array


def damaged(path: Path, why: str) -> ValueError:
    """An error for a file of a folder that this package wrote, with the cure."""
    return ValueError(
        f"{path} is damaged ({why}): delete the folder {path.parent}, and have it written again"
    )
