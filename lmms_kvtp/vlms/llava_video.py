"""LLaVA-Video and LLaVA-OneVision on transformers' own SigLIP and Qwen2."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lmms_kvtp.cost.flops import VisionShape, projector_flops, vision_flops
from lmms_kvtp.device import check_dtype, place, send, told
from lmms_kvtp.pruners.parts.packing import land
from lmms_kvtp.shipped import TINY, tiny_folder
from lmms_kvtp.types import FrameTokens, GridPool, PackedTokens, Positions, Prompt
from lmms_kvtp.video.frames import Frames, TowerInside
from lmms_kvtp.video.pixels import PixelSpec, ResizedPixels
from lmms_kvtp.vlms.base import PromptTooLongError, VideoVLM
from lmms_kvtp.vlms.checkpoint.config import LlavaConfig, llm_shape, reading, vision_shape
from lmms_kvtp.vlms.checkpoint.devices import Placement
from lmms_kvtp.vlms.checkpoint.llava_package import load_package
from lmms_kvtp.vlms.checkpoint.load import (
    find_folder,
    load_generation_config,
    load_network,
    load_tokenizer,
    read_config,
    weight_files,
)
from lmms_kvtp.vlms.checkpoint.network import Network
from lmms_kvtp.vlms.layout import Chat, Newlines, join, lay_out, text_run
from lmms_kvtp.vlms.load_options import LoadOptions
from lmms_kvtp.vlms.reading import outputs_of


class LlavaVideo(VideoVLM):
    """LLaVA-Video 7B and 72B, LLaVA-OneVision, and checkpoints of other sizes in the same layouts.

    Source: LLaVA-Video (arXiv 2410.02713). Like the released code: tower without its last layer and final
    normalisation, projector on all patches, pooling with stride 2, newlines, chat template qwen_1_5. Unlike it, a
    prompt that is too long is refused, where that code cuts off its end: the question.
    """

    family: ClassVar[str] = "llava_video"
    own_options: ClassVar[frozenset[str]] = frozenset(
        ["backend", "mm_spatial_pool_mode", "mm_newline_position", "newlines", "max_memory", "offload_folder"]
    )

    network: Network
    vision: VisionShape

    def __init__(
        self,
        name: str,
        config: LlavaConfig,
        network: Network,
        tokenizer: PreTrainedTokenizerBase,
        defaults: GenerationConfig,
        options: LoadOptions,
        default_encoder: str,
        toy: bool,
        files: Sequence[Path] = (),
    ) -> None:
        """Join what `load_llava_video` has read."""
        self.name, self.options, self.default_encoder, self.toy = name, options, default_encoder, toy
        self.files = files
        self.network, self.tokenizer, self.chat, self.defaults = network, tokenizer, Chat(tokenizer), defaults
        network.llm.generation_config = GenerationConfig.from_dict({})  # so that `defaults` are read in one place only
        self.device, self.dtype = network.newline.device, network.newline.dtype
        self.vision, self.llm = vision_shape(config), llm_shape(config, config.vocabulary(len(tokenizer)))
        side = self.vision.image_size // self.vision.patch_size
        self.pixel_spec = ResizedPixels((self.vision.image_size, self.vision.image_size))
        self.pool = GridPool(options.mm_spatial_pool_mode or config.pool_mode, (side, side))
        position = options.mm_newline_position or config.newline_position
        self.decoder, self.layers = network.llm, list(network.llm.model.layers)
        self.rotary = network.llm.model.rotary_emb
        self.newlines = Newlines(position, options.newlines, config.merge_type)
        self.limit, self.tiling = config.limit, config.tiling

    @classmethod
    def load(cls, pretrained: str, options: LoadOptions) -> "LlavaVideo":
        """Load a checkpoint, of the original layout or of Hugging Face's."""
        return load_llava_video(pretrained, options)

    def describe(self) -> dict[str, Any]:
        """List as plain values all that answers depend on beside method and frames."""
        return {
            **asdict(self.options),
            "pretrained": self.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "pool": self.pool.mode,
            "grid": list(self.pool.grid),
            "newlines": asdict(self.newlines),
            "limit": self.limit,
            "toy": self.toy,
        }

    def spec(self, num_frames: int = 1) -> ResizedPixels:
        """Say what the tower wants of each frame: a square, for every video."""
        return self.pixel_spec

    def pooling(self, height: int, width: int) -> GridPool:
        """Say how patches become tokens: in one way, since all frames have the tower's size."""
        return self.pool

    def vision_flops(self, pool: GridPool, steps: int) -> tuple[int, int]:
        """Count the operations of tower and projector on so many frames."""
        return vision_flops(self.vision, steps), projector_flops(self.vision, self.llm, steps)

    @contextmanager
    def watch_tower(self) -> Iterator[list[TowerInside]]:
        """Collect queries and keys of the last layer of the tower; those of each batch stand in the list at the end."""
        last = [module for name, module in self.network.tower.named_modules() if name.endswith("self_attn")][-1]
        seen: list[TowerInside] = []
        with outputs_of([last.get_submodule(name) for name in ("q_proj", "k_proj")]) as found:
            yield seen
        seen += [TowerInside(query, key, self.vision.heads) for query, key in zip(*found, strict=True)]

    @torch.inference_mode()
    def see(self, frames: Frames) -> Float[Tensor, "T P C"]:
        """Run the vision tower on one chunk of frames: features of its patches, row by row."""
        parts = torch.split(frames.pixels(self.pixel_spec, self.device), self.options.vision_batch)
        with told(f"the vision tower on {len(frames.times)} frames, {len(parts[0])} at a time,", "lower vision_batch"):
            return torch.cat([self.network.tower(part.to(self.device, self.dtype)) for part in parts])

    @torch.inference_mode()
    def look(self, frames: Frames, spec: PixelSpec) -> tuple[FrameTokens, Float[Tensor, "T P C"]]:
        """Run tower, projector and pooling on one chunk of frames: tokens, and the tower's patches, row by row."""
        seen = self.see(frames)
        parts = [self.pool(self.network.projector(part)) for part in torch.split(seen, self.options.vision_batch)]
        return FrameTokens(torch.cat(parts), self.pool.grid), seen

    @torch.inference_mode()
    def unpooled(self, frames: Frames) -> Float[Tensor, "T P D"]:
        """Run tower and projector alone: patches of an image's tiles."""
        parts = torch.split(self.see(frames), self.options.vision_batch)
        return torch.cat([self.network.projector(part) for part in parts])

    @torch.inference_mode()
    def assemble(self, visuals: Sequence[PackedTokens], text: str, positions: Positions | None = None) -> Prompt:
        """Lay out the model's chat prompt: visuals with their newlines, then `text`.

        PromptTooLongError where the prompt does not fit in the context; ValueError where `text` is empty.
        """
        before, behind = self.chat.around(text, visuals=bool(visuals))
        embeds = self._embed([*before, *behind])  # one copy to the device
        runs, first_frame, first_segment = [text_run(embeds[: len(before)])], 0, 0
        for visual in visuals:
            packed = land(replace(visual, embeds=visual.embeds.to(self.device, self.dtype)))
            if visual.newline is not None and len(runs) > 1:  # images of one question, as in the original's prompts
                runs.append(text_run(self._embed(self.chat.plain(" "))))
            counted = first_frame, first_segment
            runs.append(lay_out(packed, self.network.newline, self.newlines, *counted, positions or self.positions[0]))
            first_frame += visual.num_frames
            first_segment += 0 if packed.segment is None or not len(packed.segment) else int(packed.segment.max()) + 1
        prompt = join([*runs, text_run(embeds[len(before) :])])
        if prompt.end > self.limit:
            raise PromptTooLongError(prompt.end, self.limit, len(before) + len(behind))
        return prompt

    def _embed(self, ids: list[int]) -> Float[Tensor, "l D"]:
        embed = self.network.llm.get_input_embeddings()  # of a split model, maybe on another device than the newline
        return cast(Tensor, embed(send(torch.tensor(ids, dtype=torch.long), self.device)).to(self.device))


