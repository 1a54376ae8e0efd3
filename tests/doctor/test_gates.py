"""Healthy methods pass every gate; each planted bug is caught by the gate that is there for it."""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from lmms_kvtp.allocators.base import BudgetAllocator
from lmms_kvtp.allocators.softmax import Softmax
from lmms_kvtp.api import Model
from lmms_kvtp.doctor.exam import Asked, Exam
from lmms_kvtp.doctor.expected import Expected
from lmms_kvtp.doctor.gates import GATES, Gate, examine
from lmms_kvtp.doctor.record import to_record, write_record
from lmms_kvtp.doctor.synthetic import reference
from lmms_kvtp.layer_pruning.base import LayerPruner, Stage
from lmms_kvtp.leaderboard.gates import gates_of, read_gates
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.none import Unpruned
from lmms_kvtp.pruners.random import RandomTokens
from lmms_kvtp.synth.parse import chosen_letter
from lmms_kvtp.types import Frames, FrameTokens, Question
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video

SIZE = 66


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


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    spec = importlib.util.spec_from_file_location("checkpoints", Path(__file__).parents[1] / "checkpoints.py")
    checkpoints = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checkpoints)
    folder = checkpoints.write_tiny(tmp_path_factory.mktemp("models") / "random")
    return Model(load_llava_video(str(folder), LoadOptions(device="cpu", attn_implementation="eager")))


def exam(model: Model, settings: str = "pruner=grid,keep_ratio=0.3", **parts) -> Exam:
    options = ("red", "green", "blue", "grey")
    asked = [Asked(Question(f"Which color? {n} A. red B. green", stem="Which color?"), "A", options) for n in (1, 2)]
    method = replace(model.method(f"{settings},encoder.device=cpu"), **parts)
    return Exam(model.vlm, method, [Clip(1), Clip(2)], [asked, asked], chosen_letter, reference)


def failed(gates: list[Gate]) -> set[str]:
    return {gate.name for gate in gates if gate.passed is False}


def found(model: Model, *names: str, **parts) -> set[str]:
    """The gates that fail, of those that are named."""
    paper = exam(model, **parts)
    return failed([gate(paper) for gate in GATES if gate.__name__ in names])


@dataclass(frozen=True)
class Stub(TokenPruner):
    """Prunes nothing, whatever is asked."""

    def prune(self, tokens, features, budgets, relevance=None):
        return Unpruned().prune(tokens, features, torch.full_like(budgets, tokens.capacity))


@dataclass(frozen=True)
class Shuffled(TokenPruner):
    """Tokens that do not stand where they say."""

    def prune(self, tokens, features, budgets, relevance=None):
        packed = RandomTokens().prune(tokens, features, budgets)
        order = torch.randperm(len(packed.frame), generator=torch.Generator().manual_seed(1))
        return replace(packed, embeds=packed.embeds[order])


@dataclass(frozen=True)
class Forgetful(TokenPruner):
    """Random without a seed."""

    def prune(self, tokens: FrameTokens, features, budgets, relevance=None):
        return RandomTokens(seed=int(torch.seed() % 1000)).prune(tokens, features, budgets)


@dataclass(frozen=True)
class Losing(BudgetAllocator):
    """Loses a token of every frame, and says nothing."""

    def allocate(self, relevance, total, capacity):
        return (Softmax().allocate(relevance, total, capacity) - 1).clamp_min(0)


@dataclass(frozen=True)
class Leaking(LayerPruner):
    """Leaves a hook on the model."""

    def stages(self):
        def select(inputs):
            inputs.layer.register_forward_pre_hook(lambda layer, args: (args[0] * 1.5, *args[1:]))
            return torch.ones_like(inputs.vision)

        return (Stage(1, reads=1, select=select),)


@pytest.mark.parametrize(
    "settings",
    [
        "pruner=grid,keep_ratio=0.3",
        "pruner=prumerge,keep_ratio=0.2",
        "scorer=uniform,pruner=tome,keep_ratio=0.5",
        "pruner=none,scorer=uniform,allocator=uniform,keep_ratio=1,layer_pruning=fastv",
    ],
)
def test_healthy_methods_pass(model, settings):
    gates = examine(exam(model, settings))
    assert len(gates) == len(GATES) == 11
    assert not failed(gates) - {"non-empty answers"}, gates  # weights are random, and so is what they say
    assert next(gate for gate in gates if gate.name == "baseline logits").passed


