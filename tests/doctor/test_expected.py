"""Recorded and published accuracies, and runs held against them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.harness_files import ALL, sample, write_run

from lmms_kvtp.api import Model
from lmms_kvtp.doctor import expected
from lmms_kvtp.doctor.exam import Exam
from lmms_kvtp.doctor.expected import Expected, published, published_accuracy, recorded
from lmms_kvtp.doctor.gates import baseline_logits
from lmms_kvtp.leaderboard.gates import Gate
from lmms_kvtp.shipped import MANIFEST, shipped_folder
from lmms_kvtp.types import GridPool
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video

MODEL = "lmms-lab/LLaVA-Video-7B-Qwen2"


def run(folder: Path, right: int, task: str = "videomme", **changes) -> Path:
    """An unpruned run of 2,700 questions, three on a video."""
    rows = [sample(i, float(i < right), f"v{i // 3}") for i in range(2700)]
    settings = {"parts": ALL, "keep_ratio": 1.0, "model": MODEL, "frames": 64} | changes
    return write_run(folder, rows, task, **settings)


def test_the_record_is_of_the_weights_that_are_shipped():
    weights = json.loads((shipped_folder("tiny") / MANIFEST).read_text())["model.safetensors"]
    stored = json.loads(expected.RECORDED.read_text())["tiny"]
    assert stored["weights"] == weights, "new weights: run `lmms-kvtp table`, and record what all tokens reach"
    found = recorded("tiny")
    assert 0.8 < found.accuracy < 1 and found.questions >= 100
    assert recorded("some/other") is None


def test_other_weights_have_no_record(tmp_path, monkeypatch):
    values = json.loads(expected.RECORDED.read_text())
    values["tiny"]["weights"] = "0" * 64
    (tmp_path / "recorded.json").write_text(json.dumps(values))
    monkeypatch.setattr(expected, "RECORDED", tmp_path / "recorded.json")
    assert recorded("tiny") is None


def test_margins_are_three_standard_errors_of_a_difference():
    once = Expected(accuracy=0.9, stderr=0.02, questions=100, source="")
    assert once.spread(400) == pytest.approx(0.01)
    assert once.margin(100) == pytest.approx(3 * 0.02 * 2**0.5)


def test_published_scores_are_of_a_model_its_frames_and_a_task():
    found = published(MODEL, 64, "videomme")
    assert (found.accuracy, found.questions) == (0.643, 2700)
    assert published("/models/LLaVA-Video-7B-Qwen2/", 64, "videomme") == found
    assert published(MODEL, 32, "videomme") is None and published(MODEL, 64, "mvbench") is None


@pytest.mark.parametrize(("right", "passed"), [(1736, True), (1690, True), (1680, False), (1790, False)])
def test_an_unpruned_run_lies_within_two_standard_errors_of_the_paper(tmp_path, right, passed):
    gate = published_accuracy(run(tmp_path / "full", right))
    assert gate.passed is passed
    assert f"videomme: {right / 27:.1f} % of 2700, published 64.3 ± 1.8 %" in gate.detail


def test_one_task_outside_its_band_is_enough(tmp_path):
    run(tmp_path / "a", 1000, "longvideobench_val_v")
    gate = published_accuracy(run(tmp_path / "b", 1736).parent)
    assert gate.passed is False
    assert [part.partition(":")[0] for part in gate.detail.split("; ")] == ["longvideobench_val_v", "videomme"]


@pytest.mark.parametrize(
    "changes", [{"frames": 32}, {"task": "mvbench"}, {"model": "some/other"}, {"parts": {}}, {"keep_ratio": 0.5}]
)
def test_what_no_paper_reports_is_not_judged(tmp_path, changes):
    gate = published_accuracy(run(tmp_path / "full", 1000, **changes))
    assert gate.passed is None and "published score" in gate.detail


@pytest.fixture
def vlm() -> LlavaVideo:
    return load_llava_video("tiny", LoadOptions(device="cpu"))


def gate(vlm: LlavaVideo) -> Gate:
    return baseline_logits(Exam(vlm, Model(vlm).method("pruner=random"), [], []))


def of_words(vlm: LlavaVideo, patch: pytest.MonkeyPatch) -> None:
    embed = LlavaVideo._embed
    patch.setattr(LlavaVideo, "_embed", lambda self, ids: embed(self, ids) * 1.05)


def of_frames(vlm: LlavaVideo, patch: pytest.MonkeyPatch) -> None:
    look = LlavaVideo.look

    def brighter(self, frames, spec):
        tokens, seen = look(self, frames, spec)
        return replace(tokens, embeds=tokens.embeds * 1.05), seen

    patch.setattr(LlavaVideo, "look", brighter)


def other_pooling(vlm: LlavaVideo, patch: pytest.MonkeyPatch) -> None:
    def peaks(self, patches):
        maps = patches.reshape(len(patches), *self.patches, -1)
        return replace(self, mode="max").pool_map(maps)

    patch.setattr(GridPool, "__call__", peaks)


def other_mode(vlm: LlavaVideo, patch: pytest.MonkeyPatch) -> None:
    vlm.pool = GridPool("max", vlm.pool.patches)


def no_newline(vlm: LlavaVideo, patch: pytest.MonkeyPatch) -> None:
    vlm.newlines = replace(vlm.newlines, position="no_token")


def newline_of_frames(vlm: LlavaVideo, patch: pytest.MonkeyPatch) -> None:
    vlm.newlines = replace(vlm.newlines, position="frame")


def test_the_embedded_model_is_compared(vlm: LlavaVideo) -> None:
    found = gate(vlm)
    assert found.passed and found.detail.startswith("transformers' LlavaOnevision with average pooling: logits differ")


@pytest.mark.parametrize("plant", [of_words, of_frames, other_pooling, other_mode, no_newline, newline_of_frames])
def test_a_changed_baseline_is_caught(
    vlm: LlavaVideo, plant: Callable[[LlavaVideo, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(vlm, monkeypatch)
    assert gate(vlm).passed is False
