from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmms_kvtp.allocators.softmax import Softmax
from lmms_kvtp.cost.flops import VisionShape, pooling_head_flops, vision_flops
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.types import FrameFeatures, GridPool
from lmms_kvtp.video.frames import Frames

GOLDENS = Path(__file__).parent.parent / "goldens"
ALONE = KVTP(fusion=False)
"""`scorer=similarity`."""
LONG = "What is the man in the red shirt doing at the table? Choices: eating soup, reading a book, a nap."


@pytest.fixture(scope="module")
def encoder() -> Siglip:
    return Siglip(str(GOLDENS / "siglip_tiny"), device="cpu", attn_implementation="eager")


@pytest.fixture(scope="module")
def features() -> FrameFeatures:
    image = torch.from_numpy(np.load(GOLDENS / "kvtp_predictor.npz")["image_features"])
    return FrameFeatures(torch.arange(19.0), image)


@torch.no_grad()
def test_scores_are_the_models_own_logits(encoder, features):
    ids = encoder.tokenizer("who is it?", padding="max_length", max_length=64, return_tensors="pt").input_ids
    pixels = torch.from_numpy(np.load(GOLDENS / "kvtp_predictor.npz")["pixel_values"])
    wanted = encoder.model(input_ids=ids, pixel_values=pixels).logits_per_text[0]
    scores = ALONE.score(features, Question("Prompt", refined="Who is it?"), encoder)
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=0)
    assert scores.std() > 0.1


def test_of_a_long_question_the_best_piece_counts(encoder, features):
    pieces = encoder.logits(features.image, encoder.encode_text([LONG]))
    assert pieces.shape == (2, 19) and (pieces.argmax(0) == 1).any() and (pieces.argmax(0) == 0).any()
    assert torch.equal(ALONE.score(features, Question(LONG), encoder), pieces.max(dim=0).values)


def test_an_empty_question_is_refused(encoder, features):
    with pytest.raises(ValueError, match=r"question 'task:3' has no text"):
        ALONE.score(features, Question("", doc_key="task:3"), encoder)


def test_a_frame_that_is_not_a_number_stops_the_allocator_and_is_named(encoder, features):
    image = features.image.clone()
    image[4] = torch.nan
    relevance = ALONE.score(FrameFeatures(features.times, image), Question("Who?"), encoder)
    with pytest.raises(ValueError, match=r"relevance of frames \[4\] is not finite"):
        Softmax().allocate(relevance, 7, 5)


def test_scoring_costs_one_pass_over_the_frames_and_a_question_none(encoder):
    noise = np.random.default_rng(7).integers(0, 256, (7, 13, 17, 3), dtype=np.uint8)
    frames = Frames(torch.from_numpy(noise), torch.arange(7.0))
    shape = VisionShape(image_size=42, patch_size=14, hidden=32, intermediate=48, layers=2, heads=4)
    text = encoder.encode_text(["load the weights"])
    with FlopCounterMode(display=False) as text_counter:
        encoder.encode_text(["who?"])
    with FlopCounterMode(display=False) as counter:
        described = encoder.encode(frames, KVTP.needs, GridPool("average", (6, 4)))
    assert counter.get_total_flops() == vision_flops(shape, 7) + pooling_head_flops(shape, 7)
    encoder.forget_texts()
    with FlopCounterMode(display=False) as counter:
        ALONE.score(described, Question("Who?"), encoder)
    assert counter.get_total_flops() == text_counter.get_total_flops() + 2 * 7 * text.shape[1]
