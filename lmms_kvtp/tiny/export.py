"""Writing the trained model in LLaVA-Video's original layout, with its SigLIP beside it."""

import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipModel,
    SiglipVisionConfig,
)

from lmms_kvtp.tiny.student import Geometry, Student
from lmms_kvtp.vlms.checkpoint.save import save_tokenizer

VISION_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)
WEIGHTS, MANIFEST, WORK = "model.safetensors", "sha256.json", "work"
TOWER = "model.vision_tower.vision_tower.vision_model."


def export_llava(
    folder: Path, student: Student, siglip: SiglipModel, tokenizer: PreTrainedTokenizerFast, geometry: Geometry
) -> None:
    """Write config, tokenizer and float16 weights as LLaVA-Video's own checkpoints have them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: part.half().contiguous() for name, part in _weights(student, siglip).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    size = sum(part.numel() * part.element_size() for part in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(sorted(weights), WEIGHTS)}
    _write(folder / f"{WEIGHTS}.index.json", index)
    _write(folder / "config.json", _config(student, geometry))
    vision = cast(SiglipVisionConfig, siglip.config.vision_config).to_dict()
    _write(folder / "vision_config.json", {name: vision[name] for name in VISION_FIELDS})
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    decoding = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=[eos, pad], pad_token_id=pad, do_sample=False
    )
    decoding.save_pretrained(folder)
    save_tokenizer(folder, tokenizer)


def export_siglip(folder: Path, siglip: SiglipModel, tokenizer: PreTrainedTokenizerFast, geometry: Geometry) -> None:
    """Write the image-text model as Hugging Face's `AutoModel` reads it, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = deepcopy(siglip).half()  # type: ignore[no-untyped-call]
    copy.save_pretrained(folder)
    side = geometry.image_size
    SiglipImageProcessor(size={"height": side, "width": side}, resample=3).save_pretrained(folder)
    save_tokenizer(folder, tokenizer)


def write_manifest(folder: Path) -> None:
    """Note the SHA-256 of every file below `folder`, except of the stages' results."""
    _write(folder / MANIFEST, _hashes(folder))


def _hashes(folder: Path) -> dict[str, str]:
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    shipped = {name.as_posix(): path for name, path in files.items() if name.parts[0] not in (WORK, MANIFEST)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in shipped.items()}


def _weights(student: Student, siglip: SiglipModel) -> dict[str, Tensor]:
    weights = dict(student.llm.state_dict())
    weights["model.image_newline"] = student.newline.detach()
    weights |= {f"model.mm_projector.{name}": part for name, part in student.projector.state_dict().items()}
    dropped = f"encoder.layers.{cast(SiglipVisionConfig, siglip.config.vision_config).num_hidden_layers - 1}."
    for name, part in siglip.vision_model.state_dict().items():
        if not name.startswith((dropped, "head.")):
            weights[TOWER + name] = part
    return {name: part.detach().to("cpu", torch.float32) for name, part in weights.items()}


def _config(student: Student, geometry: Geometry) -> dict[str, Any]:
    llm = student.llm.config
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "hidden_size": llm.hidden_size,
        "intermediate_size": llm.intermediate_size,
        "num_hidden_layers": llm.num_hidden_layers,
        "num_attention_heads": llm.num_attention_heads,
        "num_key_value_heads": llm.num_key_value_heads,
        "max_position_embeddings": llm.max_position_embeddings,
        "rms_norm_eps": llm.rms_norm_eps,
        "rope_theta": geometry.rope_theta,
        "rope_scaling": None,
        "vocab_size": llm.vocab_size,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "bos_token_id": llm.bos_token_id,
        "eos_token_id": llm.eos_token_id,
        "torch_dtype": "float16",
        "add_faster_video": False,
        "add_time_instruction": False,
        "force_sample": False,
        "image_aspect_ratio": "square",
        "mm_hidden_size": geometry.vision_width,
        "mm_newline_position": "grid",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_spatial_pool_mode": "average",
        "mm_spatial_pool_stride": 2,
        "mm_tunable_parts": "mm_mlp_adapter,mm_language_model",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "siglip",
        "tokenizer_model_max_length": llm.max_position_embeddings,
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
    }


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
