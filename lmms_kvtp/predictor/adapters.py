"""LoRA adapters in the towers of a predictor, through peft."""

from typing import Any

from lmms_kvtp.predictor.recipe import Recipe
from lmms_kvtp.predictor.towers import Towers

LAYERS = r".*encoder\.layers\.\d+\..*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
"""The matrices of transformer layers; embeddings and pooling heads stay as they are."""


def add_adapters(towers: Towers, recipe: Recipe) -> Any:
    """Put adapters into the towers that the recipe trains; their own weights stay as they are.

    Returns:
        What `merge_adapters` takes.
    """
    from peft import LoraConfig, LoraModel

    where = LAYERS if recipe.parts == "all" else rf".*text_model\.{LAYERS[2:]}"
    config = LoraConfig(r=recipe.lora_rank, lora_alpha=2 * recipe.lora_rank, target_modules=where, lora_dropout=0.0)
    adapters = LoraModel(towers, config, "default")
    prefixes = ("logit_scale", "logit_bias")
    for name, parameter in towers.named_parameters():
        parameter.requires_grad_("lora_" in name or name.endswith(prefixes) or name.startswith("head."))
    return adapters


def merge_adapters(adapters: Any) -> None:
    """Add what the adapters learned to the weights, and take the adapters out again."""
    adapters.merge_and_unload()
