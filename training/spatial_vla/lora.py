"""LoRA adapters for SpatialVLA through peft: added, trained beside what is frozen, merged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from vla_ros.models import checkpoint
from vla_ros.models.spatial_vla.loading import local_folder
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.training.data.folders import whole_folder

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_VISION = r"(?:model\.)?vision_tower\..*"
# What `--lora_target` may name beside modules, as patterns of whole names.
TARGETS = {
    # all linear layers of both towers, the projector and the geometry; not what the words come from
    "linear": rf"(?!lm_head$).*\.(?:{'|'.join((*_ATTENTION, *_MLP))}|fc1|fc2|out_proj|linear"
    r"|geometry\.head\.[03])",
    "attention": rf".*\.(?:{'|'.join(_ATTENTION)}|out_proj)",
    "language": rf".*language_model\..*\.(?:{'|'.join((*_ATTENTION, *_MLP))})",
    "vision": rf"{_VISION}\.(?:{'|'.join(_ATTENTION)}|fc1|fc2|out_proj)",
}
_ADAPTERS = "adapter_config.json"
# What a checkpoint has beside the model; adapters have it with them.
_BESIDE = (
    *("processor_config.json", "preprocessor_config.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"),
    *("added_tokens.json", "policy.json"),
)


@dataclass(frozen=True)
class Lora:
    """Adapters of a model.

    Args:
        rank: of the matrices.
        alpha: their sum is scaled by alpha / rank.
        targets: one of `TARGETS`, or the ends of the names of modules.
        dropout: of what they take, while they are trained.
        modules_to_save: modules trained whole beside them, such as "spatial_embed_tokens".

    Raises:
        ValueError: a rank below 1, an alpha that is not positive, or a dropout outside 0..1.
    """

    rank: int = 32
    alpha: float = 32
    targets: str | Sequence[str] = "linear"
    dropout: float = 0.0
    modules_to_save: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"the rank of adapters is {self.rank}: give 1 or more")
        if not self.alpha > 0:
            raise ValueError(f"alpha of adapters is {self.alpha}: give a number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout of adapters is {self.dropout}: give 0 or more, below 1")
        if not self.targets:
            raise ValueError(f"no target of adapters: name modules, or one of {', '.join(TARGETS)}")


def require_peft() -> Any:
    """The module peft. Raises ModuleNotFoundError with the cure."""
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise ModuleNotFoundError(
            "adapters need peft, which is not installed: pip install 'vla_ros[lora]'", name="peft"
        ) from None
    return peft


def add_adapters(model: SpatialVLAForConditionalGeneration, lora: Lora) -> Any:
    """The model with adapters, as a peft model: they and `modules_to_save` alone are trained.

    What was frozen before has none: adapters follow `freeze`.

    Raises:
        ModuleNotFoundError: peft is not installed.
        ValueError: a target or module that the model has not.
    """
    peft = require_peft()
    names = [name for name, _ in model.named_modules()]
    wanted = [lora.targets] if isinstance(lora.targets, str) else list(lora.targets)
    patterns = [TARGETS.get(each, rf"(?:.*\.)?{re.escape(each)}") for each in wanted]
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets: list[str] = []
    for each, pattern in zip(wanted, patterns, strict=True):
        found = [name for name in linear if re.fullmatch(pattern, name)]
        if not found:
            raise ValueError(
                f"no linear layer of the model is called {each!r}: name the ends of its modules' "
                f"names, such as q_proj, or one of {', '.join(TARGETS)}"
            )
        targets += [name for name in found if name not in targets]
    for each in lora.modules_to_save:
        if not any(name == each or name.endswith(f".{each}") for name in names):
            raise ValueError(
                f"the model has no module {each!r} to train: name the end of one's name, such as "
                "spatial_embed_tokens or lm_head"
            )
    kept = [name for name in targets if _trained(model.get_submodule(name))]
    if not kept:
        raise ValueError("all targets of adapters are frozen: freeze less, or name other targets")
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=kept,
        modules_to_save=list(lora.modules_to_save) or None,
    )
    return peft.get_peft_model(model, config)


def freeze(
    model: SpatialVLAForConditionalGeneration,
    *,
    vision: bool = False,
    words: bool = True,
    language: bool = False,
) -> None:
    """Leave parts as they are.

    Args:
        vision: the image encoder; what is between it and the language model still learns.
        words: the table of the words' embeddings; action tokens have a table of their own. A model
            whose output is tied to that table, or whose action tokens are in it, cannot do without.
        language: all of the language model but the embeddings of action tokens and the output.

    Raises:
        ValueError: the words' table is what action tokens learn by.
    """
    inner = model.model
    table = inner.language_model.embed_tokens
    if words and (model.spatial_embed_tokens is None or table.weight is model.lm_head.weight):
        raise ValueError(
            "the embeddings of words cannot be frozen: action tokens have none of their own, or "
            "the output is tied to them; give --freeze_llm_embed false"
        )
    if vision:
        inner.vision_tower.requires_grad_(False)
    if language:
        inner.language_model.requires_grad_(False)
        if model.spatial_embed_tokens is not None:
            model.spatial_embed_tokens.requires_grad_(True)
    if words or language:
        table.weight.requires_grad_(False)


def trained_share(model: nn.Module) -> tuple[int, int]:
    """How many numbers of a model are trained, and how many there are."""
    every = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(n for n, trained in every if trained), sum(n for n, _ in every)


def is_adapters(folder: Path) -> bool:
    """Whether a folder is what `save_pretrained` of a peft model wrote."""
    return (Path(folder) / _ADAPTERS).is_file()


def base_of(adapters: Path) -> str:
    """The checkpoint that adapters were trained on, as they tell.

    Raises:
        FileNotFoundError: the folder holds no adapters.
        ValueError: it does not tell.
    """
    checkpoint.require(Path(adapters), _ADAPTERS)
    told = checkpoint.read_json(Path(adapters), _ADAPTERS)
    base = told.get("base_model_name_or_path") if isinstance(told, dict) else None
    if not isinstance(base, str) or not base:
        raise ValueError(f"{adapters} does not tell which checkpoint it adapts: give --base")
    return base


def merge(base: str | Path, adapters: Path) -> SpatialVLAForConditionalGeneration:
    """The model with its adapters added to its weights, as one that never had any.

    Raises:
        ModuleNotFoundError: peft is not installed.
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or adapters and model do not fit.
    """
    peft = require_peft()
    base_of(adapters)
    base = local_folder(base)
    model = SpatialVLAForConditionalGeneration.from_pretrained(base)
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(adapters))
        return adapted.merge_and_unload(safe_merge=True).eval()
    except json.JSONDecodeError as error:
        raise checkpoint.damaged(Path(adapters), error) from error
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
        text = str(error).strip().splitlines()
        raise ValueError(
            f"adapters {adapters} do not fit {base}: {text[0] if text else type(error).__name__}: "
            "give the checkpoint that they were trained on by --base"
        ) from error


def _trained(module: nn.Module) -> bool:
    return all(weight.requires_grad for weight in module.parameters())


def export(adapters: Path, out: Path, base: str | None = None) -> None:
    """Write the merged model, and what is beside the adapters or else their base, to `out`, whole
    or not at all.

    Raises:
        ModuleNotFoundError, FileNotFoundError, ValueError: see `merge`.
    """
    base = base or base_of(adapters)
    model = merge(base, adapters)
    with whole_folder(out) as partial:
        model.save_pretrained(partial)
        for name in _BESIDE:
            found = [place / name for place in (adapters, Path(base)) if (place / name).is_file()]
            if found:
                shutil.copy(found[0], partial / name)
