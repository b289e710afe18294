"""Loading of whole checkpoints, ours and those in the published layout.

The published layout is that of the model's own code for transformers 4.47. Its weights are ours by
other names, but for two parts: the depth network (`vision_zoe_model`), which here is a backend of
the geometry branch and not of this model, and the gate of the geometry, which it has not: 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import logging

from vla_ros.models import checkpoint

# Published name -> ours, as patterns of regular expressions.
PUBLISHED_NAMES = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.language_model.",
    r"^vision_tower\.(vision_model\.)?": "model.vision_tower.",
    r"^multi_modal_projector\.": "model.multi_modal_projector.",
    r"^spatial_embed_tokens\.": "model.language_model.embed_tokens.spatial_embed_tokens.",
    r"^position_embedding_3d\.position_embedding_head\.": "model.geometry.head.",
}
_PUBLISHED = "language_model.model."  # no name of ours begins so
_GATE = "model.geometry.gate"
_DEPTH = "vision_zoe_model."


@dataclass
class LayoutReport:
    """How the names of a checkpoint fit a model.

    Attributes:
        loaded: name in the checkpoint -> name in the model.
        unused: names in the checkpoint that the model has not.
        missing: names in the model that the checkpoint has not.
    """

    loaded: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all that is missing or unused is accounted for."""
        strange = [name for name in self.unused if not name.startswith(_DEPTH)]
        return not strange and set(self.missing) <= {_GATE}

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded"]
        for part, count in Counter(name.split(".")[0] for name in self.unused).items():
            why = ": depth is estimated by the geometry branch" if f"{part}." == _DEPTH else ""
            lines.append(f"{count} unused of {part}{why}")
        lines += [
            f"missing: {name}" + (", set to 1: published geometry is not gated" * (name == _GATE))
            for name in self.missing
        ]
        return "\n".join(lines)


def is_published(names: Iterable[str]) -> bool:
    """Whether tensors are named in the published layout."""
    return any(name.startswith(_PUBLISHED) for name in names)


def our_name(name: str) -> str:
    """The name in the model of a tensor of a published checkpoint."""
    for pattern, ours in PUBLISHED_NAMES.items():
        renamed, count = re.subn(pattern, ours, name)
        if count:
            return renamed
    return name


def compare(names: Iterable[str], wanted: Iterable[str]) -> LayoutReport:
    """Compare the names of a published checkpoint with those of a model's state."""
    wanted, report = set(wanted), LayoutReport()
    for name in sorted(names):
        if (ours := our_name(name)) in wanted:
            report.loaded[name] = ours
        else:
            report.unused.append(name)
    report.missing = sorted(wanted - set(report.loaded.values()))
    return report


def tensor_names(folder: Path) -> list[str]:
    """Names of all tensors of a folder's safetensors, without reading their numbers.

    Raises:
        FileNotFoundError: there are none.
        ValueError: one is damaged.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        other = "; formats that can run code are not read" if any(folder.glob("*.bin")) else ""
        raise FileNotFoundError(
            f"checkpoint {folder} has no {checkpoint.WEIGHTS}{other}: give the folder that "
            "save_pretrained wrote"
        )
    names: list[str] = []
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                names += tensors.keys()
        except (SafetensorError, OSError) as error:
            raise checkpoint.damaged(folder, f"{file.name}: {error}") from error
    return names


def local_folder(folder: str | Path, settings: Mapping[str, Any] | None = None) -> Path:
    """A folder, or where the snapshot of a repository of the hub is on this machine.

    Raises:
        FileNotFoundError: it is not; the network is never asked.
    """
    if (path := Path(folder)).is_dir():
        return path
    settings = settings or {}
    told = {name: settings[name] for name in ("revision", "cache_dir") if settings.get(name)}
    try:
        return Path(snapshot_download(str(folder), local_files_only=True, **told))
    except (FileNotFoundError, ValueError):
        raise FileNotFoundError(
            f"no checkpoint {folder}: give a folder, or run `hf download {folder}` before"
        ) from None


def load(load_weights: Callable, cls: type, folder: str | Path, *args: Any, **kwargs: Any) -> Any:
    """`from_pretrained` of the model, whole or not at all; see there.

    Args:
        load_weights: that of transformers.
        cls: the model's class.
    """
    wants_report = kwargs.pop("output_loading_info", False)
    path = local_folder(folder, kwargs)
    checkpoint.require(path, checkpoint.CONFIG)
    checkpoint.read_json(path, checkpoint.CONFIG)
    if published := is_published(tensor_names(path)):
        kwargs["key_mapping"] = {**PUBLISHED_NAMES, **(kwargs.get("key_mapping") or {})}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a table of what does not fit: it is told below
    try:
        model, info = load_weights(
            path,
            *args,
            **kwargs,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (SafetensorError, StrictDataclassError, RuntimeError, TypeError, KeyError) as error:
        raise checkpoint.damaged(path, error) from error
    finally:
        logging.set_verbosity(verbosity)
    if wrong := sorted(map(tuple, info["mismatched_keys"])):
        name, given, needed = wrong[0]
        raise ValueError(
            f"checkpoint {folder}: {name} is {list(given)} in the weights, {list(needed)} by "
            f"{checkpoint.CONFIG}: copy it again, or mend {checkpoint.CONFIG}"
        )
    missing = set(info["missing_keys"])
    unused = {name for name in info["unexpected_keys"] if not our_name(name).startswith(_DEPTH)}
    if published and model.model.geometry is not None and _GATE in missing:
        torch.nn.init.ones_(model.model.geometry.gate)
        missing.discard(_GATE)
    if published:
        model._weight_conversions = None  # it is saved in our layout
    for what, names in (("lack", missing), ("have more than the model:", unused)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"checkpoint {folder}: the weights {what} {min(names)}{more}: "
                f"copy it again, or mend {checkpoint.CONFIG}"
            )
    return (model, info) if wants_report else model
