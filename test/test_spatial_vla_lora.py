"""SpatialVLA with LoRA adapters of peft: trained, saved, loaded, merged."""

import pytest
import torch

pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="peft is not installed: pip install vla_ros[lora]")

import tiny_spatial_vla as tiny  # noqa: E402

from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration  # noqa: E402

TARGETS = [
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("fc1", "fc2", "out_proj", "linear", "geometry.head.0", "geometry.head.3"),
]


@pytest.fixture(scope="module")
def processor():
    return tiny.processor()


def adapted(processor):
    config = peft.LoraConfig(
        r=4, lora_alpha=4, target_modules=TARGETS, modules_to_save=["spatial_embed_tokens"]
    )
    return peft.get_peft_model(tiny.model(processor), config)


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
