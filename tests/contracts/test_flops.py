"""Every closed form of a component equals what torch counts while that component runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmms_kvtp.cost.meter import Meter, counting, undeclared_flops
from lmms_kvtp.encode import Encoded
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.method import KVTP as DEFAULTS
from lmms_kvtp.method import build_method, build_part
from lmms_kvtp.pipeline import select, weigh
from lmms_kvtp.presets import names_of
from lmms_kvtp.pruners.random import RandomTokens
from lmms_kvtp.questions import Question, question_text
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.types import FEATURES, FrameFeatures, FrameTokens, GridPool
from lmms_kvtp.video.frames import Frames

TINY = str(Path(__file__).parent.parent / "goldens" / "siglip_tiny")
PRUNERS, SCORERS = ({name: build_part(part, name) for name in names_of(part)} for part in ("pruner", "scorer"))
PRUNERS["prumerge_plus with its extra token"] = build_part("pruner", "prumerge_plus", {"pruner.extra": "true"})
QUESTION = Question("Which star?", stem="Which star is red?", spans=((1.0, 2.0, 3.0),))


@pytest.fixture(scope="module")
def encoder() -> Siglip:
    return Siglip(TINY, device="cpu", attn_implementation="eager")


@pytest.mark.parametrize("name", PRUNERS)
@settings(max_examples=12)
@given(budgets=st.lists(st.integers(0, 12), min_size=1, max_size=18), alike=st.sampled_from([0.0, 1.0, 5.0]))
def test_pruners_need_the_operations_that_they_say(name, budgets, alike):
    pruner = PRUNERS[name]
    if name == "none":
        budgets = [12 * (budget > 5) for budget in budgets]
    wanted, frames = torch.tensor(budgets), len(budgets)
    draw = torch.Generator().manual_seed(frames)
    shapes = {"image": (frames, 5), "text": (2, 5)}
    shapes |= {"keys": (frames, 12, 6), "layer_keys": (frames, 12, 4), "patch_text": (frames, 12, 5)}
    made = {each: torch.rand(*shapes.get(each, (frames, 12)), generator=draw) for each in pruner.needs}
    scenes = torch.randn(1 + frames // 5, 12, 8, generator=draw).repeat_interleave(5, dim=0)[:frames]
    tokens = FrameTokens(torch.randn(frames, 12, 8, generator=draw) + alike * scenes, (3, 4))
    features = FrameFeatures(times=torch.arange(frames).float(), **made)
    with counting() as found:
        packed = pruner.prune(tokens, features, wanted)
    told = pruner.flops(tokens, features, wanted)
    known = packed.flops if told is None else told
    assert known == found.flops, f"{name} tells {known} operations, torch counts {found.flops}"
    assert told is None or not packed.flops


@pytest.mark.parametrize("needs", [{"image"}, {"keys"}, {"column_attention"}, {"patch_text", "probe_attention"}, set()])
def test_the_encoder_needs_the_operations_that_it_says(encoder, needs):
    frames = Frames(torch.randint(0, 255, (5, 20, 30, 3), dtype=torch.uint8), torch.arange(5.0))
    pool, chosen = GridPool("average", (6, 4)), frozenset(needs)
    encoder.encode(frames, FEATURES, pool)  # the weights load
    encoder.model.vision_model.head.attention.train()  # the counter does not see into its fused inference path
    with counting() as found:
        encoder.encode(frames, chosen, pool)
    assert encoder.flops(5, chosen, pool) == found.flops


def test_projected_keys_cost_their_projection(encoder):
    projected, pool = Siglip(TINY, device="cpu", key_source="projected"), GridPool("average", (6, 4))
    plain, more = (each.flops(5, frozenset({"keys"}), pool) for each in (encoder, projected))
    assert more - plain == 5 * 2 * 9 * 32**2


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
@pytest.mark.parametrize("stem", ["Which star is red?", "Who sings in the choir of the old town? " * 9])
def test_scorers_need_the_operations_that_they_say(scorer, stem):
    features = FrameFeatures(times=torch.arange(7.0), image=torch.rand(7, 32), tokens=torch.rand(7, 12, 8))
    question = Question(stem, stem=stem, spans=QUESTION.spans)
    encoder = Siglip(TINY, device="cpu", attn_implementation="eager")  # another scorer's has read the question
    encoder.encode_text(["the weights load"])
    with counting() as found:
        scorer.score(features, question, encoder)
    told = scorer.flops(features, question, encoder)
    assert told == found.flops
    known = replace(features, text=encoder.encode_text([question_text(question)]))
    with counting() as again:
        scorer.score(known, question, encoder)
    assert scorer.flops(known, question, encoder) == again.flops
    text = encoder.relevance_flops(0, [question_text(question)])
    assert told - again.flops in (0, text)


@pytest.mark.parametrize("scorer", ["uniform", "similarity", "kvtp"])
def test_the_text_that_a_pruner_reads_is_counted_once_whatever_the_scorer_reads(scorer):
    own = {"scorer": scorer, "pruner": "cdpruner", "encoder.pretrained": TINY, "encoder.device": "cpu"}
    method = build_method(own, DEFAULTS)
    image = torch.rand(7, 32)
    visual = Encoded(FrameTokens(torch.rand(7, 12, 8), (3, 4)), FrameFeatures(torch.arange(7.0), image), "", {})
    told, counted = Meter(torch.device("cpu")), Meter(torch.device("cpu"))
    method.encoder.model.text_model.config._attn_implementation = "eager"
    weigh(method, visual, QUESTION, told)
    method.encoder.forget_texts()
    with counting() as found:
        weigh(method, visual, QUESTION, counted)
    assert told.flops["scorer"] == found.flops


class Elsewhere(RandomTokens):
    """A pruner of another package, without a formula."""

    def prune(self, tokens, features, budgets):
        tokens.embeds @ tokens.embeds.transpose(1, 2)
        return super().prune(tokens, features, budgets)


def test_a_component_outside_the_package_without_a_formula_is_counted_while_it_runs():
    assert undeclared_flops(RandomTokens()) == 0 and undeclared_flops(Elsewhere()) is None
    method = replace(build_method({"pruner": "random", "scorer": "uniform"}, DEFAULTS), pruner=Elsewhere())
    visual = Encoded(FrameTokens(torch.rand(7, 12, 8), (3, 4)), FrameFeatures(torch.arange(7.0)), "", {})
    meter = Meter(torch.device("cpu"))
    select(method, visual, QUESTION, meter)
    assert meter.flops["pruner"] == 2 * 7 * 12 * 12 * 8


def test_long_questions_cost_more_rows(encoder):
    features = FrameFeatures(times=torch.arange(7.0))
    texts = "who?", "who is it? " * 40
    short, long = (KVTP(fusion=False).flops(features, Question(text, stem=text), encoder) for text in texts)
    assert long > 2 * short
