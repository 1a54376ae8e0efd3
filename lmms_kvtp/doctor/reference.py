"""Compares logits and answers of a model with transformers' own class, LLaVA-NeXT's package and published values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from math import isqrt
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, SiglipVisionConfig

from lmms_kvtp.types import GenerationOptions, Prompt, Timing
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms import decoding
from lmms_kvtp.vlms.base import VideoVLM
from lmms_kvtp.vlms.checkpoint.hugging_face import HUGGING_FACE
from lmms_kvtp.vlms.checkpoint.load import choose, find_folder, read_config
from lmms_kvtp.vlms.checkpoint.network import VisionTower
from lmms_kvtp.vlms.llava_video import LlavaVideo, load_llava_video
from lmms_kvtp.vlms.native import NativeVLM


def transformers_model(vlm: LlavaVideo) -> LlavaOnevisionForConditionalGeneration:
    """Build transformers' own class of the family on the weights of `vlm`, which the two share."""
    network = vlm.network
    vision, text = cast(SiglipVisionConfig, cast(VisionTower, network.tower).encoder.config), network.llm.config
    rows = text.vocab_size
    config = LlavaOnevisionConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=rows,
        video_token_index=rows + 1,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    config._attn_implementation = text._attn_implementation
    with init_empty_weights(include_buffers=False):
        model = LlavaOnevisionForConditionalGeneration(config)
    own, names = network.state_dict(), model.state_dict()
    layout = choose(HUGGING_FACE, list(own), names)
    shared = {layout.name(name): tensor for name, tensor in own.items()}
    size, dtype = vlm.vision.hidden, vlm.dtype
    norm = {name: torch.ones(size, dtype=dtype) for name in layout.unused if name in names}  # what it returns is unused
    model.load_state_dict({name: shared.get(name, norm.get(name)) for name in names}, assign=True)
    nn.Module.to(model, vlm.device)  # in no number type: rotary frequencies stay in float32
    nn.Module.eval(model)
    return model


def pool_by(model: LlavaOnevisionForConditionalGeneration, mode: str) -> None:
    """Let this model pool frames by `mode` (bilinear, average or max); transformers' class is always bilinear.

    Source: LLaVA-NeXT's `get_2dPool`: average and max have windows and strides of 2, and drop an odd row and column.
    """
    if mode == "bilinear":
        return

    def pool(features: Float[Tensor, "T P D"]) -> Float[Tensor, "T N D"]:
        side = isqrt(features.shape[1])
        grid = features.transpose(1, 2).reshape(len(features), -1, side, side)
        half = F.max_pool2d(grid, 2, 2) if mode == "max" else F.avg_pool2d(grid, 2, 2)
        return half.flatten(2).transpose(1, 2)

    model.model.apply_pooling = pool


PUBLISHED = {"LLaVA-Video-7B-Qwen2": ((1.8369, 3.4141, 1.2607), (-1.1689, -1.5059, 1.4453), (3.0625, 6.0078, 11.7266))}
"""Logits of token ids 0 to 2 after each of the first three tokens of every prompt, which come before any visual.

Source: the script that converts this family for transformers records them, in float16, as extended for this
checkpoint; see docs/models.md.
"""
QUESTION = "What happens in the video?"


@dataclass(frozen=True)
class Parity:
    """Our logits and those of a reference."""

    name: str
    ours: Tensor
    reference: Tensor
    tolerance: float
    """Largest difference that rounding explains."""

    @property
    def difference(self) -> float:
        """Largest difference between two logits."""
        return float((self.ours.float() - self.reference.float()).abs().max())

    @property
    def passed(self) -> bool:
        """Whether they agree within the tolerance."""
        return self.difference <= self.tolerance


def reference_logits(vlm: VideoVLM, frames: Frames | None = None, question: str = QUESTION) -> list[Parity]:
    """Compare a model's logits, without pruning, with every reference there is for it.

    A model that runs LLaVA-NeXT's package (`backend=llava`) is itself the reference, for our own modules, which load
    the checkpoint once more. Without `frames`, the prompt has random ones. ValueError where the model is split over
    devices.
    """
    if isinstance(vlm, NativeVLM):
        return [_of_stock_class(vlm, frames or _noise(6), question)]
    if not isinstance(vlm, LlavaVideo):
        raise ValueError(f"there is no other implementation of {type(vlm).__name__}")
    against = _of_package if vlm.options.backend == "llava" else _of_transformers
    checks = [against(vlm, frames or _noise(), question)]
    checks += [_published(vlm, name) for name in PUBLISHED if name in vlm.name]
    return checks


@torch.inference_mode()
def _of_stock_class(vlm: NativeVLM, frames: Frames, question: str) -> Parity:
    """Compare with the stock class on what the processor makes of the whole video: tower, prompt and positions."""
    inputs = vlm.stock_inputs(frames, Timing.of(frames.times), question)
    ours = vlm.next_token_logits(vlm.assemble([vlm.encode(frames).whole()], question))
    return Parity(vlm.class_name, ours, vlm.model(**inputs).logits[0, -1], tolerance(vlm.dtype))


