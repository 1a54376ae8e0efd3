"""The device and the number type that settings name."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number types that settings may name, beside auto."""


def find_device(name: str | None) -> torch.device:
    """Find the device of that name; for None the GPU if there is one.

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


def place(device: str | None, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Choose device and number type: None is the GPU if there is one, auto is bfloat16 on it and float32 elsewhere.

    On MPS, auto is float32 too: not every release of torch computes in bfloat16 there.

    Raises:
        ValueError: there is no such device.
    """
    found = find_device(device)
    return found, DTYPES.get(dtype, torch.bfloat16 if found.type == "cuda" else torch.float32)
