"""The device that a setting names."""

import torch


def find_device(name: str | None) -> torch.device:
    """The device of that name; for None the GPU if there is one.

    Raises:
        ValueError: there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device={name} is none that torch knows; use cpu, cuda or cuda:0, or leave it out") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: this torch finds no GPU; leave device out, or install a build for this GPU")
    return device


def place(device: str | None, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Resolve None to the GPU if there is one, and auto to bfloat16 on a GPU and float32 elsewhere."""
    where = find_device(device)
    if dtype == "auto":
        return where, torch.bfloat16 if where.type == "cuda" else torch.float32
    return where, {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
