"""Every closed form of a component equals what torch counts while that component runs."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmms_kvtp.cost.meter import counting
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.questions import Question
from lmms_kvtp.resolve import available, resolve
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.scorers.similarity import Similarity
from lmms_kvtp.types import FEATURES, FrameFeatures, FrameTokens, GridPool
from lmms_kvtp.video.frames import Frames

TINY = str(Path(__file__).parent.parent / "goldens" / "siglip_tiny")
PRUNERS = [resolve("lmms_kvtp.pruners", name, TokenPruner) for name in available("lmms_kvtp.pruners")]
SCORERS = [resolve("lmms_kvtp.scorers", name, FrameScorer) for name in available("lmms_kvtp.scorers")]
QUESTION = Question("Which star?", stem="Which star is red?", spans=((1.0, 2.0, 3.0),))


def name_of(cls: type) -> str:
    return cls.__module__.rpartition(".")[2]


@pytest.fixture(scope="module")
def encoder() -> Siglip:
    return Siglip(TINY, device="cpu", attn_implementation="eager")


@pytest.mark.parametrize("cls", PRUNERS, ids=name_of)
@settings(max_examples=12)
@given(budgets=st.lists(st.integers(0, 12), min_size=1, max_size=18), alike=st.sampled_from([0.0, 1.0, 5.0]))
def test_pruners_need_the_operations_that_they_say(cls, budgets, alike):
    if name_of(cls) == "none":
        budgets = [12 * (budget > 5) for budget in budgets]
    wanted, frames = torch.tensor(budgets), len(budgets)
    draw = torch.Generator().manual_seed(frames)
    shapes = {"image": (frames, 5), "keys": (frames, 12, 6), "patch_text": (frames, 12, 5), "text": (2, 5)}
    made = {name: torch.rand(*shapes.get(name, (frames, 12)), generator=draw) for name in cls.needs}
    scenes = torch.randn(1 + frames // 5, 12, 8, generator=draw).repeat_interleave(5, dim=0)[:frames]
    tokens = FrameTokens(torch.randn(frames, 12, 8, generator=draw) + alike * scenes, (3, 4))
    features = FrameFeatures(times=torch.arange(frames).float(), **made)
    with counting() as found:
        packed = cls().prune(tokens, features, wanted, torch.linspace(0, 1, frames))
    known = packed.flops if cls.tells_flops else cls().flops(tokens, features, wanted)
    assert known == found.flops, f"{name_of(cls)} tells {known} operations, torch counts {found.flops}"
    assert cls.tells_flops or not packed.flops


@pytest.mark.parametrize("cls", [cls for cls in PRUNERS if cls.tells_flops], ids=name_of)
def test_what_depends_on_the_data_is_not_said_beforehand(cls):
    tokens, features = FrameTokens(torch.rand(2, 12, 8), (3, 4)), FrameFeatures(times=torch.arange(2.0))
    assert cls().flops(tokens, features, torch.tensor([3, 4])) is None


@pytest.mark.parametrize("needs", [{"image"}, {"keys"}, {"column_attention"}, {"patch_text", "probe_attention"}, set()])
def test_the_encoder_needs_the_operations_that_it_says(encoder, needs):
    frames = Frames(torch.randint(0, 255, (5, 20, 30, 3), dtype=torch.uint8), torch.arange(5.0))
    pool, chosen = GridPool("average", (6, 4)), frozenset(needs)
    encoder.encode(frames, FEATURES, pool)  # the weights load
    encoder.model.vision_model.head.attention.train()  # the counter does not see into its fused inference path
    with counting() as found:
        encoder.encode(frames, chosen, pool)
    assert encoder.flops(5, chosen) == found.flops


def test_projected_keys_cost_their_projection(encoder):
    projected = Siglip(TINY, device="cpu", key_source="projected")
    assert projected.flops(5, frozenset({"keys"})) - encoder.flops(5, frozenset({"keys"})) == 5 * 2 * 9 * 32**2


@pytest.mark.parametrize("scorer", [cls() for cls in SCORERS] + [KVTP(fusion=False)], ids=repr)
@pytest.mark.parametrize("stem", ["Which star is red?", "Who sings in the choir of the old town? " * 9])
def test_scorers_need_the_operations_that_they_say(scorer, stem):
    features = FrameFeatures(times=torch.arange(7.0), image=torch.rand(7, 32), tokens=torch.rand(7, 12, 8))
    question = Question(stem, stem=stem, spans=QUESTION.spans)
    encoder = Siglip(TINY, device="cpu", attn_implementation="eager")  # another scorer's has read the question
    encoder.encode_text(["the weights load"])
    with counting() as found:
        scorer.score(features, question, encoder)
    assert scorer.flops(7, question, encoder) == found.flops


def test_long_questions_cost_more_rows(encoder):
    short, long = (Similarity().flops(7, Question(text, stem=text), encoder) for text in ("who?", "who is it? " * 40))
    assert long > 2 * short
