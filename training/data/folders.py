"""Folders that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` when all went well, else vanishes.

    Raises:
        ValueError: `target` is there already.
    """
    if target.exists():
        raise ValueError(f"{target} is there already: name another folder, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as partial:
        content = Path(partial, target.name)
        content.mkdir()
        yield content
        os.replace(content, target)


def part_checkpoint(out: Path, name: str) -> Path:
    """Checkpoint folder of a world model's part that was trained into `out`.

    Raises:
        FileNotFoundError: it was not yet.
    """
    folder = out / name / "checkpoint"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there: run `vla train {name} --out {out}` first")
    return folder
