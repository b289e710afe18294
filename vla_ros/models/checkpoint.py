"""Checkpoint folders: JSON beside safetensors; each file appears whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Model = TypeVar("Model", bound=nn.Module)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def write(folder: Path, model: nn.Module, texts: Mapping[str, str]) -> None:
    """Write the weights of `model`, and the text files, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder, name, text)
    partial = folder / f".{WEIGHTS}.partial"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial)
    partial.chmod(0o644)
    os.replace(partial, folder / WEIGHTS)


def write_text(folder: Path, name: str, text: str) -> None:
    """Write one text file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial"
    partial.write_text(text)
    os.replace(partial, folder / name)


def require(folder: Path, *names: str) -> None:
    """Raises FileNotFoundError when one of the files is not there."""
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"checkpoint {folder} has no {name}: give the folder written by training, or 'arm' "
                "for the one that ships"
            )


def read_json(folder: Path, name: str) -> dict:
    """Raises ValueError when the file is damaged, or holds no names with values."""
    try:
        values = json.loads((folder / name).read_text())
    except (ValueError, RecursionError) as error:
        raise damaged(folder, error) from error
    if not isinstance(values, dict):
        raise damaged(folder, f"{name} holds no names with values")
    return values


def build(folder: Path, make: Callable[[], Model]) -> Model:
    """Make the model that the configuration tells of, as far as its weights may be of it.

    A number in a configuration can ask for any amount of memory and time: it ends where the model
    comes out far larger than the weights beside it.

    Raises:
        FileNotFoundError, ImportError: other weights or a package that it needs are not here.
        ValueError: the configuration makes no model, or one that is far too large.
    """
    shapes = _shapes(folder)
    count = sum(math.prod(shape) for shape, _ in shapes.values())
    try:
        with _Limited(4 * count + 4_000_000):
            return make()
    except (ImportError, FileNotFoundError):
        raise  # a package or other weights that it needs: nothing is damaged
    except Exception as error:  # whatever a configuration that is not one leads to
        text = _one_line(error)
        if isinstance(error, _TooLarge) or "allocate memory" in text:
            text = f"{CONFIG} makes a model far larger than the {count} numbers in {WEIGHTS}"
        raise damaged(folder, text) from error


def read_weights(folder: Path, model: nn.Module) -> None:
    """Load the weights into `model`.

    Raises:
        ValueError: damaged, not finite, or made for another shape; a tensor is named.
    """
    shapes, wanted = _shapes(folder), model.state_dict()
    if strange := sorted(shapes.keys() ^ wanted.keys()):
        whose = WEIGHTS if strange[0] in shapes else f"the model of {CONFIG}"
        raise _misfit(folder, f"only {whose} has {strange[0]}", len(strange))
    wrong = [name for name, (shape, _) in shapes.items() if shape != tuple(wanted[name].shape)]
    if wrong:
        name = wrong[0]
        given, needed = list(shapes[name][0]), list(wanted[name].shape)
        raise _misfit(folder, f"{name} is {given} in {WEIGHTS}, {needed} by {CONFIG}", len(wrong))
    try:
        weights: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise damaged(folder, error) from error
    for name, values in weights.items():
        if values.is_floating_point() != wanted[name].is_floating_point():
            raise _misfit(folder, f"{name} has numbers of type {values.dtype} in {WEIGHTS}", 1)
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise damaged(folder, f"{name} in {WEIGHTS} is not finite")
    model.load_state_dict(weights)


def damaged(folder: Path, error: Exception | str) -> ValueError:
    text = error if isinstance(error, str) else _one_line(error)
    return ValueError(f"checkpoint {folder} is damaged ({text:.400}): copy or train it again")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"no {text}" if isinstance(error, KeyError) else text


def _misfit(folder: Path, text: str, count: int) -> ValueError:
    more = f", and {count - 1} more" if count > 1 else ""
    return ValueError(
        f"checkpoint {folder}: the weights do not fit {CONFIG}: {text}{more}: "
        "copy or train it again"
    )


def _shapes(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each tensor, without loading it. Raises ValueError: damaged."""
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise damaged(folder, error) from error


class _TooLarge(ValueError):
    """More numbers are made than may be."""


class _Limited(TorchFunctionMode):
    """Within it no more than `left` numbers can be made from sizes alone."""

    _MAKERS = frozenset({"empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace"})

    def __init__(self, left: int) -> None:
        super().__init__()
        self._left = left

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func.__name__ in self._MAKERS:
            first = args[:1] or ((kwargs or {}).get("size", 0),)
            sizes = first[0] if isinstance(first[0], tuple | list | torch.Size) else args
            # Before it is made. What arange and linspace are given says as much.
            self._left -= math.prod(size for size in sizes if type(size) is int)
            if self._left < 0:
                raise _TooLarge
        return func(*args, **(kwargs or {}))
