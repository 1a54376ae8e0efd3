"""What the back ends of Qwen2.5-VL and Qwen3-VL share."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import MergedShape
from lmms_kvtp.device import told
from lmms_kvtp.types import FrameTokens, Positions
from lmms_kvtp.video.frames import Frames, TowerInside
from lmms_kvtp.video.pixels import PixelSpec, ProcessorPixels
from lmms_kvtp.vlms.native import NativeVLM
from lmms_kvtp.vlms.reading import outputs_of
from lmms_kvtp.vlms.released import qwen_pixels


class QwenVLM(NativeVLM):
    """What Qwen2.5-VL and Qwen3-VL share: steps of two frames, patches in blocks of 2 x 2, positions on three axes."""

    positions: ClassVar[tuple[Positions, ...]] = ("kept", "evs")
    axes: ClassVar[int] = 3
    frames_per_step: ClassVar[int] = 2
    own_options: ClassVar[frozenset[str]] = frozenset({"min_pixels", "max_pixels", "system_prompt", "reasoning_prompt"})
    placeholder: ClassVar[str] = "video_token_id"
    system_turn: ClassVar[str | None] = None
    """The system's turn where `system_prompt` says none; None: the template's own."""
    resizes_again: ClassVar[bool] = False
    """Whether the stock wrapper has the processor resize what qwen-vl-utils has resized."""
    run_defaults: ClassVar[Mapping[str, Any]] = {"max_frames_num": 32, "fps": None, "max_new_tokens": 128}

    def system(self) -> list[dict[str, Any]]:
        """Begin with the system's turn."""
        told = self.system_turn if self.options.system_prompt is None else self.options.system_prompt
        return [] if told is None else [{"role": "system", "content": [{"type": "text", "text": told}]}]

    def tower_shape(self, vision: Any) -> MergedShape:
        """Read the sizes of the tower from its config."""
        return MergedShape(
            patch_size=vision.patch_size,
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            layers=vision.depth,
            heads=vision.num_heads,
            outer=vision.out_hidden_size,
            frames=vision.temporal_patch_size,
        )

    def spec(self, num_frames: int) -> ProcessorPixels:
        """Say what the tower wants of each frame: its own shape in whole tokens, within qwen-vl-utils' limits."""
        own, factor = self.processor.video_processor, self.vision.patch_size * self.stride
        again = (float(own.size["shortest_edge"]), float(own.size["longest_edge"])) if self.resizes_again else None
        return qwen_pixels(self.options, factor, num_frames, again, tuple(own.image_mean), tuple(own.image_std))

    @torch.inference_mode()
    def look(self, frames: Frames, spec: PixelSpec) -> tuple[FrameTokens, Float[Tensor, "T P C"]]:
        """Run tower and mergers on one chunk of frames: tokens, and the tower's patches, row by row."""
        pixels, p = frames.pixels(spec, self.device), self.vision.patch_size
        batch = max(1, self.options.vision_batch // 2)
        if len(pixels) % 2:  # as the processor does
            pixels = torch.cat([pixels, pixels[-1:]])
        rows, columns = pixels.shape[2] // p, pixels.shape[3] // p
        blocks = pixels.view(-1, 2, 3, rows // 2, 2, p, columns // 2, 2, p)
        steps = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(len(blocks), rows * columns, -1)
        visual, tokens, patches = self.model.model.visual, list[Tensor](), list[Tensor]()
        mergers = [visual.blocks[-1], *getattr(visual, "deepstack_merger_list", ())]
        with (
            told(f"the vision tower on {len(pixels)} frames of {rows} x {columns} patches", "lower vision_batch"),
            outputs_of(mergers) as (last, *levels),
        ):
            for part in torch.split(steps, batch):
                grid = torch.tensor([[len(part), rows, columns]], device=self.device)
                made = visual(part.flatten(0, 1).to(self.dtype), grid_thw=grid)
                pooled: Any = getattr(made, "pooler_output", made[0] if isinstance(made, tuple) else made)
                tokens.append(pooled.view(len(part), rows * columns // 4, -1))
                patches.append(self.raster(last.pop(), grid).view(len(part), rows * columns, -1))
        joined = torch.cat(tokens)
        deep = torch.stack([torch.cat(level).view_as(joined) for level in levels], dim=2) if levels else None
        return FrameTokens(joined, (rows // 2, columns // 2), deep=deep), torch.cat(patches)

    def raster(self, patches: Float[Tensor, "R C"], grid: Int[Tensor, "1 3"]) -> Float[Tensor, "R C"]:
        """Bring patches of some steps from blocks of 2 x 2 into rows."""
        steps, rows, columns = grid[0].tolist()
        blocks = patches.view(steps, rows // 2, columns // 2, 2, 2, -1)
        return blocks.transpose(2, 3).reshape(len(patches), -1)

    @contextmanager
    def watch_tower(self) -> Iterator[list[TowerInside]]:
        """Collect queries and keys of the last layer of the tower, turned by their positions, row by row."""
        visual, seen, grids = self.model.model.visual, list[TowerInside](), list[Tensor]()

        def inside(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            states = given[0] if given else named["hidden_states"]
            queries, keys, _ = module.qkv(states).view(len(states), 3, module.num_heads, -1).unbind(1)
            cos, sin = (part[:, None].float() for part in named["position_embeddings"])
            turned = [heads.float() * cos + _half_turned(heads.float()) * sin for heads in (queries, keys)]
            steps = int(grids[-1][0, 0])
            rows = [self.raster(heads.flatten(1), grids[-1]).view(steps, -1, heads[0].numel()) for heads in turned]
            seen.append(TowerInside(rows[0], rows[1], module.num_heads))

        def note(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            grids.append(named["grid_thw"])

        with ExitStack() as stack:
            stack.callback(visual.register_forward_pre_hook(note, with_kwargs=True).remove)
            stack.callback(visual.blocks[-1].attn.register_forward_pre_hook(inside, with_kwargs=True).remove)
            yield seen

    def all_positions(self, ids: Int[Tensor, " L"], vision: Bool[Tensor, " L"], inputs: Any) -> Int[Tensor, "*A L"]:
        """Ask the model's class, whose rule differs between releases of transformers."""
        rule = self.model.model.get_rope_index
        told = {**inputs, "input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
        told["mm_token_type_ids"] = vision.long()[None] * 2
        known = {name: told[name] for name in inspect.signature(rule).parameters if name in told}
        return cast(Tensor, rule(**known)[0][:, 0])


def _half_turned(heads: Float[Tensor, "R H d"]) -> Float[Tensor, "R H d"]:
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
