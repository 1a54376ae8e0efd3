"""Write sizes of released Qwen2.5-VL, Qwen3-VL and InternVL, for forecasts.

python benchmarks/released_sizes.py

What is given here is of the released config.json, as far as it differs from the defaults of transformers' classes; what
is written comes from the back ends on these classes. The tokenizer knows bytes, markers and the words that processors
write around frames (`Frame`, ` seconds`), so such text has as many tokens as with the released one; chat templates are
the families' turns and no more. The tests hold the layout of a forecast to these processors.
"""

import json
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from lmms_kvtp.vlms.base import LoadOptions, back_end
from lmms_kvtp.vlms.native import NativeVLM
from lmms_kvtp.vlms.released import SIZES

WORDS = ("Frame", "Ġseconds")
MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN = [f"<|{name}|>" for name in ("vision_start", "vision_end", "image_pad", "video_pad")]
INTERN = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'video' %}VIDEO"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
TEXT = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
QWEN3 = {"head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 262144}
QWEN2_5_VL = {  # TEXT, vocabulary, width of the tower's MLP
    "Qwen/Qwen2.5-VL-3B-Instruct": ((2048, 11008, 36, 16, 2), 151936, 3420),
    "Qwen/Qwen2.5-VL-7B-Instruct": ((3584, 18944, 28, 28, 4), 152064, 3420),
    "Qwen/Qwen2.5-VL-32B-Instruct": ((5120, 27648, 64, 40, 8), 152064, 3456),
    "Qwen/Qwen2.5-VL-72B-Instruct": ((8192, 29568, 80, 64, 8), 152064, 3456),
}
QWEN3_VL = {  # TEXT; depth, width, width of the MLP of the tower; its layers whose features DeepStack adds
    "Qwen/Qwen3-VL-2B-Instruct": ((2048, 6144, 28, 16, 8), (24, 1024, 4096), [5, 11, 17]),
    "Qwen/Qwen3-VL-4B-Instruct": ((2560, 9728, 36, 32, 8), (24, 1024, 4096), [5, 11, 17]),
    "Qwen/Qwen3-VL-8B-Instruct": ((4096, 12288, 36, 32, 8), (27, 1152, 4304), [8, 16, 24]),
    "Qwen/Qwen3-VL-32B-Instruct": ((5120, 25600, 64, 64, 8), (27, 1152, 4304), [8, 16, 24]),
}
INTERNVL = {  # TEXT, vocabulary
    "OpenGVLab/InternVL3-1B-hf": ((896, 4864, 24, 14, 2), 151674),
    "OpenGVLab/InternVL3-2B-hf": ((1536, 8960, 28, 12, 2), 151674),
    "OpenGVLab/InternVL3-8B-hf": ((3584, 18944, 28, 28, 4), 151674),
    "OpenGVLab/InternVL3-14B-hf": ((5120, 13824, 48, 40, 8), 151674),
    "OpenGVLab/InternVL3_5-1B-HF": ((1024, 3072, 28, 16, 8), 151936),
    "OpenGVLab/InternVL3_5-2B-HF": ((2048, 6144, 28, 16, 8), 151936),
    "OpenGVLab/InternVL3_5-4B-HF": ((2560, 9728, 36, 32, 8), 151936),
    "OpenGVLab/InternVL3_5-8B-HF": ((4096, 12288, 36, 32, 8), 151936),
    "OpenGVLab/InternVL3_5-14B-HF": ((5120, 17408, 40, 40, 8), 151936),
}
"""Those with the tower of 300M parameters; 38B and 78B have another."""


@cache
def tokenizer(family: str) -> Any:
    """Bytes, the words of `WORDS` by merges, and the family's markers."""
    merges, pieces = [], sorted(pre_tokenizers.ByteLevel.alphabet())
    for word in WORDS:
        for end in range(1, len(word)):
            merges.append(f"{word[:end]} {word[end]}")
            pieces.append(word[: end + 1])
    own = {"extra_special_tokens": INTERN} if family == "internvl" else {}
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary))
        Path(folder, "merges.txt").write_text("\n".join(merges))
        made = Qwen2TokenizerFast.from_pretrained(folder, eos_token="<|im_end|>", pad_token="<|endoftext|>", **own)
    made.add_tokens(MARKERS if family == "internvl" else [*MARKERS, *QWEN], special_tokens=True)
    return made


