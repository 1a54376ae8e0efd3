import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmms_kvtp import shipped
from lmms_kvtp.allocators.softmax import Softmax
from lmms_kvtp.cost.flops import VisionShape, pooling_head_flops, vision_flops
from lmms_kvtp.encoders.parts.text_side import save_text_side
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.scorers.parts.fusion import FusionHead
from lmms_kvtp.types import FrameFeatures, GridPool
from lmms_kvtp.video.frames import Frames

GOLDENS = Path(__file__).parent.parent / "goldens"
TINY = GOLDENS / "siglip_tiny"
QUESTION = Question("What is the man in the red shirt doing at the table? Choices: eating soup, reading a book, a nap.")
ALONE = KVTP(fusion=False)
"""`scorer=similarity`."""
TRAINED = FusionHead(5, 0.25, 0.5, "raw", torch.tensor([-0.7, -1.1]))


@pytest.fixture(scope="module")
def features() -> FrameFeatures:
    image = torch.from_numpy(np.load(GOLDENS / "kvtp_predictor.npz")["image_features"])
    return FrameFeatures(torch.arange(19.0), image)


@pytest.fixture(scope="module")
def encoder() -> Siglip:
    return Siglip(str(TINY), device="cpu", attn_implementation="eager")


def fused(encoder, features, head) -> torch.Tensor:
    text = torch.nn.functional.normalize(encoder.encode_text([QUESTION.prompt]), dim=-1)
    scale, bias = encoder.model.logit_scale.exp(), encoder.model.logit_bias
    own, local, whole = (text @ view.T * scale + bias for view in head.views(features.image))
    weights = 1 - head.local_weight - head.global_weight, head.local_weight, head.global_weight
    return (weights[0] * own + weights[1] * local + weights[2] * whole).max(dim=0).values


def test_without_a_trained_head_the_papers_constants_hold(encoder, features):
    scores = KVTP().score(features, QUESTION, encoder)
    torch.testing.assert_close(scores, fused(encoder, features, FusionHead(8, 0.05, 0.05)), atol=1e-5, rtol=0)
    assert not torch.allclose(scores, KVTP(fusion=False).score(features, QUESTION, encoder), atol=1e-3)


def test_the_release_scores_frames_alone(encoder, features):
    alone = KVTP(fusion=False).score(features, QUESTION, encoder)
    assert torch.equal(alone, KVTP(fusion=False).score(features, QUESTION, encoder))


def test_a_trained_head_is_read_beside_the_encoders_weights(features, tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "predictor")
    TRAINED.save(Path(folder))
    encoder = Siglip(str(folder), device="cpu")
    scores = KVTP().score(features, QUESTION, encoder)
    torch.testing.assert_close(scores, fused(encoder, features, TRAINED), atol=1e-5, rtol=0)


def test_a_head_of_another_folder_wins_and_fields_win_over_it(encoder, features, tmp_path):
    TRAINED.save(tmp_path)
    scores = KVTP(checkpoint=str(tmp_path)).score(features, QUESTION, encoder)
    torch.testing.assert_close(scores, fused(encoder, features, TRAINED), atol=1e-5, rtol=0)
    head = KVTP(checkpoint=str(tmp_path), clip_size=3, local_weight=0.0, global_weight=0.125).head(encoder)
    assert (head.clip_size, head.local_weight, head.global_weight, head.queries) == (3, 0.0, 0.125, "raw")
    assert torch.equal(head.log_tau, TRAINED.log_tau)


def test_a_folder_without_a_head_is_refused(encoder, features, tmp_path):
    with pytest.raises(ValueError, match=r"no fusion head in .*fusion\.json"):
        KVTP(checkpoint=str(tmp_path)).score(features, QUESTION, encoder)


@pytest.fixture
def text_side(encoder, tmp_path) -> Path:
    """A checkpoint whose text tower is not the encoder's."""
    tower = copy.deepcopy(encoder.model.text_model)
    with torch.no_grad():
        tower.head.weight.add_(torch.randn(32, 32, generator=torch.manual_seed(4)))
    save_text_side(tmp_path, tower, encoder.tokenizer, 1.5, -0.25)
    TRAINED.save(tmp_path)
    return tmp_path


