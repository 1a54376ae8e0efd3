"""What config.json says of a checkpoint in Hugging Face's layout, that of transformers' LlavaOnevision classes."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, cast

from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

from lmms_kvtp.vlms.checkpoint.config import LLM_FIELDS, VISION, CheckpointError, LlavaConfig, TensorNames
from lmms_kvtp.vlms.tiles import read_tiling

SUPPORTED = {
    "vision_feature_select_strategy": "full",
    "projector_hidden_act": "gelu",
    "multimodal_projector_bias": True,
}
"""Fields that change the computation, and the one value that this family has."""
PARTS = {"text_config": "qwen2", "vision_config": "siglip_vision_model"}
MARKERS = ("image_token_index", "video_token_index", "image_token_id", "video_token_id")


def _tensor_names(tower: str, old: bool) -> TensorNames:
    inside = "" if old else "model."
    llm = {"llm.": "language_model."} if old else {"llm.model.": "model.language_model.", "llm.": ""}
    return TensorNames(
        {
            "tower.": f"{inside}vision_tower.{tower}",
            "projector.0.": f"{inside}multi_modal_projector.linear_1.",
            "projector.2.": f"{inside}multi_modal_projector.linear_2.",
            "newline": f"{inside}image_newline",
            **llm,
        }
    )


HUGGING_FACE = tuple(_tensor_names(tower, old) for tower, old in product(("vision_model.", ""), (True, False)))
"""Names of transformers' LlavaOnevision classes, which changed between releases."""


def read_hugging_face(config: Mapping[str, Any], folder: Path) -> LlavaConfig:
    """Read the parsed config.json.

    Newlines stand as in transformers' class, one behind the video, unless `mm_newline_position` is among the fields:
    the layout has no field of its own for them. CheckpointError names a family or variant that is not supported.
    """
    where = f"{folder}/config.json"
    if config.get("model_type") != "llava_onevision":
        raise CheckpointError(
            f"{where} is of another family, model_type {config.get('model_type')!r}; of Hugging Face's layouts "
            "llava_onevision is read"
        )
    for field, value in SUPPORTED.items():
        if config.get(field, value) != value:
            raise CheckpointError(f"{field}={config[field]!r} in {where} is not supported; known: {value!r}")
    for part, kind in PARTS.items():
        if config.get(part, {}).get("model_type", kind) != kind:
            raise CheckpointError(f"{part} of {where} is of type {config[part]['model_type']!r}; known: {kind!r}")
    text = _filled(Qwen2Config(**config["text_config"]), where)
    vision = {**SiglipVisionConfig(**config.get("vision_config", {})).to_dict()}
    defaults = LlavaOnevisionConfig()  # for fields that a file leaves out
    tied = config["text_config"].get("tie_word_embeddings", False) or config.get("tie_word_embeddings", False)
    return LlavaConfig(
        llm={name: text[name] for name in LLM_FIELDS} | {"tie_word_embeddings": bool(tied)},
        vision={name: vision[name] for name in VISION}
        | {"num_hidden_layers": _layers_that_run(config, vision["num_hidden_layers"], where) + 1},
        pool_mode=config.get("mm_spatial_pool_mode", "bilinear"),
        newline_position=config.get("mm_newline_position", "one_token"),
        merge_type=config.get("mm_patch_merge_type", "spatial_unpad"),
        limit=min(
            config.get("tokenizer_model_max_length") or text["max_position_embeddings"], text["max_position_embeddings"]
        ),
        eos_token_id=text.get("eos_token_id"),
        tensor_names=HUGGING_FACE,
        tiling=read_tiling(
            config.get("vision_aspect_ratio", defaults.vision_aspect_ratio),
            config.get("image_grid_pinpoints", defaults.image_grid_pinpoints),
            config.get("mm_patch_merge_type", "spatial_unpad"),
            vision["image_size"],
            vision["image_size"] // vision["patch_size"],
            hugging_face=True,
        ),
        markers=tuple(config[name] for name in MARKERS if name in config),
    )


def _layers_that_run(config: Mapping[str, Any], layers: int, where: str) -> int:
    """Count the layers up to the one whose output is read; -1 stands for the last."""
    layer = config.get("vision_feature_layer", -1)
    if not isinstance(layer, int) or not -layers <= layer < 0:
        raise CheckpointError(f"vision_feature_layer={layer!r} in {where} is not supported; known: -{layers} to -1")
    return layers + 1 + layer


def _filled(config: Qwen2Config, where: str) -> dict[str, Any]:
    """Give all fields, also those that a file leaves out.

    CheckpointError where positions are scaled, or a window slides: no released checkpoint of the family has either.
    """
    values = config.to_dict()
    rope = cast(Mapping[str, Any], values.get("rope_parameters") or values)  # transformers < 5 has rope_theta alone
    scaling = rope.get("rope_scaling") or rope
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default" or values.get("use_sliding_window"):
        raise CheckpointError(
            f"text_config of {where} has rope type {kind!r} and use_sliding_window={values.get('use_sliding_window')}; "
            "known: 'default' and False"
        )
    return values | {"rope_theta": rope["rope_theta"]}