def load_llava_video(pretrained: str, options: LoadOptions | None = None) -> LlavaVideo:
    """Load a checkpoint, of the original layout or of Hugging Face's.

    Args:
        pretrained: folder, hub id, or `tiny` for the embedded model.
        options: how it is loaded and run.

    Raises:
        CheckpointError: there is no such checkpoint; the message says what was found.
    """
    options = options or LoadOptions()
    device, dtype = place(options.device, options.dtype)
    check_dtype(device, dtype)
    placement = Placement(device, dtype, options.device_map, options.max_memory, options.offload_folder)
    folder = find_folder(pretrained, options.revision)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    defaults = load_generation_config(folder)
    if defaults.eos_token_id is None:
        defaults.eos_token_id = config.eos_token_id
    rows = config.vocabulary(len(tokenizer))
    with told(f"loading {pretrained} in {placement.dtype}", "choose dtype=bfloat16, or device_map=auto"):
        load = load_package if options.backend == "llava" else load_network
        network = load(folder, config, rows, options.attn_implementation, placement)
    toy = folder.resolve() == tiny_folder().resolve()
    with reading(folder):
        return LlavaVideo(
            name=pretrained,
            config=config,
            network=network,
            tokenizer=tokenizer,
            defaults=defaults,
            options=options,
            default_encoder=TINY if toy else _encoder(folder),
            toy=toy,
            files=weight_files(folder),
        )


def _encoder(folder: Path) -> str:
    """Name the image-text model beside the checkpoint, else that whose tower the released checkpoints started from."""
    own = folder / "siglip"
    return str(own) if own.is_dir() else "google/siglip-so400m-patch14-384"
