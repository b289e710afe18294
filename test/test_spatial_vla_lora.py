"""SpatialVLA with LoRA adapters of peft: trained, saved, loaded, merged; and on another grid."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft", reason="needs the extra lora")

import peft
import tiny_spatial_vla as tiny

from vla_ros import cli
from vla_ros.models.spatial_vla.grid import ActionGrid
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.resampling import resample_model
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer
from vla_ros.training.spatial_vla.lora import (
    Lora,
    add_adapters,
    base_of,
    freeze,
    is_adapters,
    trained_share,
)


@pytest.fixture(scope="module")
def processor():
    return tiny.processor()


def adapted(processor, **settings):
    lora = Lora(**{"rank": 4, "alpha": 4, "modules_to_save": ["spatial_embed_tokens"], **settings})
    return add_adapters(tiny.model(processor), lora)


def trained(processor, steps=3):
    model = adapted(processor).train()
    batch = processor(tiny.images(2), list(tiny.SENTENCES), suffix_actions=tiny.chunk(2))
    batch["geometry_features"] = tiny.geometry(2)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


def test_adapters_alone_are_trained_saved_loaded_and_merged(processor, tmp_path):
    asked = processor(tiny.images(2), list(tiny.SENTENCES))
    asked["geometry_features"] = tiny.geometry(2)
    model, losses = trained(processor)
    assert losses[-1] < losses[0]
    base = tiny.model(processor).state_dict()
    for name, weight in model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if not weight.requires_grad and plain in base:
            assert torch.equal(weight, base[plain]), name  # as it was
    with torch.no_grad():
        logits = model(**asked).logits
    said = model.get_base_model().predict_action(asked)
    model.save_pretrained(tmp_path / "adapters")
    assert not list((tmp_path / "adapters").glob("*.bin"))
    loaded = peft.PeftModel.from_pretrained(tiny.model(processor), tmp_path / "adapters").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**asked).logits, logits)
    merged = loaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    plain = SpatialVLAForConditionalGeneration.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(plain(**asked).logits, logits, atol=1e-3, rtol=1e-3)
    assert torch.equal(plain.predict_action(asked), said)


def test_adapters_work_with_gradient_checkpointing(processor):
    batch = processor(tiny.images(2), list(tiny.SENTENCES), suffix_actions=tiny.chunk(2))
    batch["geometry_features"] = tiny.geometry(2)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = adapted(processor).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model(**batch).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name])


def adapters_of(model, suffix="lora_A"):
    names = [name for name, _ in model.named_modules() if name.endswith(suffix)]
    return {name.removeprefix("base_model.model.").removesuffix(f".{suffix}") for name in names}


def test_adapters_are_where_they_are_asked_for(processor):
    everywhere = adapters_of(adapted(processor))
    parts = {name.split(".")[1] for name in everywhere}
    assert parts == {"language_model", "vision_tower", "multi_modal_projector", "geometry"}
    assert not [name for name in everywhere if "lm_head" in name or "embed" in name]
    language = adapters_of(adapted(processor, targets="language"))
    assert language == {name for name in everywhere if "language_model" in name}
    some = adapters_of(adapted(processor, targets=["q_proj", "geometry.head.0"]))
    assert {name.rsplit(".", 1)[-1] for name in some} == {"q_proj", "0"}
    config = adapted(processor, rank=3, alpha=7).peft_config["default"]
    assert (config.r, config.lora_alpha) == (3, 7)


def test_adapters_follow_what_is_frozen(processor):
    model = tiny.model(processor)
    freeze(model, vision=True)
    assert not any(w.requires_grad for w in model.model.vision_tower.parameters())
    assert not model.get_input_embeddings().weight.requires_grad
    assert model.spatial_embed_tokens.weight.requires_grad
    assert not [name for name in adapters_of(add_adapters(model, Lora(4, 4))) if "vision" in name]
    freeze(model := tiny.model(processor), language=True)
    language = model.model.language_model
    left = [name for name, weight in language.named_parameters() if weight.requires_grad]
    assert left == ["embed_tokens.spatial_embed_tokens.weight"]
    trained, total = trained_share(add_adapters(tiny.model(processor), Lora(1, 1)))
    assert 0 < trained < 0.05 * total


def test_what_adapters_cannot_be_is_told(processor, monkeypatch):
    with pytest.raises(ValueError, match="no linear layer of the model is called 'q_porj'"):
        adapted(processor, targets=["q_porj"])
    with pytest.raises(ValueError, match="no module 'embedings' to train"):
        adapted(processor, modules_to_save=["embedings"])
    freeze(model := tiny.model(processor), vision=True)
    with pytest.raises(ValueError, match="all targets of adapters are frozen"):
        add_adapters(model, Lora(targets="vision"))
    for settings, message in (
        ({"rank": 0}, "rank of adapters is 0"),
        ({"alpha": 0}, "alpha of adapters is 0"),
        ({"dropout": 1.0}, "dropout of adapters is 1.0"),
        ({"targets": []}, "no target"),
    ):
        with pytest.raises(ValueError, match=message):
            Lora(**settings)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vla_ros\[lora\]'"):
        adapted(processor)


@pytest.fixture(scope="module")
def saved(processor, tmp_path_factory):
    """Folders of a base model and of adapters that were trained on it, and what they say."""
    folder = tmp_path_factory.mktemp("adapters")
    tiny.model(processor).save_pretrained(folder / "base")
    base = SpatialVLAForConditionalGeneration.from_pretrained(folder / "base")
    model = add_adapters(base, Lora(4, 4, modules_to_save=["spatial_embed_tokens"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight.add_(0.05)
    model.eval().save_pretrained(folder / "adapters")
    processor.save_pretrained(folder / "adapters")
    (folder / "adapters" / "policy.json").write_text("{}")
    asked = processor(tiny.images(2), list(tiny.SENTENCES))
    asked["geometry_features"] = tiny.geometry(2)
    with torch.no_grad():
        return folder, asked, model(**asked).logits


def test_a_command_merges_adapters_into_a_checkpoint_of_its_own(saved, tmp_path, capsys):
    folder, asked, logits = saved
    assert is_adapters(folder / "adapters") and not is_adapters(folder / "base")
    assert base_of(folder / "adapters") == str(folder / "base")
    out = tmp_path / "merged"
    assert cli.main(["merge-lora", str(folder / "adapters"), "--out", str(out)]) == 0
    assert f"written to {out}" in capsys.readouterr().out
    merged = SpatialVLAForConditionalGeneration.from_pretrained(out)
    with torch.no_grad():
        torch.testing.assert_close(merged(**asked).logits, logits, atol=1e-3, rtol=1e-3)
    names = {path.name for path in out.iterdir()}
    assert {"processor_config.json", "tokenizer.json", "policy.json", "config.json"} <= names
    assert not [name for name in names if "adapter" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda copy: (copy / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda copy: (copy / "adapter_config.json").write_text("{"), "is damaged"),
        (lambda copy: (copy / "adapter_model.safetensors").write_bytes(b"no"), "do not fit"),
    ],
)
def test_damaged_adapters_give_one_error_and_write_nothing(
    saved, tmp_path, capsys, change, message
):
    copy = shutil.copytree(saved[0] / "adapters", tmp_path / "copy")
    change(copy)
    base = str(saved[0] / "base")
    arguments = ["merge-lora", str(copy), "--base", base, "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out").exists()


def test_adapters_of_another_model_are_refused(processor, saved, tmp_path, capsys):
    tiny.model(processor, hidden=96, layers=3).save_pretrained(tmp_path / "other")
    arguments = ["merge-lora", str(saved[0] / "adapters"), "--base", str(tmp_path / "other")]
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert "do not fit" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_base_that_is_gone_is_told_with_the_cure(saved, tmp_path, capsys):
    copy = shutil.copytree(saved[0] / "adapters", tmp_path / "copy")
    told = json.loads((copy / "adapter_config.json").read_text())
    told["base_model_name_or_path"] = str(tmp_path / "gone")
    (copy / "adapter_config.json").write_text(json.dumps(told))
    assert cli.main(["merge-lora", str(copy), "--out", str(tmp_path / "out")]) == 1
    assert "gone" in capsys.readouterr().err


def test_a_model_moves_to_another_grid_with_what_it_hears_and_says(processor):
    model, old = tiny.model(processor), processor.action_tokenizer
    first, count = model.config.action_token_begin_idx, old.vocab_size
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert resample_model(model, old, old).keys() == {"embeddings", "output"}
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], msg=name)  # the same grid: as it was
    bins = old.grid.bins
    edges = {axis: old.grid.edges(axis) for axis in bins}
    edges["r"] = edges["r"].copy()
    edges["r"][1:-1] *= 0.5  # finer near the tool
    new = SpatialActionTokenizer(ActionGrid(**edges), old.mode)
    errors = resample_model(model, old, new)
    assert errors["output"]["translation"].centre_max < 1.0
    table = model.spatial_embed_tokens.weight
    assert not torch.equal(
        table, before["model.language_model.embed_tokens.spatial_embed_tokens.weight"]
    )
    output = model.lm_head.weight
    assert torch.equal(output[:first], before["lm_head.weight"][:first])
    assert not torch.equal(output[first:], before["lm_head.weight"][first:])
    # Both are moved alike: the gripper's stay, a rotation's too, as its grid is the same.
    at = slice(first + old.legal(1).start, first + count)
    torch.testing.assert_close(output[at], before["lm_head.weight"][at])
    fewer = SpatialActionTokenizer(ActionGrid.uniform({**bins, "r": 4}), old.mode)
    with pytest.raises(ValueError, match=r"new grid has 194 tokens .* the model's 130 .*--bins"):
        resample_model(model, old, fewer)
    assert np.isfinite(output.detach().numpy()).all()
