"""`backend=llava`: LLaVA-NeXT's own package loads a checkpoint, and its modules become our network."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch  # attributes that are others while a block lasts

import torch
from accelerate import init_empty_weights
from huggingface_hub import constants
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, modeling_utils, pytorch_utils

from lmms_kvtp.vlms.checkpoint.config import CheckpointError, LlavaConfig, read_json
from lmms_kvtp.vlms.checkpoint.devices import Placement, read_memory
from lmms_kvtp.vlms.checkpoint.network import Network
from lmms_kvtp.vlms.checkpoint.original import ORIGINAL

HALF = ("bfloat16", "float16")
"""Number types that the package's loader knows."""
MOVED = ("apply_chunking_to_forward", "find_pruneable_heads_and_indices", "prune_linear_layer")
"""Functions that its Q-Former imports from where older transformers had them; no model of this family has one."""
RELEASED_PATCHES = 729
"""Patches of a frame that its tower class insists on."""
INSTALL = "install its package (github.com/LLaVA-VL/LLaVA-NeXT), or leave backend out"


class PackageTower(nn.Module):
    """The package's SigLIP, read as its tower class reads it, without that class's check for 729 patches."""

    def __init__(self, siglip: nn.Module) -> None:
        """Share a SigLipVisionModel without its last layer."""
        super().__init__()
        self.siglip = siglip

    def forward(self, pixels: Float[Tensor, "T 3 h w"]) -> Float[Tensor, "T P d"]:
        """Compute the features of the patches, row by row."""
        return cast(Tensor, self.siglip(pixels, output_hidden_states=True).hidden_states[-1])


def load_package(folder: Path, config: LlavaConfig, vocabulary: int, attention: str, placement: Placement) -> Network:
    """Let LLaVA-NeXT's `load_pretrained_model` read a checkpoint; the arguments are those of `load_network`.

    Nothing of the package's input preparation or `generate` runs: tower, projector and language model are called
    between our selection and layout, and transformers' own `generate` decodes.

    CheckpointError where the checkpoint is in Hugging Face's layout, which the package does not read.
    ValueError where the package is not installed, or cannot load as asked.
    """
    if config.tensor_names != (ORIGINAL,):
        raise CheckpointError(f"backend=llava reads the original layout, {folder} is in Hugging Face's")
    if placement.strategy not in (None, "auto"):
        raise ValueError(f"device_map={placement.strategy}: backend=llava splits by device_map=auto only")
    dtype = _loaded_as(folder, placement.dtype)
    with llava_package(config) as builder:
        _, model, _, _ = builder.load_pretrained_model(
            str(folder),
            None,
            "llava_qwen",
            device_map="auto",  # with any other it wants a GPU, and casts the tower to float16
            max_memory=_memory(placement),
            offload_folder=placement.offload_folder,
            torch_dtype=dtype,
            attn_implementation=attention,
            overwrite_config={"mm_use_im_patch_token": False},  # where the field is missing it would add a token
        )
    assert model.lm_head.weight.shape[0] == vocabulary
    if placement.strategy is None:
        model.to(placement.dtype)
    return _network(model).requires_grad_(False).eval()


def mend(model: Any) -> None:
    """Fill in tower positions of a model as the package's loader made it.

    Towers and pixels of other sizes than 384 / 14 may then pass the package's own path.
    """
    tower = model.get_vision_tower()
    embeddings = tower.vision_tower.vision_model.embeddings
    # transformers 5 leaves what no file holds unset
    embeddings.position_ids = torch.arange(
        embeddings.num_positions, device=embeddings.position_embedding.weight.device
    )[None]
    if tower.num_patches != RELEASED_PATCHES:
        own = PackageTower(tower.vision_tower)
        tower.forward = lambda pixels: own(pixels.to(tower.device, tower.dtype)).to(pixels.dtype)
        tower.image_processor.size = (tower.image_size, tower.image_size)


def _network(model: Any) -> Network:
    mend(model)
    tower = model.get_vision_tower().vision_tower
    with init_empty_weights():
        llm = Qwen2ForCausalLM(model.config)  # its own class refuses embeddings, and runs the head on all
    llm.model, llm.lm_head = model.model, model.lm_head
    return Network(PackageTower(tower), model.get_model().mm_projector, model.model.image_newline, llm)


def _loaded_as(folder: Path, dtype: torch.dtype) -> str:
    """Choose the type to load in: the one asked for, or for float32 the half one of the file, which loses nothing."""
    wanted = str(dtype).removeprefix("torch.")
    own = str(read_json(folder / "config.json").get("torch_dtype"))
    found = own if wanted == "float32" else wanted
    if found not in HALF:
        raise ValueError(
            f"dtype={wanted}: LLaVA-NeXT's loader knows {' and '.join(HALF)}, and {folder} is in {own}; choose one"
        )
    return found


def _memory(placement: Placement) -> dict[str | int, int] | None:
    """Give the memory that was asked for, else all of the one device."""
    if placement.strategy:
        return read_memory(placement.max_memory)
    device = placement.device
    if device.type == "cuda":
        return {device.index or 0: torch.cuda.get_device_properties(device).total_memory}
    return {"cpu": 1 << 60}


@contextmanager
def llava_package(config: LlavaConfig) -> Iterator[Any]:
    """Import the package's loader, which can load while the block lasts; nothing is fetched from the hub.

    ValueError where the package is not installed.
    """
    with patch.object(constants, "HF_HUB_OFFLINE", True), _imported() as (builder, siglip), _fitted(siglip, config):
        yield builder


@contextmanager
def _imported() -> Iterator[tuple[Any, Any]]:
    """Import the modules of the package's loader and of its tower."""
    with patch.multiple(modeling_utils, create=True, **{name: vars(pytorch_utils).get(name) for name in MOVED}):
        try:
            from llava.model import builder
            from llava.model.multimodal_encoder import siglip_encoder
        except ImportError as error:
            raise ValueError(f"backend=llava: LLaVA-NeXT cannot be imported ({error}); {INSTALL}") from error
    yield builder, siglip_encoder


@contextmanager
def _fitted(siglip: Any, config: LlavaConfig) -> Iterator[None]:
    """Give the package's classes what they need to load under current transformers, while the block lasts."""
    from llava.model.language_model.llava_qwen import LlavaQwenConfig

    sized = partial(siglip.SigLipVisionConfig, **config.vision)

    def without_weights(_: str, device_map: object = None) -> nn.Module:
        """The checkpoint holds the tower's weights; loading others inside a loader is refused since 4.57."""
        return cast(nn.Module, siglip.SigLipVisionModel(sized()))

    # its model sets rope_scaling to None, by which transformers 5 forgets the base of the rotary embedding
    kept = property(lambda own: own.rope_parameters, lambda own, value: None)
    with ExitStack() as stack:
        stack.enter_context(patch.object(siglip, "SigLipVisionConfig", sized))
        stack.enter_context(patch.object(siglip.SigLipVisionModel, "from_pretrained", staticmethod(without_weights)))
        if "rope_parameters" in Qwen2Config().to_dict():
            stack.enter_context(patch.object(LlavaQwenConfig, "rope_scaling", kept, create=True))
        yield
