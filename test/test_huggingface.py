"""SpatialVLA as users of transformers know models: save, load, Auto classes, generate."""

import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import tiny_spatial_vla as tiny
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    LogitsProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from vla_ros.models.spatial_vla.configuration import SpatialVLAConfig, tiny_config
from vla_ros.models.spatial_vla.generation import LegalActionTokens
from vla_ros.models.spatial_vla.geometry import GEOMETRY_DIM, geometry_features
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.models.spatial_vla.registration import register
from vla_ros.models.spatial_vla.text import add_action_tokens, small_text_tokenizer
from vla_ros.models.vision.geometry import Geometry
from vla_ros.training.spatial_vla.lora import Lora, add_adapters, merge

TOKENS = 12  # of a chunk of four actions


@pytest.fixture(scope="module")
def processor():
    return tiny.processor()


@pytest.fixture(scope="module")
def model(processor):
    return tiny.model(processor)


@pytest.fixture(scope="module")
def inputs(processor):
    made = processor(tiny.images(2), list(tiny.SENTENCES), unnorm_key="arm")
    return {**made, "geometry_features": tiny.geometry(2)}


@pytest.fixture(scope="module")
def folder(processor, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("spatial_vla")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def training_batch(processor):
    made = processor(tiny.images(2), list(tiny.SENTENCES), suffix_actions=tiny.chunk(2))
    return {**made, "geometry_features": tiny.geometry(2)}


def test_a_saved_model_says_the_same_after_loading(folder, model, inputs):
    names = {path.name for path in folder.iterdir()}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    loaded = SpatialVLAForConditionalGeneration.from_pretrained(folder)
    assert not loaded.training
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name
    assert torch.equal(loaded.predict_action(inputs), model.predict_action(inputs))


def test_auto_classes_load_a_folder_without_code_from_it(folder, model, inputs):
    register()
    register()  # twice is as good as once
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is SpatialVLAConfig
    left_out = {"dtype", "architectures", "_name_or_path", "transformers_version"}
    for name, value in model.config.to_dict().items():
        if name not in left_out and not name.endswith("_config"):
            assert getattr(config, name) == value, name
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is SpatialVLAProcessor
    processor.check(config)
    for auto in (AutoModel, AutoModelForImageTextToText):
        loaded = auto.from_pretrained(folder)
        assert type(loaded) is SpatialVLAForConditionalGeneration
    assert torch.equal(loaded.predict_action(inputs), model.predict_action(inputs))


def test_a_processor_comes_back_from_its_folder_the_same(folder, processor):
    loaded = SpatialVLAProcessor.from_pretrained(folder)
    one, other = (
        each(tiny.images(2), list(tiny.SENTENCES), "arm", tiny.chunk(2))
        for each in (processor, loaded)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert loaded.statistics == processor.statistics
    assert loaded.action_encoding == processor.action_encoding


def test_the_prompt_is_image_tokens_begin_text_and_line_break(processor):
    row = processor(tiny.images(1), "pick the cube")["input_ids"][0]
    image, begin = processor.image_token_id, processor.tokenizer.bos_token_id
    assert row[: tiny.TOKENS + 1].tolist() == [image] * tiny.TOKENS + [begin]
    text = processor.tokenizer.decode(row[tiny.TOKENS + 1 :])
    assert text.strip() == "pick the cube" and text.endswith("\n")


def test_labels_are_the_actions_and_the_end_alone(processor):
    made = training_batch(processor)
    ids, labels = made["input_ids"], made["labels"]
    assert (labels[:, -TOKENS - 1 :] == ids[:, -TOKENS - 1 :]).all()
    assert (labels[:, : -TOKENS - 1] == -100).all()
    assert (labels[:, -1] == processor.tokenizer.eos_token_id).all()
    assert ((labels != -100) == made["token_type_ids"].bool()).all()


def test_actions_come_back_from_tokens_as_near_as_the_grid_allows(processor):
    robot = processor.decode_actions(
        processor(tiny.images(2), list(tiny.SENTENCES), suffix_actions=tiny.chunk(2))["labels"][
            :, -TOKENS - 1 :
        ],
        "arm",
    )["actions"]
    once = processor.normalize_actions(robot, "arm")
    again = processor.action_tokenizer.decode(processor.action_tokenizer.encode(once))
    np.testing.assert_allclose(once, again, atol=1e-9)  # centres stay where they are
    assert robot.shape == (2, 4, 7)
    assert np.abs(once - tiny.chunk(2))[..., 3:6].max() <= 0.25  # half of a bin
    np.testing.assert_array_equal(robot[..., 6], tiny.chunk(2)[..., 6])  # not normalised


def test_every_row_of_a_batch_is_decoded_and_as_alone(processor, model, inputs):
    said = model.predict_action(inputs)
    assert said.shape == (2, TOKENS)
    both = processor.decode_actions(said, "arm")
    assert both["actions"].shape == (2, 4, 7) and both["action_ids"].shape == (2, 4, 3)
    assert not np.array_equal(both["actions"][0], both["actions"][1])
    for row in range(2):
        alone = processor(tiny.images(2)[row], tiny.SENTENCES[row])
        alone["geometry_features"] = tiny.geometry(2)[row : row + 1]
        said_alone = model.predict_action(alone)
        assert torch.equal(said_alone[0], said[row])  # padding changes nothing
        one = processor.decode_actions(said_alone, "arm")
        assert one["actions"].shape == (4, 7)
        np.testing.assert_array_equal(one["actions"], both["actions"][row])
    assert processor.decode_actions(said_alone, "arm", batched=True)["actions"].shape == (1, 4, 7)


def test_statistics_scale_what_the_mask_says(processor, model, inputs):
    said = model.predict_action(inputs)
    arm, other = (processor.decode_actions(said, key)["actions"] for key in ("arm", "other"))
    low, high = (np.array(tiny.STATISTICS["arm"]["action"][name]) for name in ("q01", "q99"))
    scaled = 0.5 * (other[..., :6] + 1) * (high - low)[:6] + low[:6]
    np.testing.assert_allclose(arm[..., :6], scaled, atol=1e-12)
    assert set(np.unique(arm[..., 6])) <= {0.0, 1.0}


def test_the_cache_changes_neither_tokens_nor_logits(model, inputs):
    settings = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
    prompt = inputs["input_ids"].shape[1]
    with_cache, without = (
        model.generate(
            **inputs,
            **settings,
            use_cache=cache,
            max_new_tokens=TOKENS,
            logits_processor=[model.legal_action_tokens(prompt)],
        )
        for cache in (True, False)
    )
    assert torch.equal(with_cache.sequences, without.sequences)
    for one, other in zip(with_cache.logits, without.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_training_and_generation_see_the_same(model, processor, inputs):
    """Logits of teacher forcing are those of saying the same tokens one by one."""
    prompt = inputs["input_ids"].shape[1]
    said = model.generate(
        **inputs,
        max_new_tokens=TOKENS,
        do_sample=False,
        logits_processor=[model.legal_action_tokens(prompt)],
        return_dict_in_generate=True,
        output_logits=True,
    )
    ids = said.sequences
    labels = ids.clone()
    labels[:, :prompt] = -100
    more = torch.ones(2, TOKENS, dtype=torch.long)
    with torch.no_grad():
        forced = model(
            input_ids=ids,
            attention_mask=torch.cat([inputs["attention_mask"], more], 1),
            pixel_values=inputs["pixel_values"],
            geometry_features=inputs["geometry_features"],
            labels=labels,
        ).logits[:, prompt - 1 : -1]
    torch.testing.assert_close(forced, torch.stack(said.logits, 1), atol=1e-4, rtol=1e-4)


def test_nothing_but_whole_actions_can_be_said(model, inputs, processor):
    class Adversary(LogitsProcessor):
        """Wants the end, then words, then tokens of another place, and nothing that is legal."""

        def __call__(self, input_ids, scores):
            noise = torch.randn(scores.shape, generator=generator) * 1e4
            noise[:, ::3] = torch.inf
            noise[:, 1::3] = -torch.inf
            return noise

    generator = torch.Generator().manual_seed(1)
    for settings in (
        {},
        {"do_sample": True},
        {"use_cache": False},
        {"do_sample": True, "top_k": 5},
    ):
        said = model.predict_action(inputs, logits_processor=[Adversary()], **settings)
        assert said.shape == (2, TOKENS)
        ids = said.numpy() - model.config.action_token_begin_idx
        for place in range(TOKENS):
            legal = processor.action_tokenizer.legal(place % 3)
            assert all(int(i) in legal for i in ids[:, place]), (settings, place)
        processor.decode_actions(said, "arm")


def test_the_end_follows_the_last_action(model, inputs):
    prompt = inputs["input_ids"].shape[1]
    said = model.predict_action(inputs, max_new_tokens=50)
    assert said.shape == (2, TOKENS + 1) and (said[:, -1] == model.config.end_token_id).all()
    legal = LegalActionTokens([range(5, 9), range(9, 12), range(12, 14)], prompt, 4, end=1)
    scores = torch.full((1, 20), -torch.inf)
    assert legal(torch.zeros(1, prompt + 1), scores).argmax() in range(9, 12)
    scores[0, 10] = torch.nan
    with pytest.raises(ValueError, match="logits of token 1 are NaN"):
        legal(torch.zeros(1, prompt + 1), scores)


def test_geometry_is_added_by_a_gate_that_is_closed_at_first(processor, inputs):
    fresh = tiny.model(processor)
    images = inputs["pixel_values"]
    one, other = (
        fresh.get_image_features(images, tiny.geometry(2, seed)).pooler_output for seed in (0, 1)
    )
    assert not torch.allclose(one, other)
    new = SpatialVLAForConditionalGeneration(fresh.config).eval()
    assert (new.model.geometry.gate == 0).all()
    one, other = (
        new.get_image_features(images, tiny.geometry(2, seed)).pooler_output for seed in (0, 1)
    )
    assert torch.equal(one, other)
    new.train()
    new(**training_batch(processor)).loss.backward()
    assert new.model.geometry.gate.grad.abs().max() > 0  # so it can open


def test_it_is_paligemma_but_for_the_embeddings_of_action_tokens(processor):
    """With these in the rows of the words' table, transformers' own model gives the same logits."""
    ours = tiny.model(processor, geometry_dim=0)
    batch = training_batch(processor)
    del batch["geometry_features"]
    config = ours.config
    theirs = PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(
            vision_config=config.vision_config,
            text_config=config.text_config,
            projection_dim=config.projection_dim,
            image_token_index=config.image_token_index,
            tie_word_embeddings=False,
        )
    ).eval()
    weights = ours.state_dict()
    table = "model.language_model.embed_tokens."
    spatial = weights.pop(table + "spatial_embed_tokens.weight")
    words = weights[table + "weight"].clone()
    words[config.action_token_begin_idx :] = spatial
    theirs.load_state_dict({**weights, table + "weight": words})
    with torch.no_grad():
        one, other = (
            ours(**batch),
            theirs(**batch | {"pixel_values": 2 * batch["pixel_values"] - 1}),
        )
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.loss, other.loss)


def test_gradient_checkpointing_gives_the_same_gradients(processor):
    batch, gradients = training_batch(processor), []
    for checkpointing in (False, True):
        trained = tiny.model(processor).train()
        if checkpointing:
            trained.gradient_checkpointing_enable({"use_reentrant": False})
        trained(**batch).loss.backward()
        gradients.append({n: p.grad for n, p in trained.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


def test_a_few_steps_learn_a_batch(processor):
    trained, batch = tiny.model(processor).train(), training_batch(processor)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=3e-3)
    for _ in range(40):
        loss = trained(**batch, num_items_in_batch=2 * (TOKENS + 1)).loss  # as Trainer calls it
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    asked = processor(tiny.images(2), list(tiny.SENTENCES))
    said = trained.eval().predict_action({**asked, "geometry_features": tiny.geometry(2)})
    assert (said == batch["labels"][:, -TOKENS - 1 : -1]).float().mean() > 0.9, loss


def test_the_default_tiny_configuration_is_small():
    with torch.device("meta"):
        made = SpatialVLAForConditionalGeneration(tiny_config(2048, geometry_dim=204))
    assert sum(weight.numel() for weight in made.parameters()) <= 20_000_000


def test_adapters_go_to_a_folder_and_back_and_into_the_weights(processor, folder, inputs, tmp_path):
    """With peft, as of any other model; test_spatial_vla_lora.py has the rest."""
    pytest.importorskip("peft", reason="needs the extra lora")
    base = SpatialVLAForConditionalGeneration.from_pretrained(folder)
    adapted = add_adapters(base, Lora(4, 4))
    batch = training_batch(processor)
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(3):
        loss = adapted.train()(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    adapted.eval().save_pretrained(tmp_path / "adapters")
    with torch.no_grad():
        wanted = adapted(**inputs).logits
    assert {path.suffix for path in (tmp_path / "adapters").iterdir()} == {
        ".json",
        ".safetensors",
        ".md",
    }
    merge(folder, tmp_path / "adapters").save_pretrained(tmp_path / "merged")
    merged = SpatialVLAForConditionalGeneration.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, wanted, atol=1e-3, rtol=1e-3)
    said = adapted.get_base_model().predict_action(inputs)
    assert torch.equal(merged.predict_action(inputs), said)


def test_half_precision_and_other_types_are_followed(processor, inputs):
    half = tiny.model(processor).to(torch.bfloat16)
    said = half.predict_action(inputs)
    processor.decode_actions(said, "arm")


def test_a_row_that_ends_early_holds_still(processor):
    first = processor.action_token_begin_idx
    ids = processor.action_tokenizer.encode(tiny.chunk(1)[0]).reshape(-1) + first
    end, pad = processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id
    rows = np.stack([np.r_[ids[:8], end, [pad] * 4], np.r_[ids, end]])
    decoded = processor.decode_actions(rows, "arm")
    assert decoded["spoken"].tolist() == [2, 4]
    held, whole = decoded["actions"]
    np.testing.assert_array_equal(held[:2], whole[:2])
    np.testing.assert_array_equal(held[2:, :6], 0)  # no motion, in the robot's units
    np.testing.assert_array_equal(held[2:, 6], whole[1, 6])  # the gripper as it was
    assert (decoded["action_ids"][0, 2:] == -1).all()


@pytest.mark.parametrize("place", [0, 1, 2, 7])
def test_an_id_out_of_range_or_place_is_named(processor, place):
    first = processor.action_token_begin_idx
    ids = processor.action_tokenizer.encode(tiny.chunk(1)[0]).reshape(-1) + first
    wrong = [first + processor.action_tokenizer.vocab_size, 5, ids[(place + 1) % TOKENS]]
    for bad in wrong:
        row = ids.copy()
        row[place] = bad
        with pytest.raises(ValueError, match=f"id {bad} at place {place} of row 0"):
            processor.decode_actions(row, "arm")


def test_rows_without_an_action_and_odd_shapes_are_refused(processor):
    with pytest.raises(ValueError, match="row 0 ends before its first action"):
        processor.decode_actions(np.array([[processor.tokenizer.eos_token_id] * 12]), "arm")
    with pytest.raises(ValueError, match="expected ids"):
        processor.decode_actions(np.zeros((1, 2, 3), dtype=int), "arm")


@pytest.mark.parametrize(
    ("images", "text", "more", "message"),
    [
        (2, "pick the cube", {}, "2 images for 1 texts"),
        (1, ["pick", "place"], {}, "1 images for 2 texts"),
        (1, None, {}, "1 images for 0 texts"),
        (1, [3], {}, "texts must be strings"),
        (1, "  ", {}, "the text is empty"),
        (1, "pick <ACTION00003> up", {}, "special token <ACTION00003>"),
        (1, "pick <eos>", {}, "special token <eos>"),
        (1, "pick the cube", {"unnorm_key": "leg"}, "'leg': there are arm, other"),
        (1, "pick", {"suffix_actions": np.zeros((3, 7))}, r"expected suffix_actions \[1, 4, 7\]"),
        (1, "pick", {"suffix_actions": np.full((4, 7), np.nan)}, "must lie in -1..1"),
        (1, "pick", {"return_tensors": "np"}, "only 'pt'"),
    ],
)
def test_wrong_inputs_of_the_processor_give_one_clear_error(processor, images, text, more, message):
    with pytest.raises(ValueError, match=message):
        processor(tiny.images(images), text, **more)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((28, 28), np.uint8),
        np.zeros((3, 28, 28), np.uint8),
        np.zeros((28, 28, 3), np.float32),
        np.zeros((0, 28, 3), np.uint8),
        None,
    ],
)
def test_images_of_another_shape_or_type_are_refused(processor, image):
    with pytest.raises(ValueError, match=r"image 0: expected a PIL image or uint8 \[H, W, 3\]"):
        processor([image], "pick the cube")


