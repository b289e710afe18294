"""SpatialVLA: an image, its geometry and a sentence in, action tokens out.

    SigLIP tokens + gate * MLP(geometry features) -> projector -> Gemma2 -> 3 tokens an action

The parts are those of PaliGemma in transformers. What is ours: the embeddings of the action tokens,
the geometry, and a generation that cannot say anything but actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, PaliGemmaForConditionalGeneration, PaliGemmaModel
from transformers.cache_utils import Cache
from transformers.models.gemma2.modeling_gemma2 import Gemma2TextScaledWordEmbedding
from transformers.models.paligemma.modeling_paligemma import (
    PaliGemmaCausalLMOutputWithPast,
    PaliGemmaPreTrainedModel,
)

from vla_ros.models.spatial_vla import loading
from vla_ros.models.spatial_vla.configuration import TOKENS_PER_ACTION, SpatialVLAConfig
from vla_ros.models.spatial_vla.generation import LegalActionTokens


class SpatialEmbedding(Gemma2TextScaledWordEmbedding):
    """Words as Gemma2 embeds them, action tokens from a table of their own, scaled alike.

    So the words can stay frozen while action tokens learn, and a new grid of actions moves that
    table alone. The rows of action tokens in the words' table are not read.
    """

    def __init__(self, config: SpatialVLAConfig) -> None:
        text = config.text_config
        scale = text.hidden_size**0.5
        super().__init__(text.vocab_size, text.hidden_size, text.pad_token_id, embed_scale=scale)
        self.first, self.count = config.action_token_begin_idx, config.spatial_token_num
        self.spatial_embed_tokens = nn.Embedding(self.count, text.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids [B, S] to [B, S, hidden]."""
        words = super().forward(input_ids)
        place = input_ids - self.first
        is_action = (place >= 0) & (place < self.count)
        actions = self.spatial_embed_tokens(place.clamp(0, self.count - 1))
        return torch.where(is_action[..., None], actions * self.embed_scale.to(words.dtype), words)


