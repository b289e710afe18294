"""Paths that a command is told: checked before anything is imported, computed or written."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_MOST_JSON = 200_000_000  # bytes


def to_path(text: str) -> Path:
    """A path as an argument of argparse; "" would be the folder that one is in."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty text is no path")
    return Path(text)


def check_there(paths: Iterable[Path]) -> None:
    """Raises ValueError if one of what is to be read does not exist."""
    for each in paths:
        if not each.exists():
            raise ValueError(f"{each} does not exist")


def check_folder(folder: Path, option: str) -> None:
    """Raises ValueError if nothing can be written into the folder; it need not exist."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{option} {folder} is a file: name a folder")
    _check_place(folder, option)


def check_file(file: Path, option: str) -> None:
    """Raises ValueError if no such file can be written; its folder need not exist."""
    if file.is_dir():
        raise ValueError(f"{option} {file} is a folder: name a file in it")
    _check_place(file, option)


def _check_place(place: Path, option: str) -> None:
    there = next(each for each in (place, *place.absolute().parents) if each.exists())
    if there != place and not there.is_dir():
        raise ValueError(f"{option} {place}: {there} is a file, not a folder: name another place")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{option} {place}: {there} cannot be written to: name another place")


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give a JSON file")
    if file.stat().st_size > _MOST_JSON:
        raise ValueError(f"{file} has more than {_MOST_JSON} bytes: give another JSON file")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no text: give a JSON file, in UTF-8") from None
    except RecursionError:
        raise ValueError(f"{file} is no JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
