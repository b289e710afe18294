"""Published weights of transformers, from this machine only and as safetensors only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn


def local_folder(
    name: str | Path, hub: Mapping[str, str], what: str, others: Sequence[str] = ()
) -> Path:
    """Where weights are on this machine; never asks the network.

    Args:
        name: a key of `hub`, or a folder.
        hub: short name -> repository.
        what: they are of, for messages.
        others: names that need no weights, for messages.

    Raises:
        FileNotFoundError: they are not here, or not as safetensors.
        ValueError: neither a name that is known nor a folder.
    """
    cure = "give a folder with config.json and model.safetensors"
    if name in hub:
        from huggingface_hub import snapshot_download

        cure = f"run `hf download {hub[name]}`, or {cure}"
        try:
            folder = Path(snapshot_download(hub[name], local_files_only=True))
        except FileNotFoundError:
            raise FileNotFoundError(f"{name} is not on this machine: {cure}") from None
    else:
        folder = Path(name)
        if not folder.is_dir():
            raise ValueError(f"no {what} {name}: take {', '.join([*others, *hub])}, a folder")
    if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
        raise FileNotFoundError(
            f"{folder} lacks config.json or model.safetensors (formats that can run code are not "
            f"read): {cure}"
        )
    return folder


def read_settings(folder: Path, name: str = "config.json") -> dict:
    """A JSON file of the folder. Raises ValueError when it is damaged."""
    try:
        values = json.loads((folder / name).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / name} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{folder / name} is damaged: it holds no names with values")
    return values


def load_weights(model: type, config: object, folder: Path) -> nn.Module:
    """The weights in a folder, whole or not at all, in evaluation mode.

    Raises:
        ValueError: damaged, incomplete, or of another shape.
    """
    from transformers import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a table of the parts that are left out
    try:
        backbone, report = model.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder}: weights damaged, or do not fit: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ValueError(f"{folder}: the weights lack {missing}: download or export them again")
    return backbone