@torch.inference_mode()
def _of_transformers(vlm: LlavaVideo, frames: Frames, question: str) -> Parity:
    """Compare with transformers' tower, projector, pooling and language model, and with newlines placed one by one.

    How frames are pooled and where newlines stand is read again from checkpoint and options, not from the model.
    """
    if vlm.options.device_map is not None:
        raise ValueError(f"device_map={vlm.options.device_map}: the comparison needs a model on one device")
    options, config = vlm.options, read_config(find_folder(vlm.name, vlm.options.revision))
    pooling = options.mm_spatial_pool_mode or config.pool_mode
    position = options.mm_newline_position or config.newline_position
    model = transformers_model(vlm)
    pool_by(model, pooling)
    pixels = frames.pixels(vlm.pixel_spec).to(vlm.device, vlm.dtype)
    chosen: dict[str, Any] = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    if "kwargs" in signature(model.get_video_features).parameters:  # transformers < 5 needs no telling
        chosen["output_hidden_states"] = True
    features = model.get_video_features(pixels[None], **chosen)
    features = getattr(features, "pooler_output", features)  # transformers < 5 returns the features
    count, rows = len(frames.times), features.reshape(-1, features.shape[-1])
    area = isqrt(len(rows) // count) ** 2  # of a frame; behind the video stands, but in transformers < 5, a newline
    tokens = rows[: count * area].reshape(count, area, -1)
    before, behind = vlm.chat.around(question, visuals=True)
    embed = model.get_input_embeddings()
    parts = [embed(torch.tensor(ids, device=vlm.device)) for ids in (before, behind)]
    placed = {"row": "grid", "frame": "frame", "none": "no_token"}.get(options.newlines)
    visual = _with_newlines(tokens, vlm.network.newline, placed or _position(position, config.merge_type))
    prompt = torch.cat([parts[0], visual, parts[1]])
    theirs = model(inputs_embeds=prompt[None], logits_to_keep=1).logits[0, -1]
    ours = vlm.next_token_logits(vlm.assemble([vlm.encode(frames).whole()], question))
    name = "transformers' LlavaOnevision" + ("" if pooling == "bilinear" else f" with {pooling} pooling")
    return Parity(name, ours, theirs[: len(ours)].float(), tolerance(vlm.dtype))


def _of_package(vlm: LlavaVideo, frames: Frames, question: str) -> Parity:
    """Compare LLaVA-NeXT's tower, projector and language model with ours."""
    own = load_llava_video(vlm.name, replace(vlm.options, backend="transformers"))
    theirs, ours = (v.next_token_logits(v.assemble([v.encode(frames).whole()], question)) for v in (vlm, own))
    return Parity("LLaVA-NeXT's own package", ours, theirs, tolerance(vlm.dtype))


def _position(stated: str, merge_type: str) -> str:
    """Where newlines stand: a merge type of flat has none; one without unpad has none behind the video."""
    allowed = stated != "one_token" or "unpad" in merge_type
    return stated if allowed and merge_type != "flat" else "no_token"


def _with_newlines(tokens: Float[Tensor, "T N D"], newline: Float[Tensor, " D"], position: str) -> Float[Tensor, "L D"]:
    """Place newlines position by position: slow, but easy to check."""
    placed = []
    for frame in tokens:
        columns = isqrt(len(frame))
        for first in range(0, len(frame), columns):
            placed += list(frame[first : first + columns])
            if position == "grid":
                placed.append(newline)
        if position == "frame":
            placed.append(newline)
    if position == "one_token":
        placed.append(newline)
    return torch.stack(placed)


@torch.inference_mode()
def _published(vlm: LlavaVideo, name: str) -> Parity:
    """Compare the logits after each of the first three tokens of a prompt with the published ones."""
    ids = vlm.chat.around(QUESTION, visuals=True)[0][:3]
    logits = vlm.network.llm(input_ids=torch.tensor([ids], device=vlm.device)).logits[0, :, :3]
    allowed = 0.2 if vlm.dtype == torch.bfloat16 else 0.02  # logits to 12, published from float16
    return Parity(f"published logits of {name}", logits.float().cpu(), torch.tensor(PUBLISHED[name]), allowed)


def _noise(count: int = 3) -> Frames:
    rng = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (count, 90, 160, 3), generator=rng, dtype=torch.uint8)
    return Frames(rgb, torch.arange(count).float())


def tolerance(dtype: torch.dtype) -> float:
    """Largest difference that some hundred roundings of logits around 10 explain."""
    return {torch.float32: 1e-3, torch.float16: 0.1}.get(dtype, 0.5)


def verdict_lines(checks: Sequence[Parity]) -> str:
    """Verdicts on the references, one line each."""
    return "\n".join(
        f"{'ok  ' if check.passed else 'FAIL'} {check.name}: largest difference {check.difference:.2g}, "
        f"allowed {check.tolerance:g}"
        for check in checks
    )


@dataclass(frozen=True)
class Spoken:
    """What the unpruned model answered, and what else it might have said."""

    ids: list[int]
    scores: Float[Tensor, "n V"]
    """Logits that each token was chosen by, the repetition penalty included."""


def speak(vlm: VideoVLM, prompt: Prompt, new_tokens: int) -> Spoken:
    """Answer a prompt greedily by at most `new_tokens`, and read the logits that each token was chosen by."""
    options, scores = GenerationOptions(max_new_tokens=new_tokens), list[Tensor]()

    def note(ids: Tensor, logits: Tensor) -> Tensor:
        scores.append(logits[0].float().cpu())
        return logits

    with torch.inference_mode(), decoding.reading(vlm, [prompt], ()):
        config = vlm.settings(options)
        [made] = decoding.decode(vlm.decoder, vlm.tokenizer, [prompt], config, options, axes=vlm.axes, watch=note)
    return Spoken(made.ids, torch.stack(scores))


def against(own: Spoken, theirs: list[int]) -> dict[str, Any]:
    """Count the first tokens that are equal, and measure by how much our logits prefer ours to the first other one."""
    pairs = zip(own.ids, theirs, strict=False)
    equal = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(own.ids), len(theirs)))
    gap: float | None = 0.0
    if own.ids != theirs:
        inside = equal < min(len(own.ids), len(theirs))  # else one goes on where the other has ended
        gap = float(own.scores[equal].max() - own.scores[equal][theirs[equal]]) if inside else None
    return {"tokens": theirs, "equal": equal, "gap": gap}
