"""What the pipeline adds to features for each question, and what it refuses before any pruner runs."""

from pathlib import Path

import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.small_videos import Clip

from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.encode import Encoded, encode
from lmms_kvtp.method import KVTP, Method, build_method
from lmms_kvtp.pipeline import select
from lmms_kvtp.questions import Question
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video

SIGLIP = Path(__file__).parent / "goldens" / "siglip_tiny"


def visual() -> Encoded:
    draw = torch.Generator().manual_seed(0)
    features = FrameFeatures(times=torch.arange(5.0), patch_text=torch.randn(5, 12, 32, generator=draw))
    return Encoded(FrameTokens(torch.randn(5, 12, 8, generator=draw), (3, 4)), features, "", {})


def method(**settings: str) -> Method:
    defaults = {"scorer": "uniform", "allocator": "uniform", "pruner": "random", "keep_ratio": "0.25"}
    return build_method({**defaults, "encoder": "siglip", "encoder.device": "cpu", **settings}, KVTP)


def kept(chosen: Method, question: str, encoded: Encoded) -> PackedTokens:
    return select(chosen, encoded, Question(question), Meter(torch.device("cpu")))[0]


def test_a_pruner_that_reads_the_question_gets_its_text():
    chosen = method(pruner="cdpruner", **{"encoder.pretrained": str(SIGLIP)})
    assert chosen.query_aware and chosen.needs == {"patch_text"}
    encoded = visual()
    first, second = kept(chosen, "Who sings?", encoded), kept(chosen, "Which star is red?", encoded)
    assert first.counts().tolist() == second.counts().tolist() == [3] * 5
    assert not torch.equal(first.patch, second.patch)
    text = chosen.encoder.encode_text(["Who sings?"])
    given = FrameFeatures(times=torch.arange(5.0), patch_text=encoded.features.patch_text, text=text)
    alone = chosen.pruner.prune(encoded.tokens, given, torch.full((5,), 3))
    assert torch.equal(alone.patch, first.patch)


@pytest.mark.parametrize("scorer", ["vcast", "vidcom2"])
def test_a_scorer_that_reads_the_tokens_needs_no_image_text_model(scorer):
    chosen = method(scorer=scorer, allocator="softmax", **{"encoder.pretrained": "no/weights"})
    assert chosen.needs == frozenset() and not chosen.query_aware
    encoded = visual()
    assert kept(chosen, "Who sings?", encoded).counts().sum() == 15
    assert encoded.features.tokens is None


def test_what_nobody_gives_is_still_refused():
    with pytest.raises(ValueError, match=r"CDPruner need patch_text, which encoder \w+ does not provide"):
        build_method({"encoder": "open_clip", "pruner": "cdpruner", "scorer": "uniform"}, KVTP)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_tower_that_overflows_is_named_before_pruners_see_its_tokens(tmp_path, value):
    vlm = load_llava_video(str(write_tiny(tmp_path / "random", siglip=False)), LoadOptions(device="cpu"))
    assert encode(vlm, method(), Clip()).tokens.num_frames == 3
    next(vlm.network.projector.parameters()).data[0, 0] = value
    with pytest.raises(ValueError, match=r"vision tokens of frames \[0, 1, 2\] are NaN or infinite; .* dtype=bfloat16"):
        encode(vlm, method(), Clip())


def test_features_go_where_the_tokens_are(tmp_path, monkeypatch):
    vlm = load_llava_video(str(write_tiny(tmp_path / "random", siglip=False)), LoadOptions(device="cpu"))
    moved, to = [], FrameFeatures.to
    monkeypatch.setattr(FrameFeatures, "to", lambda own, device: moved.append(device) or to(own, device))
    encoded = encode(vlm, method(pruner="prumerge", **{"encoder.pretrained": str(SIGLIP)}), Clip())
    assert moved == [encoded.tokens.embeds.device]  # an encoder may run on another one
    elsewhere = to(encoded.features, torch.device("meta"))
    assert elsewhere.keys.is_meta and elsewhere.probe_attention.is_meta
    assert torch.equal(elsewhere.times, torch.arange(3.0))
