"""Settings of a training run: everything that decides its result besides the data."""

import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers.trainer_utils import get_last_checkpoint

from lmms_kvtp.encoders.parts.predictor import RECIPE
from lmms_kvtp.files import read_json, write_json
from lmms_kvtp.predictor.model import Objective
from lmms_kvtp.scorers.parts.fusion import FusionHead

REPORTERS = {"none": None, "tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Tools that a run can be followed with, and the packages of which one must be installed."""
PAPER = {
    **{"parts": "all", "epochs": 1, "lr": 1e-6, "head_lr": 1e-6, "videos_per_step": 1, "dtype": "bfloat16"},
    **{"gradient_checkpointing": True, "level": "frame", "flatness": 0.0, "anchors": 0, "queries": "raw"},
    **{"clip_size": 8, "local_weight": 0.05, "global_weight": 0.05},
}
"""The paper's training: eq. 4 to 11 per frame as printed, all of SigLIP, one learning rate; what it does not say (rate,
epochs, batch, weights) is the release's."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a run. These are for small models and few videos; PAPER has the paper's."""

    parts: Literal["head", "text", "all"] = "text"
    """Parts that are trained. head: temperatures, scale and bias. text: the text tower, too. all: both towers."""
    epochs: int = 10
    """Passes over the training videos, at most."""
    lr: float = 3e-4
    """Learning rate of the towers, and of a shared tower's head."""
    head_lr: float = 3e-3
    """Learning rate of temperatures, offsets, logit scale and logit bias."""
    videos_per_step: int = 4
    """Videos of a step on each process."""
    seed: int = 0
    """Seed of the split into training and validation, the order of videos, and what starts at random."""
    patience: int = 3
    """Epochs without a better recall on the validation videos after which training stops."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: mixed precision; parameters stay float32."""
    lora_rank: int = 0
    """Above 0, towers learn through adapters of this rank (peft), which are merged into the weights at the end."""
    gradient_checkpointing: bool = False
    """Keep no activations between layers, and compute them again for the gradients."""
    report_to: Literal["none", "tensorboard", "wandb"] = "none"
    """Follow the run there; it must be installed."""
    head: FusionHead = field(default_factory=FusionHead)
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        """Refuse settings that cannot run here, or train nothing, before any video is read."""
        for name in ("epochs", "videos_per_step", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; give a whole number of at least 1")
        for name in ("lr", "head_lr"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name}={getattr(self, name)} is no learning rate; give one of at least 0, like 3e-4")
        needed = REPORTERS[self.report_to]
        if needed and not any(map(importlib.util.find_spec, needed)):
            way_out = f"pip install {needed[0]}, or leave it out"
            raise ValueError(f"report_to={self.report_to}: it is not installed; {way_out}")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank={self.lora_rank} is below 0; 0 trains the weights themselves")
        if self.lora_rank and self.parts == "head":
            raise ValueError(f"lora_rank={self.lora_rank} with parts=head: no tower is trained; use parts=text or all")
        if self.lora_rank and not importlib.util.find_spec("peft"):
            raise ValueError(f"lora_rank={self.lora_rank} needs peft; pip install peft, or use lora_rank=0")

    def plain(self) -> Mapping[str, Any]:
        """Convert to plain values that JSON can hold."""
        values = asdict(self)
        values["head"] |= {"log_tau": self.head.log_tau.tolist(), "offsets": self.head.offsets.tolist()}
        plain: Mapping[str, Any] = json.loads(json.dumps(values))
        return plain


def last_checkpoint(out: Path, recipe: Recipe) -> str | None:
    """Find the newest epoch of a run with the same recipe in `out`, and note the recipe there.

    ValueError where the folder holds a run of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    note, wanted = out / RECIPE, {**recipe.plain(), "names": 2}  # of parameters: their version
    last = get_last_checkpoint(str(out / "epochs")) if (out / "epochs").is_dir() else None  # type: ignore[no-untyped-call]
    if last is not None and read_json(note, dict) != wanted:
        raise ValueError(f"{out} holds a run of another recipe; give another folder, or delete {out / 'epochs'}")
    write_json(note, wanted)  # other processes of the run read and write it, too
    return str(last) if last is not None else None
