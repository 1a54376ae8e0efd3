"""InternVL3 and InternVL3.5 on transformers' own class, in the layout of checkpoints that end in -hf."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.cost.flops import MergedShape
from lmms_kvtp.device import told
from lmms_kvtp.types import FrameTokens
from lmms_kvtp.video.frames import Frames, TowerInside
from lmms_kvtp.video.pixels import PixelSpec, ProcessorPixels
from lmms_kvtp.vlms.native import NativeVLM
from lmms_kvtp.vlms.reading import outputs_of


class InternVL(NativeVLM):
    """InternVL3 on Qwen2 and InternVL3.5 on Qwen3, dense: square frames of one size, each with its number in the text.

    Source: InternVL3 (arXiv 2504.10479), InternVL3.5 (arXiv 2508.18265); frames, sizes and prompt as in lmms-eval's
    stock wrapper `internvl_hf`.
    """

    family: ClassVar[str] = "internvl"
    class_name: ClassVar[str] = "InternVLForConditionalGeneration"
    placeholder: ClassVar[str] = "image_token_id"
    own_options: ClassVar[frozenset[str]] = frozenset({"empty"})
    run_defaults: ClassVar[Mapping[str, Any]] = {"rule": "internvl", "max_frames_num": 32, "fps": None}

    def tower_shape(self, vision: Any) -> MergedShape:
        """Read the sizes of the tower from its config."""
        outer = self.model.config.get_text_config().hidden_size
        return MergedShape(
            patch_size=vision.patch_size[0],
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            layers=vision.num_hidden_layers,
            heads=vision.num_attention_heads,
            outer=outer,
            class_token=True,
            inner=outer,
        )

    def spec(self, num_frames: int) -> ProcessorPixels:
        """Say what the tower wants of each frame: a square, for every video."""
        own = self.processor.video_processor
        return ProcessorPixels(tuple(own.image_mean), tuple(own.image_std), (own.size["height"], own.size["width"]))

    @torch.inference_mode()
    def look(self, frames: Frames, spec: PixelSpec) -> tuple[FrameTokens, Float[Tensor, "T P C"]]:
        """Run tower and projector on one chunk of frames: tokens, and the tower's patches, row by row."""
        pixels, grid = frames.pixels(spec, self.device), self.pooling(*frames.pixels(spec).shape[-2:]).grid
        model, tokens, patches = self.model.model, [], []
        with (
            told(f"the vision tower on {len(pixels)} frames", "lower vision_batch"),
            outputs_of([model.vision_tower]) as (seen,),
        ):
            for part in torch.split(pixels, self.options.vision_batch):
                made = model.get_image_features(
                    part.to(self.dtype),
                    vision_feature_layer=self.model.config.vision_feature_layer,
                    vision_feature_select_strategy=self.model.config.vision_feature_select_strategy,
                    return_dict=True,
                )
                tokens.append(getattr(made, "pooler_output", made))  # transformers < 5 returns the tokens alone
                patches.append(cast(Any, seen.pop()).last_hidden_state[:, 1:])
        return FrameTokens(torch.cat(tokens), grid), torch.cat(patches)

    @contextmanager
    def watch_tower(self) -> Iterator[list[TowerInside]]:
        """Collect queries and keys of the last layer of the tower, of its patches: the class token has no cell."""
        last, seen = self.model.model.vision_tower.encoder.layer[-1].attention, list[TowerInside]()
        with outputs_of([last.q_norm, last.k_norm]) as found:
            yield seen
        seen += [TowerInside(query[:, 1:], key[:, 1:], last.num_heads) for query, key in zip(*found, strict=True)]
