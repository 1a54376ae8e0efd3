"""Healthy methods pass every gate; each planted bug is caught by the gate that is there for it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import pytest
import torch
from helpers.small_exams import GATE, exam, failed, found

from lmms_kvtp.allocators.base import BudgetAllocator
from lmms_kvtp.allocators.softmax import Softmax
from lmms_kvtp.doctor.gates import GATES, examine
from lmms_kvtp.layer_pruning.base import LayerPruner, Stage
from lmms_kvtp.leaderboard.gates import read_records, record_of, write_record
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.none import Unpruned
from lmms_kvtp.pruners.random import RandomTokens
from lmms_kvtp.types import FrameTokens


@dataclass(frozen=True)
class Stub(TokenPruner):
    """Prunes nothing, whatever is asked."""

    def prune(self, tokens, features, budgets):
        return Unpruned().prune(tokens, features, torch.full_like(budgets, tokens.capacity))


@dataclass(frozen=True)
class Shuffled(TokenPruner):
    """Tokens that do not stand where they say."""

    def prune(self, tokens, features, budgets):
        packed = RandomTokens().prune(tokens, features, budgets)
        order = torch.randperm(len(packed.frame), generator=torch.Generator().manual_seed(1))
        return replace(packed, embeds=packed.embeds[order])


@dataclass(frozen=True)
class Backwards(TokenPruner):
    """The last tokens first; each says where it stands."""

    def prune(self, tokens, features, budgets):
        packed = RandomTokens().prune(tokens, features, budgets)
        return replace(packed, **{name: getattr(packed, name).flip(0) for name in ("embeds", "frame", "patch", "size")})


@dataclass(frozen=True)
class Dimming(TokenPruner):
    """Random tokens at half their strength, all of them included."""

    def prune(self, tokens, features, budgets):
        packed = RandomTokens().prune(tokens, features, budgets)
        return replace(packed, embeds=packed.embeds / 2)


@dataclass(frozen=True)
class Recalling(TokenPruner):
    """Random, with a seed that depends on the videos so far, this one last."""

    seed: Callable[[list[str]], int]
    seen: list[str] = field(default_factory=list, compare=False)

    def prune(self, tokens, features, budgets):
        self.seen.append(tokens.key)
        return RandomTokens(seed=self.seed(self.seen)).prune(tokens, features, budgets)


@dataclass(frozen=True)
class Forgetful(TokenPruner):
    """Random without a seed."""

    def prune(self, tokens: FrameTokens, features, budgets):
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


@dataclass(frozen=True)
class Touching(LayerPruner):
    """Does something to a layer, and drops nothing."""

    touch: Callable[[torch.nn.Module], object]

    def stages(self):
        def select(inputs):
            self.touch(inputs.layer)
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
    assert GATE["changed_output"](paper).passed is None
    assert GATE["random_against"](paper).passed is None


def test_a_stub_that_prunes_nothing_is_caught(model):
    assert found(model, "changed_output", "exact_budget", pruner=Stub()) == {"changed output", "exact budget"}


def test_a_lost_budget_is_caught(model):
    gate = GATE["exact_budget"](exam(model, allocator=Losing()))
    assert gate.passed is False and "instead of" in gate.detail


def test_a_budget_is_exact_at_every_ratio(model):
    @dataclass(frozen=True)
    class Tight(BudgetAllocator):
        def allocate(self, relevance, total, capacity):
            budgets = Softmax().allocate(relevance, total, capacity)
            return budgets if 10 * total <= len(relevance) * capacity else (budgets - 1).clamp_min(0)

    assert found(model, "exact_budget", allocator=Tight()) == {"exact budget"}


def test_the_low_budget_is_the_methods_own_where_that_is_lower(model):
    ratios = [exam(model, f"pruner=grid,keep_ratio={ratio}").low.keep_ratio for ratio in (0.3, 0.05, 1)]
    assert ratios == [0.1, 0.05, 1]


def test_random_tokens_are_as_many_as_the_methods(model):
    control = exam(model, "pruner=grid,keep_ratio=0.3").control
    assert (type(control.pruner), control.keep_ratio) == (RandomTokens, 0.3)


@pytest.mark.parametrize(
    ("parts", "detail"),
    [
        ({"allocator": Losing()}, "changes the length of 2 of 2 prompts"),
        ({"pruner": Dimming()}, "logits differ at keep_ratio=1"),
    ],
)
def test_a_method_that_loses_or_changes_tokens_with_room_for_all_is_caught(model, parts, detail):
    gate = GATE["keep_all_identity"](exam(model, **parts))
    assert gate.passed is False and detail in gate.detail


def test_what_is_published_so_is_not_blamed(model):
    lost = exam(model, "pruner=grid,allocator=kvtp_release,allocator.temperature=0.01,keep_ratio=0.3")
    more = exam(model, "pruner=flashvid_release,scorer=uniform,allocator=uniform,keep_ratio=0.3")
    for released, name in product((lost, more), ("keep_all_identity", "exact_budget")):
        gate = GATE[name](released)
        assert gate.passed is None and "as published" in gate.detail
    assert GATE["keep_all_identity"](exam(model, "pruner=prumerge")).passed is None


@pytest.mark.parametrize("pruner", [Shuffled(), Backwards()])
def test_shuffled_tokens_are_caught(model, pruner):
    assert found(model, "order", pruner=pruner) == {"order"}


def test_a_leaking_hook_is_caught(model):
    try:
        assert found(model, "hooks_removed", layer_pruning=Leaking()) == {"hooks removed"}
    finally:
        for layer in model.vlm.layers:
            layer._forward_pre_hooks.clear()
            layer._forward_pre_hooks_with_kwargs.clear()


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_a_hook_that_does_nothing_is_caught(model, kind):
    handles = []

    def touch(layer):
        add = layer.register_forward_pre_hook if kind == "pre" else layer.mlp.register_forward_hook
        handles.append(add(lambda *inputs: None))

    gate = GATE["hooks_removed"](exam(model, layer_pruning=Touching(touch)))
    for handle in handles:
        handle.remove()
    assert gate.passed is False and "unpruned logits as before" in gate.detail


def test_weights_that_stay_changed_are_caught(model):
    weights = model.vlm.layers[1].mlp.down_proj.weight
    before = weights.detach().clone()

    def touch(layer):
        layer.mlp.down_proj.weight.data.mul_(1.5)

    try:
        gate = GATE["hooks_removed"](exam(model, layer_pruning=Touching(touch)))
    finally:
        weights.data.copy_(before)
    assert gate.passed is False and gate.detail == "0 hooks stay, unpruned logits changed"


def test_a_changed_baseline_is_caught(model, monkeypatch):
    look = type(model.vlm).look

    def brighter(self, frames, spec):
        tokens, seen = look(self, frames, spec)
        return replace(tokens, embeds=tokens.embeds * 1.05), seen

    assert found(model, "baseline_logits") == set()
    monkeypatch.setattr(type(model.vlm), "look", brighter)
    assert found(model, "baseline_logits") == {"baseline logits"}


def test_published_logits_that_differ_are_named_by_the_gate(model, monkeypatch):
    name = Path(model.vlm.name).name
    monkeypatch.setattr("lmms_kvtp.doctor.reference.PUBLISHED", {name: ((0.0, 0.0, 0.0),) * 3})
    assert found(model, "baseline_logits") == {"baseline logits"}


def test_a_draw_without_seed_is_caught(model):
    assert found(model, "determinism", pruner=Forgetful()) == {"determinism"}


@pytest.mark.parametrize(
    ("seed", "detail"),
    [
        (lambda seen: int(seen[-2:] == ["clip2", "clip1"]), "same logits again, in another order: no"),
        (lambda seen: len(seen) // 5, "same logits again: no, in another order"),
    ],
)
def test_what_stays_of_earlier_videos_is_caught(model, seed, detail):
    gate = GATE["determinism"](exam(model, pruner=Recalling(seed)))
    assert (gate.passed, gate.detail) == (False, detail)


def test_the_leaderboard_reads_the_record(model, tmp_path):
    paper = exam(model, pruner=Stub())
    write_record(tmp_path / "stub_gates.json", paper.method, "random", examine(paper))
    [read] = read_records([tmp_path / "stub_gates.json"])
    assert "changed output" in read.failed and read.status.startswith("failed: ")
    assert record_of(paper.method.describe(), [read]) is read
