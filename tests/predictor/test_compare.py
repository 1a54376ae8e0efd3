"""Rows of `lmms-kvtp eval predictor`: which scorer and encoder a checkpoint stands for, and what it costs."""

from pathlib import Path

import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.small_videos import write_video

from lmms_kvtp.cost.flops import VisionShape, pooling_head_flops, vision_flops
from lmms_kvtp.encoders.parts.text_side import save_text_side
from lmms_kvtp.encoders.parts.tower_head import HeadShape, TowerHead
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.predictor.compare import (
    CLIP_SIZES,
    COLUMNS,
    SHARES,
    CandidateResults,
    baselines,
    by_kind,
    candidates_table,
    measure_candidates,
    oracle,
    trained,
    variants,
)
from lmms_kvtp.predictor.examples import Example
from lmms_kvtp.predictor.features import CachedVideo
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.parts.fusion import FusionHead
from lmms_kvtp.types import FrameFeatures
from lmms_kvtp.vlms.llava_video import load_llava_video

TINY = Path(__file__).parents[1] / "goldens" / "siglip_tiny"
QUESTION = Question("", refined="who is it?", spans=())
VIDEO = CachedVideo(Example("v.mp4", (QUESTION,)), torch.randn(7, 32), torch.arange(7.0))
LABELS = torch.tensor([0.0, 5.0, 0.0, 3.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def untuned() -> Siglip:
    return Siglip(str(TINY), device="cpu")


def save_slim(folder: Path, encoder: Siglip) -> None:
    save_text_side(folder, encoder.model.text_model, encoder.tokenizer, 1.0, -2.0)
    FusionHead(4).save(folder)


def test_a_slim_checkpoint_reads_frames_with_the_untuned_encoder_and_a_whole_one_with_its_own(untuned, tmp_path):
    save_slim(tmp_path, untuned)
    slim, whole = trained(str(tmp_path), untuned, None, {}), trained(str(TINY), untuned, None, {"clip_size": 3})
    assert slim.encoder is untuned and slim.scorer.checkpoint == str(tmp_path)
    assert whole.encoder == Siglip(str(TINY)) and whole.scorer.checkpoint is None and whole.scorer.clip_size == 3
    assert not torch.equal(*(row.score(row.features(VIDEO), QUESTION, LABELS) for row in (slim, whole)))


def test_a_shared_predictor_needs_its_model_and_costs_its_head_alone(tmp_path):
    vlm = load_llava_video(str(write_tiny(tmp_path / "llava")))
    siglip = Siglip(str(tmp_path / "llava" / "siglip"), device="cpu")
    TowerHead(HeadShape(24, 40, 3, 24)).save(tmp_path)
    save_slim(tmp_path, siglip)
    with pytest.raises(ValueError, match="reads a model's own tower; give the model with --shared MODEL"):
        trained(str(tmp_path), siglip, None, {})
    row = trained(str(tmp_path), siglip, vlm, {})
    cells = vlm.pool.grid[0] * vlm.pool.grid[1]
    video = CachedVideo(VIDEO.example, torch.randn(7, cells, 24).half(), torch.arange(7.0))
    assert row.score(row.features(video), QUESTION, LABELS).shape == (7,)
    head = pooling_head_flops(VisionShape(0, 1, 24, 40, 0, 3), 7, patches=cells)
    own = row.scorer.flops(row.features(video), QUESTION, row.encoder)
    assert row.gigaflops(video, row.features(video), QUESTION, 2) == pytest.approx((own + head / 2) / 1e9)


def test_frames_are_paid_for_once_per_video_and_the_oracle_is_free(untuned):
    rows, shape = baselines(untuned), untuned.vision
    seen = FrameFeatures(torch.arange(7.0))
    frames = vision_flops(shape, 7) + pooling_head_flops(shape, 7)
    text = rows["untuned"].scorer.flops(seen, QUESTION, untuned)
    assert rows["untuned"].gigaflops(VIDEO, seen, QUESTION, 4) == pytest.approx((text + frames / 4) / 1e9)
    assert (
        rows["uniform"].gigaflops(VIDEO, seen, QUESTION, 4) == oracle(untuned).gigaflops(VIDEO, seen, QUESTION, 4) == 0
    )
    assert torch.equal(oracle(untuned).score(oracle(untuned).features(VIDEO), QUESTION, LABELS), LABELS)


def test_recall_is_told_apart_by_kind_where_the_data_says_kinds():
    rows = [("a.mp4", {"recall": 1.0}), ("a.mp4", {"recall": 0.0}), ("b.mp4", {"recall": 0.5})]
    assert by_kind({"ours": CandidateResults(rows, ["where", "end", "where"])}) == (
        ["end", "where"],
        [["ours", "0.000", "0.750"]],
    )


def test_recall_is_compared_video_by_video_in_whatever_order_they_came():
    rows = [(f"{name}.mp4", dict.fromkeys(COLUMNS, value)) for name, value in (("a", 0.9), ("b", 0.1), ("c", 0.4))]
    [ours, _] = candidates_table(
        {"ours": CandidateResults(rows, gigaflops=[1.0]), "base": CandidateResults(rows[::-1], gigaflops=[1.0])}, "base"
    )
    assert ours[-1] == "+0.000 [+0.000, +0.000]"


def test_kinds_stay_beside_their_questions(untuned, tmp_path):
    """Questions about the whole video have no recall, and stand between those that have one."""
    spans = [((0.0, 1.0, 5.0),), (), ((3.0, 4.0, 5.0),)]
    asked = tuple(Question("", refined="who is it?", spans=span) for span in spans)
    video = Example(str(write_video(tmp_path / "v.mp4")), asked, kinds=("early", "whole", "late"))
    outcomes = measure_candidates({"oracle": oracle(untuned)}, [video], tmp_path / "features", (1.0, 4.0))
    for outcome in (outcomes[1.0]["oracle"], outcomes[4.0]["oracle"]):
        assert outcome.kinds == ["early", "late"] and len(outcome.key) == 2 and len(outcome.flat) == 1
    sharp, soft = (outcomes[t]["oracle"].key[0][1] for t in (1.0, 4.0))
    assert sharp["recall"] == soft["recall"] and sharp["sparsity"] > soft["sparsity"]


def test_ablations_vary_one_setting_each():
    assert [settings["clip_size"] for settings in variants("clip_size").values()] == list(CLIP_SIZES)
    shares = [(settings["local_weight"], settings["global_weight"]) for settings in variants("fusion").values()]
    assert shares == list(SHARES) and (0.05, 0.05) in shares
    assert list(variants(None)) == list(variants("temperature")) == ["", ", no fusion"]
