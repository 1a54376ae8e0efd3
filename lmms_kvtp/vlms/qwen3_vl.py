"""Qwen3-VL on transformers' own class."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from lmms_kvtp.cost.flops import MergedShape
from lmms_kvtp.vlms.qwen_vl import QwenVLM


class Qwen3VL(QwenVLM):
    """Qwen3-VL, dense: timestamps in the text, and features of earlier tower layers added in the first layers.

    Source: Qwen3-VL (arXiv 2511.21631), DeepStack (arXiv 2406.04334); frames, sizes and prompt as in lmms-eval's stock
    chat wrapper.
    """

    family: ClassVar[str] = "qwen3_vl"
    class_name: ClassVar[str] = "Qwen3VLForConditionalGeneration"
    own_options: ClassVar[frozenset[str]] = QwenVLM.own_options | {"total_pixels", "enable_thinking", "empty"}
    system_turn: ClassVar[str | None] = "You are a helpful assistant."
    run_defaults: ClassVar[Mapping[str, Any]] = {**QwenVLM.run_defaults, "rule": "qwen3_vl"}

    def tower_shape(self, vision: Any) -> MergedShape:
        """Read the sizes of the tower from its config."""
        return replace(super().tower_shape(vision), mergers=1 + len(vision.deepstack_visual_indexes))
