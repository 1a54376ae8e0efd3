"""Exams on a random model and two small videos, and what the gates find there."""

from dataclasses import replace

import torch

from lmms_kvtp.api import Model
from lmms_kvtp.doctor.exam import Exam, ExamQuestion
from lmms_kvtp.doctor.gates import GATES
from lmms_kvtp.doctor.synthetic import reference
from lmms_kvtp.embedded.questions import chosen_letter
from lmms_kvtp.leaderboard.gates import Gate
from lmms_kvtp.questions import Question
from lmms_kvtp.video.frames import Frames

SIZE = 66
GATE = {gate.__name__: gate for gate in GATES}


class Clip:
    """Frames of slowly changing colour with noise, so that tokens differ by place and time."""

    def __init__(self, seed: int) -> None:
        self.source = self.key = f"clip{seed}"
        self.duration, self.instruction = 6.0, ""
        self.indices, self.times = torch.arange(6), torch.arange(6.0)
        self.seed = seed

    def chunks(self):
        draw = torch.Generator().manual_seed(self.seed)
        yield Frames(torch.randint(0, 255, (6, SIZE, SIZE, 3), generator=draw).to(torch.uint8), self.times)


def exam(model: Model, settings: str = "pruner=grid,keep_ratio=0.3", **parts) -> Exam:
    options = ("red", "green", "blue", "grey")
    questions = [Question(f"Which color? {n} A. red B. green", stem="Which color?") for n in (1, 2)]
    asked = [ExamQuestion(question, "A", options) for question in questions]
    method = replace(model.method(f"{settings},encoder.device=cpu"), **parts)
    return Exam(model.vlm, method, [Clip(1), Clip(2)], [asked, asked], chosen_letter, reference)


def failed(gates: list[Gate]) -> set[str]:
    return {gate.name for gate in gates if gate.passed is False}


def found(model: Model, *names: str, **parts) -> set[str]:
    """The gates that fail, of those that are named."""
    paper = exam(model, **parts)
    return failed([gate(paper) for gate in GATES if gate.__name__ in names])
