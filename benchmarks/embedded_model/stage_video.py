"""Stages on real videos: `align`, then `video`, from short cuts to the full length, all tokens of all frames.

Stage `align` teaches the projector to say in word embeddings what each patch shows; the language model is frozen. With
a random projector, video training starts from nothing and stays at chance for a long time.
"""

from dataclasses import dataclass
from typing import cast
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.embedded_model.footage import Footage, shorten, whole
from benchmarks.embedded_model.language import answer_logits, pack
from benchmarks.embedded_model.lessons import Coach, right_letters
from benchmarks.embedded_model.loop import Optimizer, autocast
from benchmarks.embedded_model.stage_soft import CHOSEN, LETTERED, PLACE_WEIGHT, SPOKEN, Lexicon, say
from benchmarks.embedded_model.student import Classroom
from lmms_kvtp.embedded.dataset import SHIPPED_KINDS

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


@dataclass(frozen=True)
class Cut:
    """Part of the stage; `frames` (fewest, most), or None for whole videos, which pass one at a time.

    The most can be 64, which all videos have.
    """

    steps: int
    frames: tuple[int, int] | None
    batch: int
    questions: int
    per_row: int


@dataclass(frozen=True)
class VideoStage:
    """Settings of the video stage."""

    cuts: tuple[Cut, ...] = (Cut(80, (16, 32), 6, 12, 4), Cut(80, (40, 64), 2, 16, 8), Cut(120, None, 2, 16, 16))
    kinds: tuple[str, ...] = SHIPPED_KINDS
    odds: tuple[float, float, float] = (0.05, 0.2, 0.75)
    """Odds of a step with questions answered by a word, by one of the options, or by a letter."""
    mixed: bool = False
    """Whether lengths come in random order, instead of one after the other."""
    lr: float = 8e-4
    muon_lr: float = 0.005
    decay_from: float = 0.6


VIDEO_STAGES = {
    "video": VideoStage(),
    "polish": VideoStage(
        (Cut(40, (16, 40), 6, 12, 4), Cut(160, (48, 64), 2, 16, 16), Cut(150, None, 2, 16, 16)),
        mixed=True,
        lr=6e-4,
        muon_lr=0.004,
        decay_from=0.1,
    ),
}
"""Parts in order: short cuts, whole videos, then all lengths with ever smaller steps.

At twice these learning rates, and with questions of a kind that is not shipped, the few frames of an event were lost
again with every greater length (`color` fell from 94 to 65 % of the training questions), and came back only while the
rates fell.
"""


def train_video(room: Classroom, name: str, stage: VideoStage) -> None:
    """Train projector, newline and language model on videos with all of their tokens."""
    student, log, dice = room.student, room.log, np.random.default_rng([room.seed, crc32(name.encode())])
    plan = [cut for cut in stage.cuts for _ in range(cut.steps)]
    if stage.mixed:
        plan = [plan[i] for i in dice.permutation(len(plan))]
    optimizer = Optimizer([student], len(plan), stage.lr, stage.muon_lr, stage.decay_from)
    coaches = {mode: Coach(dice) for mode in (SPOKEN, CHOSEN, LETTERED)}
    for step in log.steps(name, len(plan)):
        cut, mode = plan[step], int(dice.choice(3, p=stage.odds))
        videos = dice.choice(len(room.footage.starts) - 1, cut.batch, replace=False).tolist()
        if cut.frames is None:
            groups = [[(video, whole(video))] for video in videos]
        else:
            length = int(dice.integers(cut.frames[0], cut.frames[1] + 1))
            groups = [[(video, shorten(video, length, dice)) for video in videos]]
        total = 0.0
        for group in groups:
            questions = [coaches[mode].draw(excerpt.script, cut.questions, stage.kinds) for _, excerpt in group]
            asked = [[say(question, mode) for question in row] for row in questions]
            text = pack(room.tokenizer, asked, cut.per_row).to(room.device)
            rows = [room.footage.starts[video] + np.array(excerpt.frames) for video, excerpt in group]
            features = torch.from_numpy(np.stack([room.bank[row] for row in rows])).to(room.device).float()
            with autocast(room.device):
                shown = student.with_prefix(student.with_newlines(student.project(features)))
                logits, answers = answer_logits(student.llm, shown, text)
            loss = F.cross_entropy(logits.float(), answers)
            optimizer.backward(loss / len(groups))
            coaches[mode].note([question for row in questions for question in row], right_letters(logits, answers))
            total += loss.item() / len(groups)
        optimizer.update()
        if log.due(step):
            accuracy = {kind: coaches[LETTERED].accuracy[kind] for kind in stage.kinds}
            choices = {f"choose_{kind}": coaches[CHOSEN].accuracy[kind] for kind in stage.kinds}
            log.add(name, step, loss=total, frames=len(groups[0][0][1].frames), **accuracy, **choices)
