"""Where an encoder runs, and in which precision."""

import torch

from lmms_kvtp.device import find_device


def place(device: str | None, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Resolve None to the GPU if there is one, and auto to bfloat16 on a GPU and float32 elsewhere."""
    where = find_device(device)
    if dtype == "auto":
        return where, torch.bfloat16 if where.type == "cuda" else torch.float32
    return where, {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
