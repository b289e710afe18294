"""What pretraining begins from: PaliGemma 2, or random weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PaliGemmaForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vla_ros.models import checkpoint
from vla_ros.models.spatial_vla.configuration import (
    TOKENS_PER_ACTION,
    SpatialVLAConfig,
    tiny_config,
)
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.models.spatial_vla.text import small_text_tokenizer
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer

_TINY = "tiny"
_OURS = ("spatial_embed_tokens", "lm_head", "geometry")  # that PaliGemma 2 has not, or ties


def image_size_of(vlm_path: str, config: str) -> int:
    """Pixels of the model's images, told before it is made.

    Raises:
        FileNotFoundError, ValueError: there is no such configuration.
    """
    if not vlm_path and config == _TINY:
        return tiny_config(300).vision_config.image_size
    return _pali_config(vlm_path).vision_config.image_size if vlm_path else _config(config)[1]


def make(
    vlm_path: str,
    config: str,
    grid: SpatialActionTokenizer,
    statistics: Mapping[str, Any],
    texts: Iterable[str],
    chunk: int,
    attention: str = "",
) -> tuple[SpatialVLAForConditionalGeneration, SpatialVLAProcessor]:
    """A model that knows no action yet, and its processor.

    Args:
        vlm_path: folder of PaliGemma 2; "": random weights in the shape that `config` tells.
        config: "tiny", or a config.json of SpatialVLA.
        grid: of the action tokens.
        statistics: by key.
        texts: whose words a tokenizer is made of, where none comes with the weights.
        chunk: actions.
        attention: an implementation of transformers; "": its own choice.

    Raises:
        FileNotFoundError, ValueError: a folder or file is missing, damaged or of another kind.
    """
    if vlm_path:
        return _from_paligemma(vlm_path, grid, statistics, chunk, attention)
    tokenizer = small_text_tokenizer(texts)
    legal = [grid.legal(place) for place in range(TOKENS_PER_ACTION)]
    ranges = [[ids.start, ids.stop] for ids in legal]
    if config == _TINY:
        made = tiny_config(len(tokenizer), ranges, action_chunk_size=chunk)
    else:
        told, _ = _config(config)
        words = len(tokenizer)
        told["text_config"] = {**told["text_config"], "vocab_size": words + grid.vocab_size}
        told |= {
            **{"image_token_index": words - 1, "action_token_begin_idx": words},
            **{"spatial_token_num": grid.vocab_size, "action_token_ranges": ranges},
            **{"action_chunk_size": chunk, "pad_token_id": 0, "eos_token_id": 1},
            **{"bos_token_id": 2, "_vocab_size": None},
        }
        made = SpatialVLAConfig(**told)
    made._attn_implementation = attention or None
    processor = _processor(tokenizer, made, grid, statistics, chunk)
    return SpatialVLAForConditionalGeneration(made), processor


def _from_paligemma(
    folder: str, grid: SpatialActionTokenizer, statistics: Mapping, chunk: int, attention: str
) -> tuple[SpatialVLAForConditionalGeneration, SpatialVLAProcessor]:
    pali_config = _pali_config(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"--vlm_path {folder} has no tokenizer: copy all of its files") from error
    processor = _processor(tokenizer, pali_config, grid, statistics, chunk)
    begin = processor.action_token_begin_idx
    if pali_config.image_token_index != processor.image_token_id:
        raise ValueError(
            f"--vlm_path {folder}: its image token is {pali_config.image_token_index}, its "
            f"tokenizer's {processor.image_token_id}"
        )
    pali = PaliGemmaForConditionalGeneration.from_pretrained(folder, use_safetensors=True)
    pali.resize_token_embeddings(begin + grid.vocab_size)  # new rows as the others on average
    legal = [grid.legal(place) for place in range(TOKENS_PER_ACTION)]
    text = {**pali.config.text_config.to_dict(), "tie_word_embeddings": False}
    config = SpatialVLAConfig(
        vision_config=pali.config.vision_config.to_dict(),
        text_config=text,
        projection_dim=pali.config.projection_dim,
        image_token_index=processor.image_token_id,
        action_token_begin_idx=begin,
        spatial_token_num=grid.vocab_size,
        action_token_ranges=[[ids.start, ids.stop] for ids in legal],
        action_chunk_size=chunk,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    config._attn_implementation = attention or None
    model = SpatialVLAForConditionalGeneration(config)
    missing, unused = model.load_state_dict(pali.state_dict(), strict=False)
    strange = [name for name in missing if not any(part in name for part in _OURS)]
    if strange or unused:
        raise ValueError(
            f"--vlm_path {folder} is no PaliGemma 2: it lacks or has more: "
            f"{', '.join([*strange, *unused][:3])}"
        )
    with torch.no_grad():
        words = pali.get_input_embeddings().weight
        model.lm_head.weight.copy_(pali.get_output_embeddings().weight)
        model.spatial_embed_tokens.weight.copy_(words[begin:])
    return model, processor


def _pali_config(folder: str) -> Any:
    from transformers import PaliGemmaConfig

    checkpoint.require(Path(folder), checkpoint.CONFIG)
    told = checkpoint.read_json(Path(folder), checkpoint.CONFIG)
    if told.get("model_type") != "paligemma":
        raise ValueError(
            f"--vlm_path {folder} is of type {told.get('model_type')!r}: give a folder of "
            "PaliGemma 2; a SpatialVLA is fine-tuned by vla_ros.training.spatial_vla.finetune"
        )
    config = PaliGemmaConfig.from_pretrained(folder)
    if config.text_config.model_type != "gemma2":
        raise ValueError(
            f"--vlm_path {folder} has a language model of type {config.text_config.model_type}: "
            "SpatialVLA needs gemma2, which PaliGemma 2 has"
        )
    return config


def _config(path: str) -> tuple[dict[str, Any], int]:
    """What a config.json of SpatialVLA says, and the size of its images."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"--config {path} is no file: give tiny, or a config.json of SpatialVLA")
    told = checkpoint.read_json(file.parent, file.name)
    if told.get("model_type") != SpatialVLAConfig.model_type or "text_config" not in told:
        raise ValueError(f"--config {path} is of type {told.get('model_type')!r}, not spatialvla")
    return told, SpatialVLAConfig(**told).vision_config.image_size


def _processor(
    tokenizer: PreTrainedTokenizerBase,
    config: Any,
    grid: SpatialActionTokenizer,
    statistics: Mapping[str, Any],
    chunk: int,
) -> SpatialVLAProcessor:
    vision = config.vision_config
    side = {"height": vision.image_size, "width": vision.image_size}
    count = (vision.image_size // vision.patch_size) ** 2
    images = SiglipImageProcessorPil(size=side, do_normalize=False, image_seq_length=count)
    return SpatialVLAProcessor(
        images,
        tokenizer,
        statistics=dict(statistics),
        action_encoding=grid.to_dict(),
        action_chunk_size=chunk,
    )
