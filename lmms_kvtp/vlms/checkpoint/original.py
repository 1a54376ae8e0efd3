"""What config.json says of a checkpoint in the original layout; it is read by hand, as its model_type varies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_kvtp.vlms.checkpoint.config import (
    LLM_FIELDS,
    VISION,
    WANTED,
    CheckpointError,
    LlavaConfig,
    TensorNames,
    read_json,
)
from lmms_kvtp.vlms.tiles import read_tiling

TOWER = "siglip-so400m-patch14-384"
"""The tower whose sizes config.json leaves out."""
RELEASED = Path(__file__).with_name("released.json")
"""Fields of config.json that the released checkpoints of LLaVA-Video share."""
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
ORIGINAL = TensorNames(
    {
        "tower.": "model.vision_tower.vision_tower.vision_model.",
        "projector.": "model.mm_projector.",
        "newline": "model.image_newline",
        "llm.": "",
    }
)
"""Names of LLaVA-NeXT's own code."""


def read_original(config: Mapping[str, Any], folder: Path) -> LlavaConfig:
    """Read the parsed config.json, and vision_config.json where a checkpoint has a tower of other sizes.

    CheckpointError names a family or variant that is not supported.
    """
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
        tensor_names=(ORIGINAL,),
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
        missing = sorted(set(VISION) - set(given))
        if missing:
            raise CheckpointError(f"{folder}/vision_config.json lacks {', '.join(missing)}")
        vision = {name: given[name] for name in VISION}
    elif str(config["mm_vision_tower"]).rstrip("/").endswith(TOWER):
        vision = dict(VISION)
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
