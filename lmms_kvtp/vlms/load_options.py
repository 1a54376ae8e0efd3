"""How a checkpoint is loaded and run: options of every family, and of some."""

from dataclasses import dataclass
from typing import Literal

ALIASES = {"torch_dtype": "dtype", "newline": "newlines"}
"""Other names for options: those of lmms-eval's stock wrapper, and of the documentation."""


FAMILY_OPTIONS = frozenset(
    {
        *("backend", "mm_spatial_pool_mode", "mm_newline_position", "newlines", "max_memory", "offload_folder"),
        *("min_pixels", "max_pixels", "total_pixels", "system_prompt", "reasoning_prompt", "enable_thinking", "empty"),
    }
)
"""Options that not every family has."""


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
    min_pixels: int | None = None
    """Pixels that a frame of Qwen-VL has at least, as the stock wrapper counts them; None is that wrapper's default."""
    max_pixels: int | None = None
    """Pixels that a frame of Qwen-VL has at most; None is the stock wrapper's default."""
    total_pixels: int | None = None
    """Pixels of all steps of a video of Qwen3-VL at most, in place of `max_pixels`."""
    system_prompt: str | None = None
    """The system's turn for Qwen-VL; None is that of the stock chat wrapper."""
    reasoning_prompt: str | None = None
    """Text right behind each question to Qwen-VL, such as a request to think first; a backslash and n end a line."""
    enable_thinking: bool | None = None
    """What the chat template of Qwen3-VL is told. True: an answer is what stands behind the thoughts."""
    empty: Literal["keep", "drop"] = "keep"
    """The text of a step, such as its second, in Qwen3-VL and InternVL: does it stay where all its tokens have gone?"""

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        ValueError where memory is planned for one device, or no frame is seen at once.
        """
        for name in ("max_memory", "offload_folder"):
            if self.device_map is None and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)} goes with device_map=auto; set both or none")
        if self.vision_batch < 1:
            raise ValueError(f"vision_batch={self.vision_batch} is below 1")