def test_a_checkpoints_own_text_side_reads_the_question(encoder, features, text_side):
    scorer = KVTP(checkpoint=str(text_side), fusion=False)
    text = torch.nn.functional.normalize(scorer.text_side.encode_text([QUESTION.prompt]), dim=-1)
    images = torch.nn.functional.normalize(features.image, dim=-1)
    wanted = (text @ images.T * torch.tensor(1.5).exp() - 0.25).max(dim=0).values
    found = scorer.score(features, QUESTION, encoder)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(found, KVTP(fusion=False).score(features, QUESTION, encoder), atol=0.1)
    fused = KVTP(checkpoint=str(text_side)).score(features, QUESTION, encoder)
    assert not torch.allclose(found, fused, atol=1e-3)


def test_a_text_side_lies_on_the_device_of_its_scorer(text_side):
    scorer = KVTP(checkpoint=str(text_side), device="meta")
    assert scorer.text_side.device == torch.device("meta")


def test_a_text_side_of_another_encoder_is_refused(encoder, text_side):
    narrow = FrameFeatures(torch.arange(3.0), torch.randn(3, 24))
    with pytest.raises(ValueError, match=r"text side of width 32 .* frames of width 24; give the predictor"):
        KVTP(checkpoint=str(text_side)).score(narrow, QUESTION, encoder)


def test_the_shipped_predictor_has_a_name_and_is_held_against_its_manifest(encoder, features, text_side, monkeypatch):
    shipped.write_manifest(text_side)
    (shipped_at := text_side.parent / "predictors").mkdir()
    text_side = Path(shutil.move(text_side, shipped_at / "tiny"))
    monkeypatch.setattr("lmms_kvtp.encoders.parts.predictor.shipped_folder", lambda name: text_side.parent)
    scores = KVTP(checkpoint="tiny").score(features, QUESTION, encoder)
    assert torch.equal(scores, KVTP(checkpoint=str(text_side)).score(features, QUESTION, encoder))
    (text_side / "fusion.json").write_text("{}")
    with pytest.raises(ValueError, match=r"fusion\.json in .* is damaged or edited; reinstall lmms-kvtp"):
        KVTP(checkpoint="tiny").score(features, QUESTION, encoder)


def test_an_installation_without_the_predictor_says_so(encoder, features, tmp_path, monkeypatch):
    monkeypatch.setattr("lmms_kvtp.encoders.parts.predictor.shipped_folder", lambda name: tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ValueError, match=r"no embedded predictor tiny: .*sha256.* with scorer\.checkpoint=FOLDER"):
        KVTP(checkpoint="tiny").score(features, QUESTION, encoder)


def test_the_head_is_read_once(features, tmp_path, encoder):
    TRAINED.save(tmp_path)
    scorer = KVTP(checkpoint=str(tmp_path))
    assert scorer.head(encoder) is scorer.head(encoder)


def test_frames_alone_cost_less_than_in_context(encoder):
    seen = FrameFeatures(torch.arange(19.0))
    alone, fused = (each.flops(seen, QUESTION, encoder) for each in (KVTP(fusion=False), KVTP()))
    assert alone < fused


def test_the_head_costs_a_few_matrix_products_and_no_loop_over_frames(encoder, features):
    count, width, rows = 19, 32, 2
    QUESTION and encoder.encode_text(["load the weights"])
    with FlopCounterMode(display=False) as text_counter:
        encoder.encode_text([QUESTION.prompt])
    with FlopCounterMode(display=False) as counter:
        KVTP().score(features, QUESTION, encoder)
    square = 2 * count * count * width
    assert counter.get_total_flops() - text_counter.get_total_flops() == 3 * square + 3 * 2 * rows * count * width


@torch.no_grad()
def test_scores_are_the_models_own_logits(encoder, features):
    ids = encoder.tokenizer("who is it?", padding="max_length", max_length=64, return_tensors="pt").input_ids
    pixels = torch.from_numpy(np.load(GOLDENS / "kvtp_predictor.npz")["pixel_values"])
    wanted = encoder.model(input_ids=ids, pixel_values=pixels).logits_per_text[0]
    scores = ALONE.score(features, Question("Prompt", refined="Who is it?"), encoder)
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=0)
    assert scores.std() > 0.1


def test_of_a_long_question_the_best_piece_counts(encoder, features):
    pieces = encoder.logits(features.image, encoder.encode_text([QUESTION.prompt]))
    assert pieces.shape == (2, 19) and (pieces.argmax(0) == 1).any() and (pieces.argmax(0) == 0).any()
    assert torch.equal(ALONE.score(features, Question(QUESTION.prompt), encoder), pieces.max(dim=0).values)


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
