"""Device and number type that settings name: `device=cuda:1,dtype=auto`."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of number types in settings, beside `auto`."""


def find_device(name: str | None) -> torch.device:
    """Find the device of that name; None means the GPU if there is one.

    Raises:
        ValueError: there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device={name} is not a torch device; use cpu, cuda or cuda:0, or leave it out") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: this torch finds no GPU; leave device out, or install a build for this GPU")
    return device


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """Find the number type of that name; `auto` means bfloat16 on a GPU and float32 on a CPU.

    Raises:
        ValueError: there is no such number type.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise ValueError(f"dtype={name} is no number type of models; use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def place(device: str | None, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Find where a model runs, and in which number type.

    Args:
        device: name; None means the GPU if there is one.
        dtype: name, or `auto`.

    Raises:
        ValueError: one of them is unknown.
    """
    found = find_device(device)
    return found, find_dtype(dtype, found)
