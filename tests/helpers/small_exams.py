"""Exams on a random model and two small videos, and what the gates find there."""

from dataclasses import replace

from helpers.small_videos import Clip

from lmms_kvtp.api import Model
from lmms_kvtp.doctor.exam import Exam, ExamQuestion
from lmms_kvtp.doctor.gates import GATES
from lmms_kvtp.leaderboard.gates import Gate
from lmms_kvtp.questions import Question

SIZE = 66
GATE = {gate.__name__: gate for gate in GATES}


def exam(model: Model, settings: str = "pruner=grid,keep_ratio=0.3", **parts) -> Exam:
    options = ("red", "green", "blue", "gray")
    questions = [Question(f"Which color? {n} A. red B. green", stem="Which color?") for n in (1, 2)]
    asked = [ExamQuestion(question, "A", options) for question in questions]
    method = replace(model.method(f"{settings},encoder.device=cpu"), **parts)
    videos = [Clip(6, SIZE, SIZE, seed=seed) for seed in (1, 2)]
    return Exam(model.vlm, method, videos, [asked, asked])


def failed(gates: list[Gate]) -> set[str]:
    return {gate.name for gate in gates if gate.passed is False}


def found(model: Model, *names: str, **parts) -> set[str]:
    """The gates that fail, of those that are named."""
    paper = exam(model, **parts)
    return failed([gate(paper) for gate in GATES if gate.__name__ in names])
