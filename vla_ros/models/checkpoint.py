"""Checkpoint folders: JSON beside safetensors; each file appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def write(folder: Path, model: nn.Module, texts: Mapping[str, str]) -> None:
    """Write the weights of `model`, and the text files, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        partial = folder / f".{name}.partial"
        partial.write_text(text)
        os.replace(partial, folder / name)
    partial = folder / f".{WEIGHTS}.partial"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial)
    partial.chmod(0o644)
    os.replace(partial, folder / WEIGHTS)


def require(folder: Path, *names: str) -> None:
    """Raises FileNotFoundError when one of the files is not there."""
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"checkpoint {folder} has no {name}: give the folder written by training, or 'arm' "
                "for the one that ships"
            )


def read_json(folder: Path, name: str) -> dict:
    """Raises ValueError when the file is damaged."""
    try:
        return json.loads((folder / name).read_text())
    except ValueError as error:
        raise damaged(folder, error) from error


def read_weights(folder: Path, model: nn.Module) -> None:
    """Load the weights into `model`. Raises ValueError: damaged, or made for another shape."""
    try:
        weights: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise damaged(folder, error) from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"checkpoint {folder}: the weights do not fit {CONFIG}: {error}"
        ) from error


def damaged(folder: Path, error: Exception) -> ValueError:
    return ValueError(f"checkpoint {folder} is damaged ({error}): copy or train it again")
