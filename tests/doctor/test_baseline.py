"""The gate of the unpruned model on the embedded model as it is, which pools by averages."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from lmms_kvtp.api import Model
from lmms_kvtp.doctor.exam import Exam
from lmms_kvtp.doctor.gates import baseline_logits
from lmms_kvtp.doctor.synthetic import reference
from lmms_kvtp.embedded.questions import chosen_letter
from lmms_kvtp.leaderboard.gates import Gate
from lmms_kvtp.types import GridPool
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video


@pytest.fixture
def vlm() -> LlavaVideo:
    return load_llava_video("tiny", LoadOptions(device="cpu"))


def gate(vlm: LlavaVideo) -> Gate:
    return baseline_logits(Exam(vlm, Model(vlm).method("pruner=random"), [], [], chosen_letter, reference))


def of_words(vlm: LlavaVideo, patch: pytest.MonkeyPatch) -> None:
    embed = LlavaVideo._embed
    patch.setattr(LlavaVideo, "_embed", lambda self, ids: embed(self, ids) * 1.05)


def of_frames(vlm: LlavaVideo, patch: pytest.MonkeyPatch) -> None:
    project = LlavaVideo.project

    def brighter(self, patches):
        tokens = project(self, patches)
        return replace(tokens, embeds=tokens.embeds * 1.05)

    patch.setattr(LlavaVideo, "project", brighter)


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
