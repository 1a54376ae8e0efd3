"""What answers tell of a method: none, always the same, no better than random tokens or guessing."""

from dataclasses import dataclass

import pytest
from helpers.small_exams import GATE, exam

from lmms_kvtp.api import Model
from lmms_kvtp.doctor.exam import Exam
from lmms_kvtp.doctor.expected import Expected
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.random import RandomTokens


def test_random_under_another_name_is_caught(model):
    @dataclass(frozen=True)
    class Renamed(TokenPruner):
        def prune(self, tokens, features, budgets):
            return RandomTokens().prune(tokens, features, budgets)

    paper = exam(model, "pruner=grid,scorer=uniform,allocator=uniform,keep_ratio=0.3", pruner=Renamed())
    gate = GATE["random_against"](paper)
    assert gate.passed is False and "those of random tokens" in gate.detail


def test_empty_and_collapsed_answers_are_caught(model):
    paper = exam(model)
    paper.__dict__["own_answers"] = ["", "A", " \n", "C"]
    assert GATE["non_empty_answers"](paper).detail == "2 of 4 answers are empty"
    assert GATE["non_empty_answers"](paper).passed is False
    paper.__dict__["own_answers"], paper.__dict__["base_answers"] = ["B"] * 4, ["A", "B", "C", "D"]
    assert GATE["answer_letters"](paper).passed is None  # four are too few
    many = Exam(model.vlm, paper.method, paper.videos, [paper.questions[0] * 4] * 2)
    many.__dict__["own_answers"], many.__dict__["base_answers"] = ["B"] * 16, ["A", "B", "C", "D"] * 4
    assert GATE["answer_letters"](many).passed is False
    many.__dict__["base_answers"] = ["B"] * 16
    assert GATE["answer_letters"](many).passed is True
    assert GATE["baseline_accuracy"](many).passed is False  # all wrong, and guessing gives a quarter


def answered(model: Model, own: int, other: int) -> Exam:
    """An exam of sixteen questions: `own` right with the method, `other` without pruning and with random tokens."""
    paper = exam(model)
    many = Exam(model.vlm, paper.method, paper.videos, [paper.questions[0] * 4] * 2)
    many.__dict__["own_answers"], many.__dict__["base_answers"] = (["A"] * n + ["B"] * (16 - n) for n in (own, other))
    many.__dict__["answers"] = lambda method: many.base_answers
    return many


@pytest.mark.parametrize(("own", "drawn", "passed"), [(4, 16, False), (15, 16, True), (16, 4, True)])
def test_a_method_is_blamed_where_random_tokens_are_better_beyond_chance(model, own, drawn, passed):
    gate = GATE["random_against"](answered(model, own, drawn))
    assert gate.passed is passed and gate.detail == f"{own} of 16 right, random tokens {drawn}"


@pytest.mark.parametrize(("right", "passed"), [(7, False), (8, True), (16, True)])  # of four options: p = 0.08, 0.03
def test_a_baseline_must_be_better_than_guessing(model, right, passed):
    gate = GATE["baseline_accuracy"](answered(model, 0, right))
    assert gate.passed is passed and "guessing gives 25%" in gate.detail


@pytest.mark.parametrize(("right", "passed"), [(16, True), (14, True), (13, False)])
def test_a_baseline_below_its_record_is_caught(model, right, passed):
    paper = exam(model)
    recorded = Expected(accuracy=0.97, stderr=0.014, questions=200, source="")  # 16 questions: 15.4 points to each side
    many = Exam(model.vlm, paper.method, paper.videos, [paper.questions[0] * 4] * 2, recorded)
    many.__dict__["base_answers"] = ["A"] * right + ["B"] * (16 - right)
    gate = GATE["baseline_accuracy"](many)
    assert gate.passed is passed and f"{right} of 16 right without pruning, recorded 97.0% ± 15.4%" in gate.detail
