"""Tiny random checkpoints of Qwen2.5-VL, Qwen3-VL and InternVL, as transformers writes them, with their processors."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "internvl")
TURN = (
    "{% for m in messages %}SYSTEM<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'video' %}VIDEO{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SYSTEM = (
    "{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN = [f"<|{name}|>" for name in ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")]
INTERN = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def native_tokenizer(family: str) -> Any:
    """Bytes and the family's special tokens."""
    vocab = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    own = {"extra_special_tokens": INTERN} if family == "internvl" else {}
    with TemporaryDirectory() as folder:  # transformers < 5 takes files alone
        Path(folder, "vocab.json").write_text(json.dumps(vocab))
        Path(folder, "merges.txt").write_text("")
        made = Qwen2TokenizerFast.from_pretrained(folder, eos_token="<|im_end|>", pad_token="<|endoftext|>", **own)
    named = CHAT if family == "internvl" else [*CHAT, *QWEN]
    made.add_tokens(named, special_tokens=True)
    return made


def write_native(family: str, folder: Path, *, seed: int = 0, penalty: float = 1.0, qwen2: bool = False) -> Path:
    """Write a checkpoint whose weights are wide enough that every part of the model shows in its logits.

    Args:
        family: one of FAMILIES.
        folder: where.
        seed: of the weights.
        penalty: repetition penalty of the checkpoint.
        qwen2: InternVL on Qwen2, as InternVL3, and not on Qwen3, as InternVL3.5.
    """
    torch.manual_seed(seed)
    tokenizer = native_tokenizer(family)
    end, pad = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "bos_token_id": pad,
        "eos_token_id": end,
        "pad_token_id": pad,
        "rope_theta": 1e4,
    }
    tower = {"depth": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}
    names = (("image_token", "image_pad"), ("video_token", "video_pad"))
    names += (("vision_start_token", "vision_start"), ("vision_end_token", "vision_end"))
    marks = {f"{name}_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names}
    rope: dict[str, Any] = {"rope_type": "default"}
    video, more = "<|vision_start|><|video_pad|><|vision_end|>", {}
    if family == "qwen2_5_vl":
        vision = {**tower, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2}
        own = {**text, "rope_scaling": {**rope, "mrope_section": [2, 3, 3]}}
        model: Any = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(**marks, vision_config=vision, text_config=own)
        )
        size = {"shortest_edge": 3136, "longest_edge": 12845056}
        shown = Qwen2VLVideoProcessor(cap_pixels_per_frame=False, size=size)
        parts: Any = Qwen2_5_VLProcessor, Qwen2VLImageProcessor(), shown
    elif family == "qwen3_vl":
        vision = {**tower, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2]}
        axes = {**rope, "mrope_section": [4, 4, 4], "mrope_interleaved": True}
        own = {**text, "head_dim": 24, "rope_scaling": axes}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**marks, vision_config=vision, text_config=own))
        size = {"shortest_edge": 4096, "longest_edge": 25165824}
        parts = (
            Qwen3VLProcessor,
            Qwen2VLImageProcessor(patch_size=16),
            Qwen3VLVideoProcessor(size=size, cap_pixels_per_frame=False),
        )
    else:
        seen = InternVLVisionConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=112,
            attention_bias=True,
            layer_scale_init_value=1.0,
        )
        config = InternVLConfig(
            vision_config=seen,
            text_config=Qwen2Config(**text) if qwen2 else Qwen3Config(**text, head_dim=16),
            image_seq_length=16,
            tie_word_embeddings=False,
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        )
        side = {"height": 112, "width": 112}
        model, video, more = InternVLForConditionalGeneration(config), "<video>\n", {"image_seq_length": 16}
        parts = InternVLProcessor, GotOcr2ImageProcessor(size=side), InternVLVideoProcessor(size=side)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.15)
    model.generation_config = GenerationConfig(eos_token_id=[end, pad], pad_token_id=pad, repetition_penalty=penalty)
    template = TURN.replace("SYSTEM", SYSTEM if family == "qwen2_5_vl" else "").replace("VIDEO", video)
    processor = parts[0](
        image_processor=parts[1], tokenizer=tokenizer, video_processor=parts[2], chat_template=template, **more
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