class GeometryProjection(nn.Module):
    """Geometry features to what is added to image tokens; nothing at first, as the gate is zero.

    As `vision.fusion.GatedFusion`, but of features that are computed before: they are the same in
    every step of a training, and published checkpoints have others.
    """

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.head = nn.Sequential(  # the published one, whose weights fit
            nn.Linear(features, channels),
            nn.LayerNorm(channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )
        self.gate = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        return self.gate * self.head(features)


class SpatialVLAModel(PaliGemmaModel):
    """Image and language parts, without the output layer."""

    config_class = SpatialVLAConfig

    def __init__(self, config: SpatialVLAConfig) -> None:
        super().__init__(config)
        self.geometry = None
        if config.geometry_dim:
            channels = config.vision_config.hidden_size
            self.geometry = GeometryProjection(config.geometry_dim, channels)
        if config.use_spatial_token:
            self.language_model.embed_tokens = SpatialEmbedding(config)

    def get_image_features(
        self, pixel_values: Tensor, geometry_features: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Encode images.

        Args:
            pixel_values: RGB [B, 3, S, S] in 0..1; they are normalised here, as is the case for
                published checkpoints.
            geometry_features: [B, tokens, geometry_dim], token by token as the image's.

        Returns:
            What SigLIP returns, with `pooler_output` [B, tokens, hidden]: the image tokens.

        Raises:
            ValueError: wrong shape, values outside 0..1, or geometry given or lacking against the
                configuration.
        """
        self._check_images(pixel_values, geometry_features)
        kwargs.pop("return_dict", None)
        outputs = self.vision_tower(2 * pixel_values - 1, **kwargs)
        tokens = outputs.last_hidden_state
        if self.geometry is not None:
            tokens = tokens + self.geometry(geometry_features.to(tokens.dtype))
        outputs.pooler_output = self.multi_modal_projector(tokens)
        return outputs

    def _check_images(self, pixel_values: Tensor, geometry: Tensor | None) -> None:
        size = self.config.vision_config.image_size
        if pixel_values.shape[1:] != (3, size, size) or not pixel_values.is_floating_point():
            raise ValueError(
                f"expected pixel_values [B, 3, {size}, {size}] in 0..1, got "
                f"{list(pixel_values.shape)}, {pixel_values.dtype}"
            )
        if not ((pixel_values >= 0) & (pixel_values <= 1)).all():  # NaN compares false
            raise ValueError(
                "pixel_values must lie in 0..1, got values outside or NaN: set do_normalize of the "
                "image processor to false, the model normalises"
            )
        wanted = (len(pixel_values), self.config.image_tokens, self.config.geometry_dim)
        if self.geometry is None and geometry is not None:
            raise ValueError("geometry_features given, but this model has no geometry")
        if self.geometry is not None and geometry is None:
            raise ValueError(
                f"this model needs geometry_features {list(wanted)}: give them, or build the model "
                "with geometry_dim=0"
            )
        if geometry is not None and geometry.shape != wanted:
            raise ValueError(
                f"expected geometry_features {list(wanted)}, got {list(geometry.shape)}"
            )
        if geometry is not None and not torch.isfinite(geometry).all():
            raise ValueError("geometry_features are not finite: fill what is not valid before")


class SpatialVLAForConditionalGeneration(PaliGemmaForConditionalGeneration):
    """The whole model; `predict_action` is what a robot needs of it."""

    config_class = SpatialVLAConfig
    config: SpatialVLAConfig

    def __init__(self, config: SpatialVLAConfig) -> None:
        PaliGemmaPreTrainedModel.__init__(self, config)  # PaliGemma's makes another
        self.model = SpatialVLAModel(config)
        text = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GeometryProjection) and not getattr(
            module.gate, "_is_hf_initialized", False
        ):
            nn.init.zeros_(module.gate)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Load a folder that `save_pretrained` wrote, or one in the published layout.

        Takes what transformers takes. Only safetensors are read, only whole checkpoints.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or the weights do not fit the configuration.
        """
        return loading.load(super().from_pretrained, cls, folder, *args, **kwargs)

    @property
    def spatial_embed_tokens(self) -> nn.Embedding | None:
        """Embeddings of the action tokens [spatial_token_num, hidden], if they have their own.

        What is said by them are the rows of `lm_head` from action_token_begin_idx on: who moves the
        grid moves both.
        """
        return getattr(self.get_input_embeddings(), "spatial_embed_tokens", None)

    def get_image_features(
        self, pixel_values: Tensor, geometry_features: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """See `SpatialVLAModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, geometry_features, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        geometry_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict | None = None,
        **kwargs: Any,
    ) -> PaliGemmaCausalLMOutputWithPast:
        """Logits, and the loss where there are labels.

        Args:
            input_ids: [B, S]; see `SpatialVLAProcessor` for their order.
            pixel_values, geometry_features: see `SpatialVLAModel.get_image_features`.
            token_type_ids: [B, S], 0 for the prompt, whose tokens all see each other, 1 for
                actions, which see what is before them. Default: 1 where there are labels.
            labels: [B, S], -100 where nothing is to be predicted.
            The others are those of PaliGemma.

        Raises:
            ValueError: see `SpatialVLAModel.get_image_features`; also too few or too many image
                tokens in a row.
        """
        images = dict(mm_encoder_outputs or {})
        if pixel_values is not None:
            images["image"] = self.model.get_image_features(pixel_values, geometry_features)
        elif geometry_features is not None:
            raise ValueError("geometry_features given without pixel_values")
        begins = cache is None or not cache.is_initialized
        if input_ids is not None and begins:
            self._check_image_tokens(input_ids, images.get("image"))
            if token_type_ids is None:
                token_type_ids = torch.zeros_like(input_ids)
                if labels is not None:
                    token_type_ids = (labels != -100).long()
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            mm_encoder_outputs=images,
            **kwargs,
        )

    def _check_image_tokens(self, input_ids: Tensor, image: Any) -> None:
        """Every row has the tokens of whole images, and all together those of all images."""
        one = self.config.image_tokens
        given = 0 if image is None else len(image.pooler_output)
        counts = (input_ids == self.config.image_token_index).sum(1)
        if given and given % len(input_ids):
            raise ValueError(
                f"{given} images for {len(input_ids)} rows of input_ids: give each row as many"
            )
        wanted = one * (given // len(input_ids))
        if (counts != wanted).any():
            row = int((counts != wanted).nonzero()[0])
            raise ValueError(
                f"row {row} of input_ids has {int(counts[row])} image tokens, its images "
                f"{wanted}: make the inputs with SpatialVLAProcessor"
            )

    @torch.no_grad()
    def predict_action(
        self, model_inputs: Mapping[str, Tensor], *, constrained: bool = True, **generation: Any
    ) -> Tensor:
        """Say the next actions.

        Args:
            model_inputs: of `SpatialVLAProcessor`, without `suffix_actions`.
            constrained: whether only legal action tokens can be said.
            generation: of `generate`; greedy by default.

        Returns:
            Ids of the vocabulary, int64 [B, 3 * action_chunk_size], for
            `SpatialVLAProcessor.decode_actions`. Not constrained, a row may end before and be
            padded.

        Raises:
            ValueError: inputs that `forward` does not take, or logits that are NaN.
        """
        weight = self.get_output_embeddings().weight
        inputs = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in model_inputs.items()
            if name != "labels" and isinstance(value, Tensor)
        }
        prompt = inputs["input_ids"].shape[1]
        processors = LogitsProcessorList(generation.pop("logits_processor", ()))
        if constrained:
            processors.append(self.legal_action_tokens(prompt))
        generation.setdefault("max_new_tokens", TOKENS_PER_ACTION * self.config.action_chunk_size)
        generation.setdefault("do_sample", False)
        said = self.generate(**inputs, logits_processor=processors, **generation)
        return said[:, prompt:]

    def legal_action_tokens(self, prompt: int) -> LegalActionTokens:
        """What `generate` needs in its `logits_processor` to say nothing but whole actions.

        Args:
            prompt: tokens of a row before the first action.
        """
        return LegalActionTokens(
            [self.config.legal_ids(place) for place in range(TOKENS_PER_ACTION)],
            prompt,
            actions=self.config.action_chunk_size,
            end=self.config.end_token_id,
        )
