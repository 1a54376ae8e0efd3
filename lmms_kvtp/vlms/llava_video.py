"""LLaVA-Video and LLaVA-OneVision on transformers' own SigLIP and Qwen2."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lmms_kvtp.device import check_dtype, place, told
from lmms_kvtp.layer_pruning.base import Stage, layer_pruning
from lmms_kvtp.shipped import TINY, tiny_folder
from lmms_kvtp.types import FrameTokens, Generation, GenerationOptions, GridPool, PackedTokens, Positions, Prompt
from lmms_kvtp.video.frames import Frames, TowerInside
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.vlms import decoding
from lmms_kvtp.vlms.base import PromptTooLongError, VideoVLM
from lmms_kvtp.vlms.checkpoint.config import LlavaConfig
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
from lmms_kvtp.vlms.checkpoint.network import Network, llm_shape, vision_shape
from lmms_kvtp.vlms.layout import Chat, Newlines, join, lay_out, text_run
from lmms_kvtp.vlms.prefix import PrefixCache

ALIASES = {"torch_dtype": "dtype", "newline": "newlines"}
"""Other names for options: those of lmms-eval's stock wrapper, and of the documentation."""


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is loaded and run."""

    backend: Literal["transformers", "llava"] = "transformers"
    """llava: LLaVA-NeXT's own package loads the checkpoint, where it is installed; see docs/models.md."""
    revision: str | None = None
    """Commit, branch or tag on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the weights. auto: bfloat16 on a GPU, float32 elsewhere."""
    device: str | None = None
    """Device of the model; None is the GPU if there is one."""
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    """Split the model over the devices of this machine, as accelerate does; None for one device."""
    max_memory: str | None = None
    """With `device_map`, the memory of each device, like `0=40GiB;1=40GiB;cpu=100GiB`; None for what is free."""
    offload_folder: str | None = None
    """With `device_map`, a folder for weights that fit in no memory."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention of tower and language model, as transformers names it."""
    mm_spatial_pool_mode: Literal["bilinear", "average", "max"] | None = None
    """Pooling; None is what the checkpoint was trained with. lmms-eval's own wrapper uses average."""
    mm_newline_position: Literal["grid", "frame", "one_token", "no_token"] | None = None
    """Newlines of unpruned frames; None is what the checkpoint was trained with."""
    newlines: Literal["auto", "row", "frame", "none", "release"] = "auto"
    """Newlines of pruned frames; see `lmms_kvtp.vlms.layout.Newlines`."""
    vision_batch: int = 16
    """Frames that the tower sees at once. It bounds the memory, and changes no result beyond rounding."""

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            ValueError: memory is planned for one device, or no frame is seen at once.
        """
        for name in ("max_memory", "offload_folder"):
            if self.device_map is None and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)} goes with device_map=auto; set both or none")
        if self.vision_batch < 1:
            raise ValueError(f"vision_batch={self.vision_batch} is below 1")


class LlavaVideo(VideoVLM):
    """LLaVA-Video 7B and 72B, LLaVA-OneVision, and checkpoints of other sizes in the same layouts.

    Source: LLaVA-Video (arXiv 2410.02713). Like the released code: tower without its last layer and final
    normalisation, projector on all patches, pooling with stride 2, newlines, chat template qwen_1_5. Unlike it, a
    prompt that is too long is refused, where that code cuts off its end: the question.
    """

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
        self.newlines = Newlines(position, options.newlines, config.merge_type)
        self.limit, self.tiling = config.limit, config.tiling

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Decoder layers of the language model, in order."""
        return list(self.network.llm.model.layers)

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

    @contextmanager
    def watch_tower(self) -> Iterator[list[TowerInside]]:
        """Collect queries and keys of the last layer of the tower; those of each batch stand in the list at the end."""
        last = [module for name, module in self.network.tower.named_modules() if name.endswith("self_attn")][-1]
        found: dict[str, list[Tensor]] = {"q_proj": [], "k_proj": []}
        seen: list[TowerInside] = []
        with ExitStack() as stack:
            for name, outputs in found.items():
                hook = last.get_submodule(name).register_forward_hook(lambda *given, to=outputs: to.append(given[-1]))
                stack.callback(hook.remove)
            yield seen
        seen += [TowerInside(query, key, self.vision.heads) for query, key in zip(*found.values(), strict=True)]

    @torch.inference_mode()
    def see(self, frames: Frames) -> Float[Tensor, "T P C"]:
        """Run the vision tower on one chunk of frames: features of its patches, row by row."""
        parts = torch.split(frames.pixels(self.pixel_spec, self.device), self.options.vision_batch)
        with told(f"the vision tower on {len(frames.times)} frames, {len(parts[0])} at a time,", "lower vision_batch"):
            return torch.cat([self.network.tower(part.to(self.device, self.dtype)) for part in parts])

    @torch.inference_mode()
    def project(self, patches: Float[Tensor, "T P C"]) -> FrameTokens:
        """Run projector and pooling on what `see` returned."""
        parts = torch.split(patches, self.options.vision_batch)
        return FrameTokens(torch.cat([self.pool(self.network.projector(part)) for part in parts]), self.pool.grid)

    @torch.inference_mode()
    def unpooled(self, patches: Float[Tensor, "T P C"]) -> Float[Tensor, "T P D"]:
        """Run the projector alone on what `see` returned: patches of an image's tiles."""
        return torch.cat([self.network.projector(part) for part in torch.split(patches, self.options.vision_batch)])

    @torch.inference_mode()
    def assemble(self, visuals: Sequence[PackedTokens], text: str, positions: Positions = "renumbered") -> Prompt:
        """Lay out the model's chat prompt: visuals with their newlines, then `text`.

        Raises:
            PromptTooLongError: the prompt does not fit in the context.
            ValueError: `text` is empty.
        """
        before, behind = self.chat.around(text, visuals=bool(visuals))
        embeds = self._embed([*before, *behind])  # one copy to the device
        runs, first_frame, first_segment = [text_run(embeds[: len(before)])], 0, 0
        for visual in visuals:
            packed = replace(visual, embeds=visual.embeds.to(self.device, self.dtype))
            if visual.newline is not None and len(runs) > 1:  # images of one question, as in the original's prompts
                runs.append(text_run(self._embed(self.chat.plain(" "))))
            counted = first_frame, first_segment
            runs.append(lay_out(packed, self.network.newline, self.newlines, *counted, positions=positions))
            first_frame += visual.num_frames
            first_segment += 0 if visual.segment is None or not len(visual.segment) else int(visual.segment.max()) + 1
        prompt = join([*runs, text_run(embeds[len(before) :])])
        if prompt.end > self.limit:
            raise PromptTooLongError(prompt.end, self.limit, len(before) + len(behind))
        return prompt

    @cached_property
    def _settings(self) -> Callable[[GenerationOptions], GenerationConfig]:
        """Decoding settings by options, kept: a run has few, and transformers' configurations are slow to make."""
        return lru_cache(16)(partial(decoding.settings, self.defaults, self.chat.end, self.chat.pad))

    def _embed(self, ids: list[int]) -> Float[Tensor, "l D"]:
        embed = self.network.llm.get_input_embeddings()  # of a split model, maybe on another device than the newline
        return cast(Tensor, embed(torch.tensor(ids, dtype=torch.long, device=self.device)).to(self.device))

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        options: GenerationOptions,
        stages: Sequence[Stage] = (),
        prefix: PrefixCache | None = None,
    ) -> list[Generation]:
        """Decode an answer to each prompt, while `stages` drop vision tokens between the layers.

        Several prompts are one batch when decoding is greedy and nothing is dropped; otherwise they are answered one
        after the other: draws, beams and stages belong to one prompt.

        Raises:
            ValueError: stages that do not fit the model.
        """
        alone = bool(stages) or prefix is not None or options.temperature > 0 or options.num_beams > 1
        groups = [[prompt] for prompt in prompts] if alone else [list(prompts)]
        return [made for group in groups if group for made in self._generate(group, options, stages, prefix)]

    def _generate(
        self, prompts: list[Prompt], options: GenerationOptions, stages: Sequence[Stage], prefix: PrefixCache | None
    ) -> list[Generation]:
        config = self._settings(options)
        shared = None if stages or options.num_beams > 1 else prefix
        longest = max(prompts, key=lambda prompt: prompt.length)
        doing = f"reading {len(prompts)} x {longest.length} positions ({longest.num_frames} frames)"
        lower = "lower batch_size, keep_ratio or max_frames_num"
        with told(doing, lower), self._placed(prompts), layer_pruning(self.layers, stages, prompts[0]) as trace:
            embeds, places = [prompt.embeds for prompt in prompts], prompts[0].positions
            answers = decoding.decode(self.network.llm, self.tokenizer, embeds, config, options, shared, places)
        whole = [(prompt.length,) * len(self.layers) for prompt in prompts]
        return [
            Generation(
                text=decoding.text_of(self.tokenizer, decoded.ids, options.until),
                num_tokens=len(decoded.ids),
                layer_lengths=trace.layer_lengths if stages else tuple(n - decoded.reused for n in lengths),
                cache_lengths=trace.cache_lengths if stages else lengths,
                prefill_seconds=decoded.prefill_seconds,
                decode_seconds=decoded.decode_seconds,
                reused=decoded.reused,
            )
            for decoded, lengths in zip(answers, whole, strict=True)
        ]

    def _placed(self, prompts: Sequence[Prompt]) -> AbstractContextManager[None]:
        return decoding.placed(self.network.llm.model.rotary_emb, prompts)

    @torch.inference_mode()
    def next_token_logits(self, prompt: Prompt, stages: Sequence[Stage] = ()) -> Float[Tensor, " V"]:
        """Compute the logits of the first answer token; the head runs at the last position only."""
        with self._placed([prompt]), layer_pruning(self.layers, stages, prompt):
            output = self.network.llm(inputs_embeds=prompt.embeds[None], logits_to_keep=1, use_cache=False)
        return cast(Tensor, output.logits[0, -1].float())


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
