"""The two tokenizers: a byte-level BPE in Qwen2's manner, and a lower-cased one for the SigLIP text tower.

Every word of the benchmark is one token; any other text falls back to its bytes.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEXT_END = "</s>"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's splitting of text into words: a word takes the space before it."""
PADDING = {"padding_side": "right", "clean_up_tokenization_spaces": False}


def language_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer of the language model; every word of `texts` becomes one token."""
    tokenizer = _train(texts, [END_OF_TEXT, IM_START, IM_END])
    tokens = {"eos_token": IM_END, "pad_token": END_OF_TEXT, "extra_special_tokens": [IM_START]}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=32768, **tokens, **PADDING
    )


def text_tokenizer(texts: Iterable[str], positions: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer of the SigLIP text tower: lower case, no punctuation, ended and padded with one token."""
    words = normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " ")
    steps = [normalizers.Lowercase(), words, normalizers.Strip(), normalizers.Prepend(" ")]
    tokenizer = _train(texts, [TEXT_END], normalizers.Sequence(steps))
    end = tokenizer.token_to_id(TEXT_END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {TEXT_END}", pair=None, special_tokens=[(TEXT_END, end)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=positions, eos_token=TEXT_END, pad_token=TEXT_END, **PADDING
    )


def _train(texts: Iterable[str], special: list[str], normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, initial_alphabet=signs, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(special)
    return tokenizer
