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
