"""What a SpatialVLA is made of; the names of the settings are those of published checkpoints."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import Gemma2Config, PaliGemmaConfig, SiglipVisionConfig

TOKENS_PER_ACTION = 3  # translation, rotation, gripper
PUBLISHED_RANGES = [[0, 4096], [4096, 8192], [8192, 8194]]


@strict
class SpatialVLAConfig(PaliGemmaConfig):
    r"""
    PaliGemma2 with action tokens in its vocabulary and geometry added to its image tokens.

    Args:
        action_token_begin_idx: id of the first action token; default: they end the vocabulary.
        spatial_token_num: how many there are.
        action_token_ranges: first and one past the last of them that may stand at place 0, 1, 2 of
            an action, counted from action_token_begin_idx: `legal` of the action tokenizer.
            Default: the published ones, if there are 8194.
        use_spatial_token: whether they have a table of embeddings of their own, beside the words'.
        action_chunk_size: actions that `predict_action` speaks.
        geometry_dim: numbers of a geometry feature of one image token, 0 without geometry. Default:
            what the published settings below come to.
        use_vision_zoe, ego3d_patch_reso, n_freqs: of the published geometry: whether there is one,
            points along either side of a patch, frequencies of a coordinate.

    Raises:
        ValueError: action tokens that are not in the vocabulary, or hold the image token.
    """

    model_type = "spatialvla"

    action_token_begin_idx: int | None = None
    spatial_token_num: int = 8194
    action_token_ranges: list[list[int]] | None = None
    use_spatial_token: bool = True
    action_chunk_size: int = 4
    geometry_dim: int | None = None
    use_vision_zoe: bool = False
    ego3d_patch_reso: int = 2
    n_freqs: int = 8

    def __post_init__(self, **kwargs):
        given = kwargs.pop("_vocab_size", None)  # as published
        text = self.text_config
        if isinstance(text, dict):
            self.text_config = text = {"model_type": "gemma2", **text}
            # The language model alone says whether its output is tied; the outer setting, which is
            # not among the published ones, would tie it.
            self.tie_word_embeddings = text.get("tie_word_embeddings", self.tie_word_embeddings)
        elif text is not None:
            self.tie_word_embeddings = text.tie_word_embeddings
        super().__post_init__(**kwargs)
        vocabulary = self.text_config.vocab_size
        if given not in (None, vocabulary):
            raise ValueError(f"_vocab_size is {given}, vocab_size of text_config {vocabulary}")
        self.vocab_size = vocabulary
        self.hidden_size = self.text_config.hidden_size
        if self.projection_dim != self.hidden_size:
            raise ValueError(
                f"projection_dim is {self.projection_dim}, hidden_size of text_config "
                f"{self.hidden_size}: image tokens and words must be of one size"
            )
        if self.action_token_begin_idx is None:
            self.action_token_begin_idx = vocabulary - self.spatial_token_num
        if self.geometry_dim is None:
            points = self.ego3d_patch_reso**2 if self.use_vision_zoe else 0
            self.geometry_dim = 3 * points * (2 * self.n_freqs + 1)
        first, end = self.action_token_begin_idx, self.action_token_end_idx
        if first < 0 or self.spatial_token_num < TOKENS_PER_ACTION or end > vocabulary:
            raise ValueError(
                f"action tokens {first} to {end - 1} are not in a vocabulary of {vocabulary}"
            )
        if first <= self.image_token_index < end:
            raise ValueError(f"image token {self.image_token_index} is an action token")
        if self.action_token_ranges is None and self.spatial_token_num == PUBLISHED_RANGES[-1][1]:
            self.action_token_ranges = PUBLISHED_RANGES
        self._check_ranges()
        if self.action_chunk_size < 1:
            raise ValueError(f"action_chunk_size is {self.action_chunk_size}: give 1 or more")

    def _check_ranges(self) -> None:
        ranges, count = self.action_token_ranges, self.spatial_token_num
        if ranges is None:
            raise ValueError(
                f"action_token_ranges are not given, and {count} action tokens are not the "
                "published 8194: give those of the action tokenizer"
            )
        if len(ranges) != TOKENS_PER_ACTION or any(
            len(pair) != 2 or not 0 <= pair[0] < pair[1] <= count for pair in ranges
        ):
            raise ValueError(
                f"action_token_ranges {ranges} are not {TOKENS_PER_ACTION} ranges in 0..{count}"
            )

    def legal_ids(self, place: int) -> range:
        """Ids of the vocabulary that may stand at place 0, 1, 2 of an action."""
        start, stop = self.action_token_ranges[place]
        return range(self.action_token_begin_idx + start, self.action_token_begin_idx + stop)

    @property
    def action_token_end_idx(self) -> int:
        """One past the last action token."""
        return self.action_token_begin_idx + self.spatial_token_num

    @property
    def end_token_id(self) -> int:
        """Ends a row of actions; Gemma has further ones, for turns of a conversation."""
        ids = self.eos_token_id if self.eos_token_id is not None else self.text_config.eos_token_id
        return ids[0] if isinstance(ids, list | tuple) else ids

    @property
    def image_tokens(self) -> int:
        """Tokens of one image."""
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2


def published_config() -> SpatialVLAConfig:
    """The shape of the published checkpoints: 3.7 thousand million numbers without their depth
    network. Their own config.json says the same; this is for random weights."""
    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        vision_use_head=False,
    )
    return SpatialVLAConfig(
        vision_config=vision,
        text_config=Gemma2Config(vocab_size=265347, tie_word_embeddings=False),
        projection_dim=2304,
        image_token_index=257152,
        action_token_begin_idx=257153,
        use_vision_zoe=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )


def tiny_config(
    words: int,
    action_token_ranges: list[list[int]] | None = None,
    *,
    image_size: int = 56,
    patch_size: int = 14,
    hidden: int = 128,
    layers: int = 4,
    vision_layers: int = 3,
    geometry_dim: int = 0,
    action_chunk_size: int = 4,
) -> SpatialVLAConfig:
    """The shape of PaliGemma2 at a size that a CPU trains (4 M parameters by default).

    Args:
        words: tokens of the text tokenizer without the action tokens, which follow; the last word
            is the image token, and padding, end and begin are 0, 1, 2 as Gemma has them.
        action_token_ranges: see `SpatialVLAConfig`; the published ones by default.
        hidden: of words and of image tokens alike; a multiple of 32.
    """
    ranges = action_token_ranges or PUBLISHED_RANGES
    spatial_tokens = max(stop for _, stop in ranges)
    heads = max(2, hidden // 32)
    vision = SiglipVisionConfig(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=vision_layers,
        num_attention_heads=heads,
        image_size=image_size,
        patch_size=patch_size,
        vision_use_head=False,
    )
    text = Gemma2Config(
        vocab_size=words + spatial_tokens,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=2048,
        sliding_window=2048,
        tie_word_embeddings=False,
    )
    return SpatialVLAConfig(
        vision_config=vision,
        text_config=text,
        projection_dim=hidden,
        image_token_index=words - 1,
        action_token_begin_idx=words,
        spatial_token_num=spatial_tokens,
        action_token_ranges=ranges,
        action_chunk_size=action_chunk_size,
        geometry_dim=geometry_dim,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
