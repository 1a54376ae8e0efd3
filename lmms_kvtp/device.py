"""Devices and number types: what settings name, what a device computes in, and what happens when its memory is full."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number types that settings may name, beside auto."""
WANTED = re.compile(r"tried to allocate ([\d.]+ ?[a-z]*)", re.IGNORECASE)
"""torch's words for the size of an allocation that failed."""


def find_device(name: str | None) -> torch.device:
    """Find the device of that name; for None the GPU if there is one. ValueError where there is no such device."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device={name} is not a torch device; use cpu, cuda or cuda:0, or leave it out") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: this torch finds no GPU; leave device out, or install a build for this GPU")
    return torch.device("cpu") if device.type == "cpu" else device  # transformers < 5 takes cpu:0 of a rank for a GPU


def place(device: str | None, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Choose device and number type: None is the GPU if there is one, auto is bfloat16 on it and float32 elsewhere.

    auto is float32 on MPS, too, where not every release of torch computes in bfloat16, and, with a warning, on a GPU
    without bfloat16 of its own.

    ValueError where there is no such device.
    """
    found = find_device(device)
    if dtype == "auto" and found.type == "cuda" and (slow := _without_bfloat16(found)):
        warn(f"dtype=auto is float32 here: {slow}; dtype=float16 takes half the memory, and may overflow")
        return found, torch.float32
    return found, DTYPES.get(dtype, torch.bfloat16 if found.type == "cuda" else torch.float32)


def _without_bfloat16(device: torch.device) -> str:
    """Say that a GPU has no bfloat16 of its own; nothing of one that has."""
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return ""
    return f"{torch.cuda.get_device_name(device)} has no bfloat16 of its own, and torch's imitation is slow"


@cache
def warn(message: str) -> None:
    """Warn once in a process: a sweep builds many methods, and a run asks many times where to compute."""
    logger.warning(message)


def check_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Compute on a few numbers what the layers compute.

    ValueError where the device does not compute in `dtype`, or only by imitation.
    """
    if dtype == torch.bfloat16 and device.type == "cuda" and (slow := _without_bfloat16(device)):
        raise ValueError(f"dtype=bfloat16: {slow}; use float16 or float32")
    try:
        x = torch.ones(1, 3, 8, 8, device=device, dtype=dtype)
        y = F.conv2d(x, x).flatten(1)
        F.scaled_dot_product_attention(x, x, x)
        F.layer_norm(F.gelu(F.linear(y, y)), (1,))
    except RuntimeError as error:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"dtype={name}: this torch cannot compute in it on {device} ({error}); use bfloat16 or float32"
        ) from error


def send(values: Shaped[Tensor, "*n"], device: torch.device) -> Shaped[Tensor, "*n"]:
    """Copy values of the host to a device, and wait neither for the copy nor for what the device works on."""
    return values if values.device == device else values.to(device, non_blocking=values.device.type == "cpu")


class OutOfMemoryError(RuntimeError):
    """An allocation failed; the message says what for, how much was wanted, and what to lower."""


@contextmanager
def told(doing: str, lower: str) -> Iterator[None]:
    """Turn a failed allocation of torch inside the block into one line.

    Args:
        doing: what the memory was for, with its sizes.
        lower: the settings that need less.

    Raises:
        OutOfMemoryError: an allocation failed; every other error passes.
    """
    try:
        yield
    except RuntimeError as error:  # torch's own type covers accelerators only
        wanted = WANTED.search(str(error))
        if wanted is None:
            raise
        raise OutOfMemoryError(f"out of memory: {doing} wanted {wanted[1].strip()} more; {lower}") from None
