"""Stage `video`: questions about real videos, all tokens of all frames, from short cuts to the full length."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmms_kvtp.synth.questions import Question
from lmms_kvtp.training.tiny.bank import Features
from lmms_kvtp.training.tiny.curriculum import Coach, right_letters
from lmms_kvtp.training.tiny.footage import Footage
from lmms_kvtp.training.tiny.language import answer_logits
from lmms_kvtp.training.tiny.optimize import Optimizer
from lmms_kvtp.training.tiny.packing import pack
from lmms_kvtp.training.tiny.progress import Log, autocast
from lmms_kvtp.training.tiny.reel import Reel, shorten, whole
from lmms_kvtp.training.tiny.student import Student


@dataclass(frozen=True)
class Cut:
    """Part of the stage; `frames` (fewest, most), or None for whole videos, which pass one at a time."""

    steps: int
    frames: tuple[int, int] | None
    batch: int
    questions: int
    per_row: int


@dataclass(frozen=True)
class VideoStage:
    """Settings of the video stage."""

    cuts: tuple[Cut, ...] = (Cut(200, (16, 32), 6, 12, 4), Cut(150, (40, 64), 2, 16, 8), Cut(450, None, 2, 16, 16))
    lr: float = 1e-3
    muon_lr: float = 0.008


def train_video(
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    footage: Footage,
    bank: Features,
    stage: VideoStage,
    seed: int,
    device: torch.device,
    log: Log,
) -> None:
    """Train projector, newline and language model on videos with all of their tokens."""
    dice = np.random.default_rng(seed)
    plan = [cut for cut in stage.cuts for _ in range(cut.steps)]
    optimizer = Optimizer([student], len(plan), stage.lr, stage.muon_lr, decay_from=0.6)
    coach = Coach(dice)
    for step in log.steps("video", len(plan)):
        cut = plan[step]
        videos = dice.choice(len(footage.starts) - 1, cut.batch, replace=False).tolist()
        if cut.frames is None:
            groups = [[(video, whole(video))] for video in videos]
        else:
            length = int(dice.integers(cut.frames[0], cut.frames[1] + 1))
            groups = [[(video, shorten(video, length, dice)) for video in videos]]
        total = 0.0
        for group in groups:
            questions = [coach.draw(reel.script, cut.questions) for _, reel in group]
            loss, right = _pass(student, tokenizer, footage, bank, group, questions, cut.per_row, device)
            optimizer.backward(loss / len(groups))
            coach.note([question for row in questions for question in row], right)
            total += loss.item() / len(groups)
        optimizer.update()
        if log.due(step):
            log.add("video", step, loss=total, frames=len(groups[0][0][1].frames), **coach.accuracy)


def _pass(
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    footage: Footage,
    bank: Features,
    group: list[tuple[int, Reel]],
    questions: list[list[Question]],
    per_row: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Loss, and which answers are right, of some videos of one length."""
    rows = [footage.starts[video] + np.array(reel.frames) for video, reel in group]
    features = torch.from_numpy(np.stack([bank[row] for row in rows])).to(device).float()
    text = pack(tokenizer, [[(q.prompt, q.answer) for q in row] for row in questions], per_row).to(device)
    with autocast(device):
        video = student.with_prefix(student.with_newlines(student.project(features)))
        logits, targets = answer_logits(student.llm, video, text)
    return F.cross_entropy(logits.float(), targets), right_letters(logits, targets)
