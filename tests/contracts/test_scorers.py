"""What every frame scorer promises, checked for each of them by name."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.pretend_gpu import pretend_gpu, put_all, reported_waits

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.method import build_part
from lmms_kvtp.presets import names_of
from lmms_kvtp.questions import Question
from lmms_kvtp.types import ADDED, FEATURES, FrameFeatures

SCORERS = {name: build_part("scorer", name) for name in names_of("scorer")}
ENCODER = Siglip(str(Path(__file__).parent.parent / "goldens" / "siglip_tiny"), device="cpu")
QUESTION = Question("Which star?", stem="Which star?", options=("red", "blue"), spans=((1.0, 2.0, 3.0),))
every = pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)


def features(count: int = 7) -> FrameFeatures:
    draw = torch.manual_seed(count)
    return FrameFeatures(
        times=torch.arange(count) / 2,
        image=torch.randn(count, 32, generator=draw),
        probe_attention=torch.rand(count, 12, generator=draw),
        column_attention=torch.rand(count, 12, generator=draw),
        keys=torch.randn(count, 12, 32, generator=draw),
        layer_keys=torch.zeros(count, 12, 8),
        patch_text=torch.randn(count, 12, 32, generator=draw),
        tokens=torch.randn(count, 12, 48, generator=draw),
    )


def only(needs: frozenset[str], given: FrameFeatures) -> FrameFeatures:
    return replace(given, **dict.fromkeys((FEATURES | ADDED) - needs))


@every
@pytest.mark.parametrize("count", [1, 7, 17])
def test_scores_are_one_finite_number_per_frame(scorer, count):
    scores = scorer.score(features(count), QUESTION, ENCODER)
    assert scores.shape == (count,) and scores.dtype == torch.float32 and torch.isfinite(scores).all()


@every
def test_only_declared_features_are_read(scorer):
    assert scorer.needs <= FEATURES | ADDED
    whole = scorer.score(features(), QUESTION, ENCODER)
    assert torch.equal(scorer.score(only(scorer.needs, features()), QUESTION, ENCODER), whole)


@every
def test_features_are_not_changed(scorer):
    given = features()
    before = copy.deepcopy(given)
    scorer.score(given, QUESTION, ENCODER)
    assert all(torch.equal(getattr(given, name), getattr(before, name)) for name in FEATURES | {"times", "tokens"})


@every
def test_query_aware_means_that_the_question_matters(scorer):
    other = Question("Who sings?", stem="Who sings?", spans=((0.0, 0.5, 3.0),))
    first, second = (scorer.score(features(), question, ENCODER) for question in (QUESTION, other))
    assert torch.equal(first, second) == (not scorer.query_aware)


@every
def test_the_same_question_gets_the_same_scores(scorer):
    assert torch.equal(scorer.score(features(), QUESTION, ENCODER), scorer.score(features(), QUESTION, ENCODER))


@every
def test_no_scorer_waits_for_a_gpu(scorer):
    given, expected = features(), scorer.score(features(), QUESTION, ENCODER)
    ENCODER.forget_texts()
    put_all(given)
    with pretend_gpu(ENCODER.model) as waits:
        scores = scorer.score(given, QUESTION, ENCODER)
    assert torch.equal(scores, expected) and not waits, waits


@pytest.mark.gpu
@every
def test_a_gpu_scores_as_the_cpu_does(scorer):
    given = features()
    there = replace(given.to(torch.device("cuda")), tokens=given.tokens.cuda())
    encoder = replace(ENCODER, device="cuda", dtype="float32")
    scorer.score(there, replace(QUESTION, stem="Who?"), encoder)  # loads
    with reported_waits() as waits:
        scores = scorer.score(there, QUESTION, encoder)
    torch.testing.assert_close(scores.cpu(), scorer.score(given, QUESTION, ENCODER), rtol=1e-3, atol=1e-3)
    assert not waits, waits
