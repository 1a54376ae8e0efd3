"""Models of real sizes with random weights, to measure time and memory without a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, SiglipModel

from lmms_kvtp.cost.flops import TextShape
from lmms_kvtp.device import check_dtype, place
from lmms_kvtp.encoders.parts.siglip_config import build_text_tower, siglip_config, text_config
from lmms_kvtp.encoders.parts.text_side import save_text_side, save_tokenizer
from lmms_kvtp.encoders.parts.tower_head import HeadShape, TowerHead
from lmms_kvtp.forecast.machine import device_memory
from lmms_kvtp.forecast.models import BASE_224, SO400M_384, Encoder, Spec
from lmms_kvtp.resolve import near
from lmms_kvtp.scorers.parts.fusion import FusionHead
from lmms_kvtp.shipped import tiny_folder
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.vlms.checkpoint.devices import Placement
from lmms_kvtp.vlms.checkpoint.load import load_tokenizer
from lmms_kvtp.vlms.checkpoint.network import build
from lmms_kvtp.vlms.llava_video import LlavaVideo
from lmms_kvtp.vlms.load_options import LoadOptions

SPREAD = 0.02
"""Standard deviation of the weights, as transformers starts models; bfloat16 stays finite with it."""
ENCODERS = ("so400m-384", "base-224", "shared")
"""Names that `random_parts` knows."""


def random_llava(spec: Spec, options: LoadOptions) -> LlavaVideo:
    """A LLaVA-Video of the sizes of `spec`, with weights drawn on their device and the embedded model's tokenizer.

    ValueError where the weights are larger than the device's memory, or it cannot compute in the dtype.
    """
    device, dtype = place(options.device, options.dtype)
    check_dtype(device, dtype)
    needed, free = spec.parameters * dtype.itemsize, device_memory(device)
    if options.device_map is None and needed > free:
        raise ValueError(
            f"random weights of {spec.name} in {dtype} take {needed / 2**30:.3g} GiB, {device} has {free / 2**30:.3g} "
            "GiB free; choose a smaller model, dtype=bfloat16, or device_map=auto on several GPUs"
        )
    network = build(spec.config, spec.vocabulary, options.attn_implementation)
    placement = Placement(device, dtype, options.device_map, options.max_memory, options.offload_folder)
    torch.manual_seed(0)
    with placement.onto(network) as put:
        for name, tensor in network.state_dict().items():
            put(name, _draw(name, tensor.shape, device, dtype))
    return LlavaVideo(
        name=f"random {spec.name}",
        config=spec.config,
        network=network,
        tokenizer=load_tokenizer(tiny_folder()),
        defaults=GenerationConfig.from_dict({"eos_token_id": spec.config.eos_token_id}),
        options=options,
        default_encoder=spec.default_encoder,
        toy=False,
    )


def _draw(name: str, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Ones for normalizations, zeros for biases, noise elsewhere."""
    if len(shape) > 1 or name == "newline":
        return torch.randn(shape, device=device, dtype=dtype).mul_(SPREAD)
    return torch.full(shape, float(name.endswith("weight")), device=device, dtype=dtype)


@dataclass(frozen=True)
class RandomParts:
    """An image-text model of random weights."""

    settings: dict[str, str]
    """Settings by which a method loads it."""
    pixel_spec: ResizedPixels
    """Pixels that its tower reads; those of the model's own tower where it has none."""


def random_parts(name: str, spec: Spec, folder: Path, vlm: LlavaVideo) -> RandomParts:
    """Write the image-text model that scores frames into `folder`, to run on the device of `vlm` in its number type.

    Its name is `so400m-384`, `base-224`, or `shared` for a head on the tower of `spec`; LookupError for another.
    """
    if name not in ENCODERS:
        raise LookupError(f"no sizes of encoder {name!r}; {near(name, list(ENCODERS))}")
    on = {"encoder.device": str(vlm.device), "encoder.pretrained": str(folder)}
    folder.mkdir(parents=True, exist_ok=True)
    FusionHead().save(folder)
    if name == "shared":  # a head for the model's own tower and a text side, as training writes them
        vision = spec.vision
        text = TextShape(vision.hidden, vision.intermediate, vision.layers + 1, vision.hidden)
        tokenizer = AutoTokenizer.from_pretrained(tiny_folder() / "siglip")
        TowerHead(HeadShape(vision.hidden, vision.intermediate, vision.heads, text.projection)).save(folder)
        tower = build_text_tower(text_config(text, vision.hidden // vision.heads, 64, len(tokenizer)))
        save_text_side(folder, tower, tokenizer, scale=2.0, bias=-10.0)
        return RandomParts({"scorer": "shared", "encoder": "tower", **on}, spec.spec(0))
    sizes = {"so400m-384": SO400M_384, "base-224": BASE_224}[name]
    write_siglip(folder, sizes)
    on["encoder.dtype"] = str(vlm.dtype).removeprefix("torch.")
    return RandomParts({"encoder": "siglip", **on}, ResizedPixels((sizes.vision.image_size, sizes.vision.image_size)))


def write_siglip(folder: Path, sizes: Encoder) -> Path:
    """Write a random SigLIP in bfloat16, with the embedded model's tokenizer, for `encoder=siglip`.

    Heads of the text tower are as wide as those of the vision tower.
    """
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder() / "siglip")
    towers = siglip_config(sizes.vision, sizes.text, sizes.positions, len(tokenizer))
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = SiglipModel(towers)
        model.to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.model_max_length = sizes.positions
    save_tokenizer(folder, tokenizer)
    return folder
