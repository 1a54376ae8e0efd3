"""Scoring costs one pass over the frames, whatever the number of questions; on the model's own tower, none more."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.answers import answers
from helpers.checkpoints import write_tiny
from helpers.small_videos import Clip
from torch import nn

from lmms_kvtp.encoders.parts.text_side import save_text_side
from lmms_kvtp.encoders.parts.tower_head import HeadShape, TowerHead
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.method import Method, build_method
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.parts.fusion import FusionHead
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.vlms.llava_video import LlavaVideo, load_llava_video

COUNT = 5
ASKED = [Question(f"What is thing {number}?") for number in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def vlm(folder) -> LlavaVideo:
    return load_llava_video(str(folder))


@contextmanager
def frames_through(module: nn.Module) -> Iterator[list[int]]:
    """How many frames each call of a module sees."""
    seen: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(args[0])), with_kwargs=True)
    yield seen
    handle.remove()


def run(vlm: LlavaVideo, method: Method) -> None:
    assert (
        len(list(answers(vlm, method, [Clip(COUNT, 11, 13, chunk_size=3)], ASKED, GenerationOptions(max_new_tokens=1))))
        == 3
    )


@pytest.mark.parametrize("scorer", ["similarity", "kvtp"])
def test_a_second_tower_sees_each_frame_once_for_all_questions_and_for_the_pruner(vlm, folder, scorer):
    settings = {
        "scorer": scorer,
        "pruner": "prumerge",
        "encoder.pretrained": str(folder / "siglip"),
        "keep_ratio": "0.5",
    }
    method = build_method(settings, {"allocator": "softmax", "encoder": "siglip"})
    vision = method.encoder.model.vision_model
    with frames_through(vision.embeddings.patch_embedding) as own, frames_through(vlm.network.tower) as models:
        run(vlm, method)
    assert sum(own) == sum(models) == COUNT


def test_a_shared_tower_sees_each_frame_once_and_its_head_too(vlm, folder, tmp_path):
    siglip = Siglip(str(folder / "siglip"), device="cpu")
    TowerHead(HeadShape(24, 40, 3, 24)).save(tmp_path)
    save_text_side(tmp_path, siglip.model.text_model, siglip.tokenizer, 1.0, 0.0)
    FusionHead().save(tmp_path)
    settings = {"scorer": "shared", "encoder.pretrained": str(tmp_path), "pruner": "prumerge", "keep_ratio": "0.5"}
    method = build_method(settings, {"allocator": "softmax", "encoder": "siglip"})
    with frames_through(vlm.network.tower) as models, frames_through(method.encoder.head.post_layernorm) as heads:
        run(vlm, method)
    assert sum(models) == sum(heads) == COUNT