def test_every_text_has_one_image_or_as_many_as_the_others(processor):
    one, other = tiny.images(2)
    with pytest.raises(ValueError, match="a text has no image or more than another"):
        processor([[one, other], [one]], ["pick the cube"] * 2)
    nested = processor([[one]], "pick the cube")["pixel_values"]
    assert torch.equal(nested, processor(one, "pick the cube")["pixel_values"])
    both = processor([[one, other]], "pick the cube")
    assert both["pixel_values"].shape[0] == 2 and torch.equal(both["pixel_values"][:1], nested)
    assert (both["input_ids"] == processor.image_token_id).sum() == 2 * tiny.TOKENS
    with_two = tiny.model(processor, geometry_dim=0)
    said = processor.decode_actions(with_two.predict_action(both), "arm")["actions"]
    swapped = processor([[other, one]], "pick the cube")
    again = processor.decode_actions(with_two.predict_action(swapped), "arm")["actions"]
    assert said.shape == (4, 7) and not np.array_equal(said, again)


def test_without_a_key_the_only_statistics_are_taken(processor, model, inputs):
    said = model.predict_action(inputs)
    with pytest.raises(ValueError, match="there are arm, other"):
        processor.decode_actions(said)
    with pytest.raises(ValueError, match="'leg': there are arm, other"):
        processor.decode_actions(said, "leg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": torch.zeros(2, 3, 14, 28)}, r"expected pixel_values \[B, 3, 28, 28\]"),
        ({"pixel_values": torch.full((2, 3, 28, 28), -0.5)}, "set do_normalize"),
        ({"pixel_values": torch.full((2, 3, 28, 28), torch.nan)}, "outside or NaN"),
        (
            {"pixel_values": torch.zeros(1, 3, 28, 28), "geometry_features": tiny.geometry(1)},
            "1 images for 2 rows",
        ),
        ({"geometry_features": None}, r"needs geometry_features \[2, 4, 6\]"),
        ({"geometry_features": torch.zeros(2, 4, 5)}, r"got \[2, 4, 5\]"),
        ({"geometry_features": torch.full((2, 4, 6), torch.inf)}, "not finite"),
        ({"pixel_values": None}, "without pixel_values|row 0 of input_ids"),
        (
            {"pixel_values": None, "geometry_features": None},
            "row 0 of input_ids",
        ),
    ],
)
def test_wrong_inputs_of_the_model_give_one_clear_error(model, inputs, change, message):
    given = {k: v for k, v in {**inputs, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        model.predict_action(given)
    with pytest.raises(ValueError, match=message):
        model(**given)


def test_what_is_not_on_this_machine_is_told_with_the_cure(tmp_path):
    for name in (tmp_path / "none", "somebody/some-checkpoint"):
        with pytest.raises(FileNotFoundError, match="no checkpoint .*hf download"):
            SpatialVLAForConditionalGeneration.from_pretrained(name)


def test_damaged_folders_give_one_clear_error(copied):
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        SpatialVLAForConditionalGeneration.from_pretrained(copied)
    weights.unlink()
    (copied / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(FileNotFoundError, match="code are not read"):
        SpatialVLAForConditionalGeneration.from_pretrained(copied)
    weights.write_bytes(whole)
    settings = json.loads((copied / "config.json").read_text())
    for text in ("{", json.dumps({**settings, "action_chunk_size": "four"}), "[]"):
        (copied / "config.json").write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            SpatialVLAForConditionalGeneration.from_pretrained(copied)
    (copied / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="no config.json"):
        SpatialVLAForConditionalGeneration.from_pretrained(copied)
    (copied / "tokenizer.json").write_text("[")
    with pytest.raises(ValueError, match=r"tokenizer.json is damaged"):
        SpatialVLAProcessor.from_pretrained(copied)
    (copied / "processor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no processor_config.json"):
        SpatialVLAProcessor.from_pretrained(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("lm_head.weight"), "lack lm_head.weight"),
        (lambda w: w.update(more=torch.zeros(1)), "have more than the model: more"),
        (lambda w: w.update({"lm_head.weight": torch.zeros(3, 3)}), "lm_head.weight is "),
    ],
)
def test_weights_that_do_not_fit_are_not_loaded_in_part(copied, change, message):
    weights = load_file(copied / "model.safetensors")
    change(weights)
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=message):
        SpatialVLAForConditionalGeneration.from_pretrained(copied)


