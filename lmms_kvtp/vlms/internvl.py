"""InternVL3 and InternVL3.5 on transformers' own class, in the layout of checkpoints that end in -hf."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.cost.flops import MergedShape
from lmms_kvtp.device import told
from lmms_kvtp.types import FrameTokens
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.video.pixels import PixelSpec, ProcessorPixels
from lmms_kvtp.vlms.native import NativeVLM


class InternVL(NativeVLM):
    """InternVL3 on Qwen2 and InternVL3.5 on Qwen3, dense: square frames of one size, each with its number in the text.

    Source: InternVL3 (arXiv 2504.10479), InternVL3.5 (arXiv 2508.18265); frames, sizes and prompt as in lmms-eval's
    stock wrapper `internvl_hf`.
    """

    family: ClassVar[str] = "internvl"
    class_name: ClassVar[str] = "InternVLForConditionalGeneration"
    placeholder: ClassVar[str] = "image_token_id"
    run_defaults: ClassVar[Mapping[str, Any]] = {"rule": "internvl", "max_frames_num": 32, "fps": None}

    def tower_shape(self, vision: Any) -> MergedShape:
        """Read the sizes of the tower from its config."""
        outer = self.model.config.get_text_config().hidden_size
        return MergedShape(
            patch_size=vision.patch_size[0],
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            layers=vision.num_hidden_layers,
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
        with told(f"the vision tower on {len(pixels)} frames", "lower vision_batch"):
            for part in torch.split(pixels, self.options.vision_batch):
                made = model.get_image_features(
                    part.to(self.dtype),
                    vision_feature_layer=self.model.config.vision_feature_layer,
                    vision_feature_select_strategy=self.model.config.vision_feature_select_strategy,
                    return_dict=True,
                )
                tokens.append(made.pooler_output)
                patches.append(made.last_hidden_state[:, 1:])
        return FrameTokens(torch.cat(tokens), grid), torch.cat(patches)
