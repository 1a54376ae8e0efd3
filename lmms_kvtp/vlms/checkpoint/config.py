"""What config.json of a LLaVA-Video checkpoint says; of the original layout by hand, as its model_type varies."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_kvtp.vlms.checkpoint.tensor_names import ORIGINAL, Layout
from lmms_kvtp.vlms.tiles import Tiling, read_tiling

SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
"""google/siglip-so400m-patch14-384, the tower of every released checkpoint; their config.json leaves its sizes out."""
TOWER = "siglip-so400m-patch14-384"

LLM_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "vocab_size",
)
MM_FIELDS = ("mm_vision_tower", "mm_projector_type", "mm_hidden_size")
SUPPORTED = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_resampler_type": (None,),
    "mm_use_im_start_end": (False,),
    "add_faster_video": (False,),
    "use_sliding_window": (False,),
    "hidden_act": ("silu",),
}
"""Fields that change the computation, and the values that the released checkpoints of the family have."""
WANTED = (
    "wanted a LLaVA-Video or LLaVA-OneVision checkpoint on Qwen2, in its original layout (LlavaQwenForCausalLM) or "
    "Hugging Face's (LlavaOnevisionForConditionalGeneration)"
)


class CheckpointError(ValueError):
    """A folder holds no checkpoint that this package can read; the message says what was found and what was wanted."""


@dataclass(frozen=True)
class LlavaConfig:
    """Sizes and switches of one checkpoint."""

    llm: dict[str, Any]
    """Fields of Qwen2Config."""
    vision: dict[str, Any]
    """Fields of SiglipVisionConfig, with all layers of the original tower."""
    pool_mode: str
    newline_position: str
    merge_type: str
    limit: int
    """Positions of the longest prompt."""
    eos_token_id: int | None
    layouts: tuple[Layout, ...] = (ORIGINAL,)
    """How its tensors may be named."""
    markers: tuple[int, ...] = ()
    """Tokens that stand for an image or a video in a text, and that no answer holds."""
    tiling: Tiling | None = None
    """The way with images; None where the checkpoint has none, or one that does not fit its tower."""

    def vocabulary(self, entries: int) -> int:
        """Entries of the tokenizer that an answer may hold: all but the markers behind the others."""
        while entries - 1 in self.markers:
            entries -= 1
        return entries

    @property
    def vision_layers(self) -> int:
        """Layers of the tower that run: the model was trained on the output of the last but one."""
        return int(self.vision["num_hidden_layers"]) - 1


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: it is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, wanted an object")
    return value


def read_config(folder: Path) -> LlavaConfig:
    """Read config.json, and vision_config.json where a checkpoint has a tower of other sizes.

    Raises:
        CheckpointError: the folder holds something else, or a variant that is not supported; the message names it.
    """
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"{folder} has no config.json, found {found}; {WANTED}")
    config = read_json(folder / "config.json")
    if "text_config" in config:
        from lmms_kvtp.vlms.checkpoint.hugging_face import read_hf_config

        return read_hf_config(config, folder)
    _check_family(config, folder)
    for field, values in SUPPORTED.items():
        if config.get(field, values[0]) not in values:
            known = ", ".join(map(repr, values))
            raise CheckpointError(f"{field}={config[field]!r} in {folder}/config.json is not supported; known: {known}")
    vision = _vision(config, folder)
    positions = int(config["max_position_embeddings"])
    return LlavaConfig(
        llm={name: config[name] for name in LLM_FIELDS}
        | {"tie_word_embeddings": bool(config.get("tie_word_embeddings", False))},
        vision=vision,
        pool_mode=config.get("mm_spatial_pool_mode", "bilinear"),
        newline_position=config.get("mm_newline_position", "one_token"),
        merge_type=config.get("mm_patch_merge_type", "flat"),
        limit=min(int(config.get("tokenizer_model_max_length") or positions), positions),
        eos_token_id=config.get("eos_token_id"),
        tiling=read_tiling(
            config.get("image_aspect_ratio"),
            config.get("image_grid_pinpoints"),
            config.get("mm_patch_merge_type", "flat"),
            vision["image_size"],
            vision["image_size"] // vision["patch_size"],
        ),
    )


def _check_family(config: Mapping[str, Any], folder: Path) -> None:
    architectures = config.get("architectures") or []
    described = f"{folder}/config.json (architectures {architectures}, model_type {config.get('model_type')!r})"
    missing = [name for name in MM_FIELDS if name not in config]
    if missing:
        raise CheckpointError(f"{described} lacks {', '.join(missing)}; {WANTED}")
    if architectures and not any("Qwen" in name for name in architectures):
        raise CheckpointError(f"{described} is of another family; {WANTED}")
    missing = [name for name in LLM_FIELDS if name not in config]
    if missing:
        raise CheckpointError(f"{described} lacks {', '.join(missing)} of the language model; {WANTED}")


def _vision(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    if (folder / "vision_config.json").is_file():
        given = read_json(folder / "vision_config.json")
        missing = sorted(set(SO400M) - set(given))
        if missing:
            raise CheckpointError(f"{folder}/vision_config.json lacks {', '.join(missing)}")
        vision = {name: given[name] for name in SO400M}
    elif str(config["mm_vision_tower"]).rstrip("/").endswith(TOWER):
        vision = dict(SO400M)
    else:
        raise CheckpointError(
            f"mm_vision_tower={config['mm_vision_tower']!r} in {folder}/config.json is unknown, known is {TOWER}; "
            "a tower of other sizes needs a vision_config.json beside it"
        )
    if vision["hidden_size"] != config["mm_hidden_size"]:
        raise CheckpointError(
            f"mm_hidden_size={config['mm_hidden_size']} in {folder}/config.json, but the tower's width is "
            f"{vision['hidden_size']}"
        )
    return vision