def test_a_processor_and_a_model_of_other_tokens_are_told_apart(processor, model):
    processor.check(model.config)
    other = SpatialVLAConfig(**{**model.config.to_dict(), "action_chunk_size": 2})
    with pytest.raises(ValueError, match="action_chunk_size is 4 in the processor, 2 in the model"):
        processor.check(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_token_begin_idx": 10_000}, "are not in a vocabulary of"),
        ({"spatial_token_num": 100, "action_token_ranges": None}, "action_token_ranges are not"),
        ({"action_token_ranges": [[0, 64], [64, 128]]}, "are not 3 ranges"),
        ({"image_token_index": 305}, "image token 305 is an action token"),
        ({"projection_dim": 32}, "projection_dim is 32"),
        ({"action_chunk_size": 0}, "action_chunk_size is 0"),
    ],
)
def test_configurations_that_cannot_be_are_refused(model, change, message):
    with pytest.raises(ValueError, match=message):
        SpatialVLAConfig(**{**model.config.to_dict(), **change})


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"q01": [0.0] * 6, "q99": [1.0] * 7}, "actions have 6 q01, 7 q99"),
        ({"q01": [0.0] * 7, "q99": [float("nan")] * 7}, "q01 0.0 and q99 nan"),
        ({"q01": [0.0] * 6, "q99": [1.0] * 6}, "are of 6 numbers"),
        ({"q01": [1.0] * 7, "q99": [0.0] * 7}, "q01 1.0 and q99 0.0"),
    ],
)
def test_statistics_that_cannot_be_are_refused(processor, action, message):
    with pytest.raises(ValueError, match=f"statistics 'new'.* {message}"):
        SpatialVLAProcessor(
            processor.image_processor,
            processor.tokenizer,
            statistics={"new": {"action": action}},
            action_encoding=processor.action_encoding,
        )