def processor(family: str) -> Any:
    """The family's processor around that tokenizer."""
    words = tokenizer(family)
    video = "<video>\n" if family == "internvl" else "<|vision_start|><|video_pad|><|vision_end|>"
    told = {"tokenizer": words, "chat_template": TURNS.replace("VIDEO", video)}
    if family == "internvl":
        side = {"height": 448, "width": 448}
        image, shown = GotOcr2ImageProcessor(size=side), InternVLVideoProcessor(size=side)
        return InternVLProcessor(image_processor=image, video_processor=shown, image_seq_length=256, **told)
    if family == "qwen2_5_vl":
        shown = Qwen2VLVideoProcessor(size={"shortest_edge": 3136, "longest_edge": 12845056})
        return Qwen2_5_VLProcessor(image_processor=Qwen2VLImageProcessor(), video_processor=shown, **told)
    image, shown = Qwen2VLImageProcessor(patch_size=16), Qwen3VLVideoProcessor()
    return Qwen3VLProcessor(image_processor=image, video_processor=shown, **told)


def configs() -> dict[str, dict[str, Any]]:
    """Configs by hub id, as far as costs depend on them."""
    found = {}
    window = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "fullatt_block_indexes": [7, 15, 23, 31]}
    for name, (text, words, wide) in QWEN2_5_VL.items():
        own = {**dict(zip(TEXT, text, strict=True)), "vocab_size": words, "max_position_embeddings": 128000}
        own["rope_scaling"] = {"rope_type": "default", "mrope_section": [16, 24, 24]}
        tower = {**window, "intermediate_size": wide, "out_hidden_size": text[0]}
        found[name] = _config("qwen2_5_vl", own, tower, tie_word_embeddings=name.endswith("3B-Instruct"))
    for name, (text, (depth, width, wide), deep) in QWEN3_VL.items():
        own = {**dict(zip(TEXT, text, strict=True)), **QWEN3}
        own["rope_scaling"] = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
        tower = {"depth": depth, "hidden_size": width, "intermediate_size": wide, "out_hidden_size": text[0]}
        tower["deepstack_visual_indexes"] = deep
        found[name] = _config("qwen3_vl", own, tower, tie_word_embeddings=depth == 24)
    for name, (text, words) in INTERNVL.items():
        kind = "qwen3" if "3_5" in name else "qwen2"
        own = {"model_type": kind, **dict(zip(TEXT, text, strict=True)), "vocab_size": words}
        own["max_position_embeddings"] = 40960 if kind == "qwen3" else 32768
        own |= {"head_dim": 128} if kind == "qwen3" else {}
        tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
        tower |= {"image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True}
        found[name] = _config("internvl", own, tower, tie_word_embeddings=False)
    return found


def _config(family: str, text: dict[str, Any], tower: dict[str, Any], **more: Any) -> dict[str, Any]:
    ids = tokenizer(family).convert_tokens_to_ids
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    marks = dict(zip(("image", "video", "vision_start", "vision_end"), names, strict=True))
    own = {f"{name}_token_id": ids(f"<|{marker}|>") for name, marker in marks.items()}
    own = {"image_token_id": ids("<IMG_CONTEXT>")} if family == "internvl" else own
    text |= more  # where transformers < 5 looks for it
    return {"model_type": family, **own, **more, "text_config": text, "vision_config": tower}


def model(name: str, options: LoadOptions) -> NativeVLM:
    """A released model without weights, on transformers' class."""
    config = configs()[name]
    chosen = back_end(config["model_type"])
    assert issubclass(chosen, NativeVLM)
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config))
    return chosen(name, network, processor(chosen.family), options)


def sizes(vlm: NativeVLM) -> dict[str, Any]:
    """What costs depend on in a model."""
    shapes = {"llm": asdict(vlm.llm), "vision": asdict(vlm.vision)}
    return {"name": vlm.name, "family": vlm.family, "limit": vlm.limit, "parameters": vlm.parameters, **shapes}


def main() -> None:
    """Write all of them, one in a line."""
    lines = [f'"{name}": {json.dumps(sizes(model(name, LoadOptions())))}' for name in configs()]
    SIZES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