def test_the_unpruned_model_is_not_blamed_for_pruning_nothing(model):
    paper = exam(model, "pruner=none,scorer=uniform,allocator=uniform,keep_ratio=1")
    gates = {g.__name__: g for g in GATES}
    assert gates["changed_output"](paper).passed is None
    assert gates["random_against"](paper).passed is None


def test_a_stub_that_prunes_nothing_is_caught(model):
    assert found(model, "changed_output", "exact_budget", pruner=Stub()) == {"changed output", "exact budget"}


def test_a_lost_budget_is_caught(model):
    gate = {g.__name__: g for g in GATES}["exact_budget"](exam(model, allocator=Losing()))
    assert gate.passed is False and "instead of" in gate.detail


def test_shuffled_tokens_are_caught(model):
    assert found(model, "order", pruner=Shuffled()) == {"order"}


def test_a_leaking_hook_is_caught(model):
    try:
        assert found(model, "hooks_removed", layer_pruning=Leaking()) == {"hooks removed"}
    finally:
        for layer in model.vlm.layers:
            layer._forward_pre_hooks.clear()
            layer._forward_pre_hooks_with_kwargs.clear()


def test_a_changed_baseline_is_caught(model, monkeypatch):
    project = type(model.vlm).project

    def brighter(self, patches):
        tokens = project(self, patches)
        return replace(tokens, embeds=tokens.embeds * 1.05)

    assert found(model, "baseline_logits") == set()
    monkeypatch.setattr(type(model.vlm), "project", brighter)
    assert found(model, "baseline_logits") == {"baseline logits"}


def test_a_draw_without_seed_is_caught(model):
    assert found(model, "determinism", pruner=Forgetful()) == {"determinism"}


def test_random_under_another_name_is_caught(model):
    @dataclass(frozen=True)
    class Renamed(TokenPruner):
        def prune(self, tokens, features, budgets, relevance=None):
            return RandomTokens().prune(tokens, features, budgets)

    paper = exam(model, "pruner=grid,scorer=uniform,allocator=uniform,keep_ratio=0.3", pruner=Renamed())
    gate = {g.__name__: g for g in GATES}["random_against"](paper)
    assert gate.passed is False and "those of random tokens" in gate.detail


def test_empty_and_collapsed_answers_are_caught(model):
    paper = exam(model)
    gates = {g.__name__: g for g in GATES}
    paper.__dict__["own_answers"] = ["", "A", "B", "C"]
    assert gates["non_empty_answers"](paper).passed is False
    many = Exam(model.vlm, paper.method, paper.videos, [paper.questions[0] * 4] * 2, chosen_letter, reference)
    many.__dict__["own_answers"], many.__dict__["base_answers"] = ["B"] * 16, ["A", "B", "C", "D"] * 4
    assert gates["answer_letters"](many).passed is False
    many.__dict__["base_answers"] = ["B"] * 16
    assert gates["answer_letters"](many).passed is True
    assert gates["baseline_accuracy"](many).passed is False  # all wrong, and guessing gives a quarter


def test_the_leaderboard_reads_the_record(model, tmp_path):
    paper = exam(model, pruner=Stub())
    record = to_record(paper.method, "random", examine(paper))
    write_record(tmp_path / "stub_gates.json", record)
    [read] = read_gates([tmp_path / "stub_gates.json"])
    assert "changed output" in read.failed and read.status.startswith("failed: ")
    assert gates_of(record["method"], [read]) is read


@pytest.mark.parametrize(("right", "passed"), [(16, True), (14, True), (13, False)])
def test_a_baseline_below_its_record_is_caught(model, right, passed):
    paper = exam(model)
    recorded = Expected(accuracy=0.97, stderr=0.014, questions=200, source="")  # 16 questions: 15.4 points to each side
    many = Exam(model.vlm, paper.method, paper.videos, [paper.questions[0] * 4] * 2, chosen_letter, reference, recorded)
    many.__dict__["base_answers"] = ["A"] * right + ["B"] * (16 - right)
    gate = {g.__name__: g for g in GATES}["baseline_accuracy"](many)
    assert gate.passed is passed and f"{right} of 16 right without pruning, recorded 97.0% ± 15.4%" in gate.detail