def test_small_text_tokenizers_can_say_anything_and_know_their_words():
    tokenizer = small_text_tokenizer(["pick up the red cube"] * 2, size=300)
    text = " schieb den Würfel 3 cm → links"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids).strip() == text.strip().lower()
    assert len(tokenizer("red cube", add_special_tokens=False)["input_ids"]) == 2
    first = add_action_tokens(tokenizer, 20)
    assert add_action_tokens(tokenizer, 20) == first  # they are there already
    with pytest.raises(ValueError, match="more than 10 action tokens"):
        add_action_tokens(tokenizer, 10)
    with pytest.raises(ValueError, match="lacks <ACTION00020>"):
        add_action_tokens(tokenizer, 30)


def test_json_of_a_folder_holds_no_code(folder):
    for name in ("config.json", "processor_config.json"):
        assert "auto_map" not in json.loads((folder / name).read_text())


def test_geometry_features_are_of_one_token_each_and_say_what_is_not_valid():
    points = torch.rand(2, 2, 3, 3)
    valid = torch.tensor([True, False, True]).expand(2, 2, 3)
    given = Geometry(points=points, confidence=torch.rand(2, 2, 3), valid=valid)
    features = geometry_features(given)
    assert features.shape == (2, 6, GEOMETRY_DIM)
    torch.testing.assert_close(features[:, 5, :3], points[:, 1, 2])  # row by row, as image tokens
    assert (features[:, 1, :-2] == 0).all() and (features[:, 1, -1] == 0).all()
    assert (features[:, 0, -1] == 1).all()
