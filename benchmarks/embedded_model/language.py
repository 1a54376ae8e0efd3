"""The two tokenizers, and the language model's pass over videos and several questions on each.

The tokenizers are a byte-level BPE in Qwen2's manner, and a lower-cased one for the SigLIP text tower. Every word of
the benchmark is one token; any other text falls back to its bytes.

The pass is on transformers' own Qwen2 modules. It equals their forward under the block mask, and skips what training
does not need: the upper triangle of the video's attention, and the video's last layer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2DecoderLayer, apply_rotary_pos_emb

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEXT_END = "</s>"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's splitting of text into words: a word takes the space before it."""
PADDING = {"padding_side": "right", "clean_up_tokenization_spaces": False}

PREFIX = f"{IM_START}system\nYou are a helpful assistant.{IM_END}\n{IM_START}user\n"
SUFFIX = f"{IM_END}\n{IM_START}assistant\n"
IGNORE = -100

Asked = tuple[str, str]
"""A prompt and the letter, or the word, that answers it."""


@dataclass(frozen=True)
class Packed:
    """The text behind a batch of videos. Axes: r = videos x rows of each, S text positions."""

    ids: Int[Tensor, "r S"]
    positions: Int[Tensor, "r S"]
    """Position behind the video: every question starts at 0."""
    visible: Bool[Tensor, "r 1 S S"]
    """Whether a text position sees another; all of them see the whole video."""
    targets: Int[Tensor, "r S"]
    """Id of the next token where that is part of an answer, else IGNORE."""

    def to(self, device: torch.device) -> "Packed":
        """Move everything to another device."""
        return Packed(*(part.to(device) for part in vars(self).values()))


def language_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer of the language model; every word of `texts` becomes one token."""
    tokenizer = _train(texts, [END_OF_TEXT, IM_START, IM_END])
    tokens = {"eos_token": IM_END, "pad_token": END_OF_TEXT, "additional_special_tokens": [IM_START]}
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


def word_id(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """Find the one token of a word inside a sentence; ValueError where the tokenizer splits the word."""
    ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"{word!r} is {len(ids)} tokens, not 1; train the tokenizer on a text that has it")
    return int(ids[0])


def pack(
    tokenizer: PreTrainedTokenizerBase, batch: Sequence[Sequence[Asked]], per_row: int, suffix: str = SUFFIX
) -> Packed:
    """Write all questions of each video in rows of `per_row`; every video has equally many rows.

    Few to a row cost less when videos are short, many when they are long. `suffix` stands before the answers.
    """
    rows = [video[i : i + per_row] for video in batch for i in range(0, len(video), per_row)]
    texts = [f"\n{prompt}{suffix}{letter}{IM_END}" for row in rows for prompt, letter in row]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    tokens = [[next(encoded) for _ in row] for row in rows]
    shape = (len(rows), max(sum(map(len, row)) for row in tokens))
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    segment, targets = torch.full(shape, -1), torch.full(shape, IGNORE)
    for r, row in enumerate(tokens):
        start = 0
        for index, question in enumerate(row):
            end = start + len(question)
            ids[r, start:end], segment[r, start:end] = torch.tensor(question), index
            positions[r, start:end] = torch.arange(len(question))
            targets[r, end - 3 : end - 1] = ids[r, end - 2 : end]
            start = end
    visible = (segment[:, :, None] == segment[:, None]) & torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
    return Packed(ids, positions, visible[:, None], targets)


Rotary = tuple[Tensor, Tensor]


def answer_logits(
    llm: Qwen2ForCausalLM, video: Float[Tensor, "b C D"], text: Packed
) -> tuple[Float[Tensor, "m V"], Int[Tensor, " m"]]:
    """Compute the logits at every position with a target, and those targets; `video` includes the prompt before it."""
    backbone = llm.model
    words = backbone.embed_tokens(text.ids)
    length, rows = video.shape[1], len(words) // len(video)
    before = torch.arange(length, device=video.device)[None]
    rotary = backbone.rotary_emb(video, before), backbone.rotary_emb(words, text.positions + length)
    whole = torch.ones(*text.visible.shape[:3], length, dtype=torch.bool, device=video.device)
    visible = torch.cat([whole, text.visible], dim=-1)
    for index, module in enumerate(backbone.layers):
        layer, last = cast(Qwen2DecoderLayer, module), index == len(backbone.layers) - 1
        attention = layer.self_attn
        query, key, value = _project(attention, layer.input_layernorm(video), rotary[0])
        asked, keys, values = _project(attention, layer.input_layernorm(words), rotary[1])
        keys = torch.cat([key.repeat_interleave(rows, 0), keys], dim=2)
        values = torch.cat([value.repeat_interleave(rows, 0), values], dim=2)
        words = _finish(layer, words, _attend(asked, keys, values, visible))
        if not last:
            video = _finish(layer, video, _attend(query, key, value, None))
    wanted = text.targets != IGNORE
    logits: Tensor = llm.lm_head(backbone.norm(words[wanted]))
    return logits, text.targets[wanted]


def _project(attention: Qwen2Attention, normed: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    def heads(projection: nn.Module) -> Tensor:
        split: Tensor = projection(normed).unflatten(-1, (-1, attention.head_dim))
        return split.transpose(1, 2).float()

    query, key = heads(attention.q_proj), heads(attention.k_proj)
    groups = attention.num_key_value_groups
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    return query, key.repeat_interleave(groups, 1), heads(attention.v_proj).repeat_interleave(groups, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    # float32: the bfloat16 backward of attention is slow on CPU
    with torch.autocast(query.device.type, enabled=False):
        mixed = F.scaled_dot_product_attention(query, key, value, visible, is_causal=visible is None)
    return mixed.transpose(1, 2).flatten(2)


def _finish(layer: Qwen2DecoderLayer, hidden: Tensor, mixed: Tensor) -> Tensor:
    hidden = hidden + layer.self_attn.o_proj(mixed)
    update: Tensor = layer.mlp(layer.post_attention_layernorm(hidden))
    return hidden + update
