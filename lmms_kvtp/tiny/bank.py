"""Features of the training frames from the frozen tower, computed once and kept on disk."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import SiglipVisionModel

from lmms_kvtp.tiny.footage import Footage
from lmms_kvtp.tiny.progress import FloatAttention, Log
from lmms_kvtp.tiny.stage_tower import normalise

Features = npt.NDArray[np.float16]
"""[F, s, s, E]"""


@torch.no_grad()
def tower_features(
    tower: SiglipVisionModel, rgb: UInt8[Tensor, "b H W 3"], device: torch.device, exact: bool = False
) -> Float[Tensor, "b s s E"]:
    """Hidden states before the tower's last layer, as LLaVA-Video reads them; `exact` for float32 throughout."""
    pixels = normalise(rgb).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=not exact), FloatAttention():
        hidden = tower(pixels, output_hidden_states=True).hidden_states[-2]
    side = round(hidden.shape[1] ** 0.5)
    features: Tensor = hidden.float().unflatten(1, (side, side))
    return features


def load_bank(
    folder: Path,
    footage: Footage,
    tower: SiglipVisionModel,
    device: torch.device,
    log: Log,
    stamp: str,
) -> Features:
    """Features of all footage, from `folder` if they were made by the tower that `stamp` names."""
    batch = 256
    path, note = folder / "features.npy", folder / "features.json"
    shape = (*footage.shapes.shape, tower.config.hidden_size)
    wanted = {"tower": stamp, "shape": list(shape)}
    if not note.exists() or json.loads(note.read_text()) != wanted:
        note.unlink(missing_ok=True)
        bank = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        for index in log.steps("bank", -(-shape[0] // batch)):
            rows = slice(index * batch, (index + 1) * batch)
            rgb = torch.from_numpy(np.array(footage.rgb[rows]))
            bank[rows] = tower_features(tower, rgb, device).half().cpu().numpy()
        bank.flush()
        note.write_text(json.dumps(wanted))
    loaded: Features = np.load(path, mmap_mode="r")
    return loaded
