"""Stage `align`: the projector learns to say in word embeddings what each patch shows; the language model is frozen.

With a random projector, video training starts from nothing and stays at chance for a long time.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmms_kvtp.tiny.footage import Footage
from lmms_kvtp.tiny.loop import Optimizer, autocast
from lmms_kvtp.tiny.stage_soft import PLACE_WEIGHT, Lexicon
from lmms_kvtp.tiny.student import Classroom

OBJECT_WEIGHT = 1.5


@dataclass(frozen=True)
class AlignStage:
    """Settings of the alignment."""

    steps: int = 500
    batch: int = 48
    lr: float = 3e-3


def targets(footage: Footage, frames: np.ndarray, tables: list[Tensor]) -> Float[Tensor, "b h w D"]:
    """Make what the pooled tokens of frames should be: place, and objects by the share of the cell that they cover."""
    places, shapes, colors = tables
    device = places.device

    def read(part: np.ndarray) -> Tensor:
        return torch.from_numpy(part[frames].astype(np.int64)).to(device)

    weights = torch.from_numpy(footage.weights[frames]).to(device)[..., None]
    things = shapes[read(footage.shapes)] + colors[read(footage.colors)]
    patches = PLACE_WEIGHT * places[read(footage.places)][:, None, None] + OBJECT_WEIGHT * weights * things
    count, rows, columns, width = patches.shape
    return patches.view(count, rows // 2, 2, columns // 2, 2, width).mean(dim=(2, 4))


def train_align(room: Classroom, stage: AlignStage) -> None:
    """Regress the pooled projector outputs onto word embeddings."""
    student, bank, log, dice = room.student, room.bank, room.log, np.random.default_rng(room.seed)
    first = cast(nn.Linear, student.projector[0])
    with torch.no_grad():
        scale = float(torch.from_numpy(bank[:: max(1, len(bank) // 64)].astype(np.float32)).std())
        first.weight.div_(scale)
        tables = [table.detach() for table in Lexicon(room.tokenizer, student).tables()]
    optimizer = Optimizer([student.projector], stage.steps, stage.lr, 0.0)
    for step in log.steps("align", stage.steps):
        frames = np.sort(dice.choice(len(bank), stage.batch, replace=False))
        wanted = targets(room.footage, frames, tables)
        features = torch.from_numpy(bank[frames]).to(room.device).float()
        with autocast(room.device):
            said = student.project(features[None])[0]
        error = (said.float() - wanted).square().mean()
        optimizer.step(error)
        if log.due(step):
            explained = 1 - error.item() / wanted.sub(wanted.mean(dim=(0, 1, 2))).square().mean().item()
            log.add("align", step, error=error.item(), explained=explained)
