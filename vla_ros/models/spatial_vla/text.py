"""The text tokenizer: Gemma's where a folder has it, else a small one made from given texts."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, EOS, BOS, IMAGE = "<pad>", "<eos>", "<bos>", "<image>"
ACTION = "<ACTION{:05d}>"


def small_text_tokenizer(texts: Iterable[str], size: int = 2048) -> PreTrainedTokenizerFast:
    """Byte pairs of some texts, with Gemma's special tokens and the image token at the end.

    Any text can be said with it; the words it was made of take the fewest tokens. The same texts
    give the same tokenizer.

    Args:
        texts: words or sentences.
        size: tokens at most, 260 or more, of which 256 are bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        special_tokens=[PAD, EOS, BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        additional_special_tokens=[IMAGE],
        padding_side="left",
    )


def add_action_tokens(tokenizer: PreTrainedTokenizerBase, count: int) -> int:
    """Let a text tokenizer end with `count` action tokens, and return the id of the first.

    Nothing is added if it has them already, as those of published checkpoints do.

    Raises:
        ValueError: it has other action tokens, or they do not stand one after the other.
    """
    names = [ACTION.format(i) for i in range(count)]
    known = tokenizer.get_vocab()
    if ACTION.format(count) in known:
        raise ValueError(f"the text tokenizer has more than {count} action tokens: another grid?")
    if names[0] not in known:
        tokenizer.add_tokens(names, special_tokens=True)
        known = tokenizer.get_vocab()
    first = known[names[0]]
    wrong = next((name for i, name in enumerate(names) if known.get(name) != first + i), None)
    if wrong:
        raise ValueError(f"the text tokenizer lacks {wrong}, or has it in another place")
    return first
