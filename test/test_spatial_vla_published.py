"""Checkpoints in the published layout of SpatialVLA, at a reduced size."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import tiny_spatial_vla as tiny
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

from vla_ros.models.spatial_vla.geometry import ego3d_features
from vla_ros.models.spatial_vla.loading import (
    compare,
    is_published,
    our_name,
    tensor_names,
)
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.registration import register

HIDDEN, VISION, LAYERS, VISION_LAYERS, HEAD_DIM = 64, 32, 2, 2, 16
GEOMETRY = 3 * 2 * 2 * (2 * 8 + 1)  # 2 x 2 points a patch, 8 frequencies
SHAPES = {  # of one layer
    "self_attn.q_proj": (4 * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (2 * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (2 * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, 4 * HEAD_DIM),
    "mlp.gate_proj": (96, HIDDEN),
    "mlp.up_proj": (96, HIDDEN),
    "mlp.down_proj": (HIDDEN, 96),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
    "pre_feedforward_layernorm": (HIDDEN,),
    "post_feedforward_layernorm": (HIDDEN,),
}
VISION_SHAPES = {
    **{f"self_attn.{name}_proj": (VISION, VISION) for name in ("q", "k", "v", "out")},
    "mlp.fc1": (48, VISION),
    "mlp.fc2": (VISION, 48),
    "layer_norm1": (VISION,),
    "layer_norm2": (VISION,),
}


def published_weights(words: int, actions: int) -> dict[str, torch.Tensor]:
    """Every tensor of a published checkpoint by its name there; of the depth network only some."""
    shapes = {
        "language_model.model.embed_tokens.weight": (words + actions, HIDDEN),
        "language_model.model.norm.weight": (HIDDEN,),
        "language_model.lm_head.weight": (words + actions, HIDDEN),
        "spatial_embed_tokens.weight": (actions, HIDDEN),
        "multi_modal_projector.linear.weight": (HIDDEN, VISION),
        "multi_modal_projector.linear.bias": (HIDDEN,),
        "vision_tower.vision_model.embeddings.patch_embedding.weight": (VISION, 3, 14, 14),
        "vision_tower.vision_model.embeddings.patch_embedding.bias": (VISION,),
        "vision_tower.vision_model.embeddings.position_embedding.weight": (tiny.TOKENS, VISION),
        "vision_tower.vision_model.post_layernorm.weight": (VISION,),
        "vision_tower.vision_model.post_layernorm.bias": (VISION,),
        "position_embedding_3d.position_embedding_head.0.weight": (VISION, GEOMETRY),
        "position_embedding_3d.position_embedding_head.0.bias": (VISION,),
        "position_embedding_3d.position_embedding_head.1.weight": (VISION,),
        "position_embedding_3d.position_embedding_head.1.bias": (VISION,),
        "position_embedding_3d.position_embedding_head.3.weight": (VISION, VISION),
        "position_embedding_3d.position_embedding_head.3.bias": (VISION,),
        "vision_zoe_model.backbone.embeddings.cls_token": (1, 1, 8),
        "vision_zoe_model.neck.fusion_stage.layers.0.projection.weight": (8, 8, 1, 1),
        "vision_zoe_model.metric_head.conv2.weight": (8, 8, 1, 1),
    }
    for layer in range(LAYERS):
        for name, shape in SHAPES.items():
            shapes[f"language_model.model.layers.{layer}.{name}.weight"] = shape
    for layer in range(VISION_LAYERS):
        at = f"vision_tower.vision_model.encoder.layers.{layer}"
        for name, shape in VISION_SHAPES.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(0)
    return {n: 0.2 * torch.randn(shape, generator=generator) for n, shape in shapes.items()}


def published_config(words: int, actions: int, ranges: list[list[int]]) -> dict:
    return {
        "_vocab_size": words + actions,
        "action_token_begin_idx": words,
        "action_token_ranges": ranges,  # not published: there the sizes are the usual ones
        "architectures": ["SpatialVLAForConditionalGeneration"],
        "auto_map": {
            "AutoConfig": "configuration_spatialvla.SpatialVLAConfig",
            "AutoModel": "modeling_spatialvla.SpatialVLAForConditionalGeneration",
        },
        "bos_token_id": 2,
        "ego3d_patch_reso": 2,
        "eos_token_id": 1,
        "hidden_size": 2048,
        "image_token_index": words - 1,
        "model_type": "spatialvla",
        "n_freqs": 8,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "projection_dim": HIDDEN,
        "spatial_token_num": actions,
        "text_config": {
            "architectures": ["Gemma2ForCausalLM"],
            "eos_token_id": [1, 107],
            "head_dim": HEAD_DIM,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": HIDDEN,
            "intermediate_size": 96,
            "model_type": "gemma2",
            "num_attention_heads": 4,
            "num_hidden_layers": LAYERS,
            "num_image_tokens": tiny.TOKENS,
            "num_key_value_heads": 2,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "vocab_size": words + actions,
        },
        "torch_dtype": "float32",
        "transformers_version": "4.47.0",
        "use_spatial_token": True,
        "use_vision_zoe": True,
        "vision_config": {
            "hidden_size": VISION,
            "image_size": tiny.SIZE,
            "intermediate_size": 48,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 4,
            "num_hidden_layers": VISION_LAYERS,
            "num_image_tokens": tiny.TOKENS,
            "num_positions": tiny.TOKENS,
            "patch_size": 14,
            "projection_dim": HIDDEN,
            "torch_dtype": "float32",
            "vision_use_head": False,
        },
        "vision_zoe_config": {"model_type": "zoedepth"},
    }


def published_processor(made) -> dict:
    """The published processor_config.json, its statistics and grid ours."""
    encoding = made.action_encoding
    camera = {"width": 640, "height": 480, "intrinsic": [[600, 0, 320], [0, 600, 240], [0, 0, 1]]}
    return {
        "action_chunk_size": 4,
        "action_config": {"distribution": "gaussian", "use_spherical": True},
        "auto_map": {"AutoProcessor": "processing_spatialvla.SpatialVLAProcessor"},
        "bin_policy": encoding["grid"],
        "intrinsic_config": {"default": camera},
        "min_sigma": 0.0,
        "num_obs_steps": 1,
        "obs_delta": 1,
        "processor_class": "SpatialVLAProcessor",
        "statistics": tiny.STATISTICS,
    }


@pytest.fixture(scope="module")
def made():
    return tiny.processor()


@pytest.fixture(scope="module")
def weights(made):
    return published_weights(made.action_token_begin_idx, made.action_tokenizer.vocab_size)


@pytest.fixture(scope="module")
def folder(made, weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("published")
    made.tokenizer.save_pretrained(path)
    image = {**made.image_processor.to_dict(), "processor_class": "SpatialVLAProcessor"}
    image["image_processor_type"] = "SiglipImageProcessor"
    legal = [made.action_tokenizer.legal(place) for place in range(3)]
    ranges = [[ids.start, ids.stop] for ids in legal]
    config = published_config(made.action_token_begin_idx, ranges[-1][1], ranges)
    generation = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    generation |= {"_from_model_config": True, "cache_implementation": "hybrid"}
    for name, values in (
        ("config", config),
        ("generation_config", generation),
        ("preprocessor_config", image),
        ("processor_config", published_processor(made)),
    ):
        (path / f"{name}.json").write_text(json.dumps(values))
    # In two files with an index, as it is published.
    names, index = sorted(weights), {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i + 1:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, path / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (path / "model.safetensors.index.json").write_text(text)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return SpatialVLAForConditionalGeneration.from_pretrained(folder)


def test_every_published_tensor_has_its_place(weights, model):
    report = compare(weights, model.state_dict())
    assert report.complete and is_published(weights) and not is_published(model.state_dict())
    assert report.missing == ["model.geometry.gate"]
    assert {name.split(".")[0] for name in report.unused} == {"vision_zoe_model"}
    loaded = model.state_dict()
    assert set(report.loaded.values()) == loaded.keys() - {"model.geometry.gate"}
    for name, ours in report.loaded.items():
        assert torch.equal(loaded[ours], weights[name]), name
    assert (loaded["model.geometry.gate"] == 1).all()  # published geometry is added as it is
    text = str(report)
    assert "3 unused of vision_zoe_model: depth is estimated by the geometry branch" in text
    assert "missing: model.geometry.gate, set to 1" in text


def test_a_report_names_what_is_strange(weights, model):
    names = {**weights, "extra.weight": None}
    del names["language_model.lm_head.weight"]
    report = compare(names, model.state_dict())
    assert not report.complete
    assert "extra.weight" in report.unused and "lm_head.weight" in report.missing
    assert our_name("extra.weight") == "extra.weight"


def test_auto_classes_load_a_published_folder_without_its_code(folder, model):
    register()
    loaded = AutoModel.from_pretrained(folder)
    assert type(loaded) is SpatialVLAForConditionalGeneration
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.action_tokenizer.mode == "published"
    processor.check(loaded.config)
    points = torch.rand(2, tiny.TOKENS, 12, generator=torch.Generator().manual_seed(0)) + 0.5
    inputs = processor(tiny.images(2), list(tiny.SENTENCES), unnorm_key="arm")
    inputs["geometry_features"] = ego3d_features(points, loaded.config.n_freqs)
    said = loaded.predict_action(inputs)
    assert processor.decode_actions(said, unnorm_key="arm")["actions"].shape == (2, 4, 7)
    assert torch.equal(said, model.predict_action(inputs))
    assert torch.equal(said, model.predict_action(inputs, use_cache=False))


def test_a_published_checkpoint_is_saved_and_loaded_in_our_layout(model, tmp_path):
    model.save_pretrained(tmp_path)
    names = tensor_names(tmp_path)
    assert not is_published(names) and "model.geometry.gate" in names
    again = SpatialVLAForConditionalGeneration.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_a_published_checkpoint_that_lacks_a_part_is_refused(folder, weights, tmp_path):
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    fewer = {name: weight for name, weight in weights.items() if "embedding_head.3" not in name}
    save_file(fewer, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack model\.geometry\.head\.3\.bias and 1 more"):
        SpatialVLAForConditionalGeneration.from_pretrained(tmp_path)


def test_geometry_features_are_coordinates_then_their_sines_and_cosines():
    points = torch.tensor([[[0.5, -1.0, 3.0] * 4]])
    features = ego3d_features(points, 8).reshape(12, 17)
    scaled = np.array([0.25, -0.5, 0.5])
    bands = scaled[:, None] * 2.0 ** np.arange(8)
    expected = np.concatenate([scaled[:, None], np.sin(bands), np.cos(bands)], 1)
    for point in range(4):
        np.testing.assert_allclose(features[3 * point : 3 * point + 3], expected, atol=1e-5)
    assert features.numel() == GEOMETRY
