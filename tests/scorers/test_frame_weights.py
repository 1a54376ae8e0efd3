"""Frame weights that need no question, against loops over frames and tokens."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.vcast import VCastRelevance
from lmms_kvtp.scorers.vidcom2 import VidCom2Relevance
from lmms_kvtp.types import FrameFeatures

ENCODER = Siglip("no/weights", device="cpu")
"""Never loaded."""
QUESTION = Question("Which star?")


def features(tokens: torch.Tensor) -> FrameFeatures:
    return FrameFeatures(times=torch.arange(len(tokens)).float(), tokens=tokens)


def test_vcast_weighs_the_turns_of_the_mean_token():
    tokens = torch.randn(19, 5, 8, generator=torch.Generator().manual_seed(2))
    scores = VCastRelevance().score(features(tokens), QUESTION, ENCODER)
    means = [F.normalize(frame.mean(dim=0), dim=0) for frame in tokens]
    for frame in range(1, 18):
        before, after = means[frame] - means[frame - 1], means[frame + 1] - means[frame]
        assert float(scores[frame]) == pytest.approx(1 - float(F.cosine_similarity(before, after, dim=0)), abs=1e-5)
    assert scores[0] == scores[18] == 1


def test_vcast_knows_a_straight_way_from_one_that_turns_back_and_from_standing_still():
    angles = torch.tensor([0.0, 1, 2, 3, 2, 2, 2]) / 100
    bright = torch.tensor([1.0, 5, 2, 9, 1, 3, 1])[:, None, None]  # changes no direction
    tokens = bright * torch.stack([angles.cos(), angles.sin()], dim=1)[:, None].expand(7, 3, 2)
    assert VCastRelevance().score(features(tokens), QUESTION, ENCODER).tolist() == pytest.approx(
        [1, 0, 0, 2, 1, 1, 1], abs=1e-3
    )
    for frames in (1, 2):
        assert VCastRelevance().score(features(tokens[:frames]), QUESTION, ENCODER).tolist() == [1.0] * frames


def test_vidcom2_weighs_frames_by_how_unlike_the_video_they_are(monkeypatch):
    monkeypatch.setattr("lmms_kvtp.pruners.parts.packing.TOKENS_AT_ONCE", 30)
    tokens = torch.randn(19, 5, 8, generator=torch.Generator().manual_seed(4)) + torch.arange(8) / 4
    scores = VidCom2Relevance().score(features(tokens), QUESTION, ENCODER)
    steady = sorted(np.argsort(tokens.reshape(-1, 8).numpy().var(axis=0))[:4])
    unit = [[F.normalize(token[steady], dim=0) for token in frame] for frame in tokens]
    video = torch.stack([token for frame in unit for token in frame]).mean(dim=0)
    for frame in range(19):
        squares = [float((token - video).square().sum()) for token in unit[frame]]
        likeness = [sum(np.exp(-square / (2 * a)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2)) for square in squares]
        assert float(scores[frame]) == pytest.approx(-np.mean(likeness), abs=1e-4)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"channels=0.0 is outside"):
        VidCom2Relevance(channels=0.0)
    with pytest.raises(ValueError, match="must be positive"):
        VidCom2Relevance(widths=())
