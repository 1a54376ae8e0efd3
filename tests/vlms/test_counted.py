"""Counted while it runs: what later questions on a video cost, and the memory that encoding needs."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.answers import answers
from helpers.checkpoints import write_tiny
from helpers.native_checkpoints import FAMILIES, write_native
from helpers.rotary import rotary_flops
from helpers.small_videos import Clip
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmms_kvtp.api import Model
from lmms_kvtp.cost.meter import counting, unfused
from lmms_kvtp.encode import encode
from lmms_kvtp.presets import settings_of
from lmms_kvtp.questions import Question
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.load import video_from_frames
from lmms_kvtp.vlms.base import load_vlm
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video

CHUNK = 8
SIGLIP = Path(__file__).parents[1] / "goldens" / "siglip_tiny"
QUESTIONS = [Question(text) for text in ("What is it?", "Where?", "Who is there?")]


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self.known = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and made.untyped_storage()._cdata not in self.known:
                storage = made.untyped_storage()
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = write_tiny(tmp_path_factory.mktemp("model"))
    return Model(load_llava_video(str(folder), LoadOptions(device="cpu", vision_batch=CHUNK)))


@pytest.fixture(scope="module", params=FAMILIES)
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = write_native(request.param, tmp_path_factory.mktemp(request.param))
    least = {} if request.param == "internvl" else {"min_pixels": 4096}
    return Model(load_vlm(str(folder), LoadOptions(device="cpu", vision_batch=CHUNK, **least)))


def noise(model: Model, count: int) -> Video:
    """A clip in memory, a frame each second, of which all are seen."""
    rgb = torch.randint(0, 256, (count, 84, 112, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    options = replace(model.vlm.frames, max_frames_num=count, chunk_size=CHUNK)
    return video_from_frames(rgb, "noise", 1.0, options=options)


def counted(model: Model, video: Video, settings: dict[str, str]) -> list[tuple[int, dict[str, int]]]:
    """Operations that torch counted for each question, and those that its cost says."""
    made = answers(model.vlm, model.method(settings), [video], QUESTIONS, GenerationOptions(max_new_tokens=1))
    ran = []
    for _ in QUESTIONS:
        with unfused(), counting() as found, rotary_flops(model.vlm.rotary) as rotary:
            cost = next(made).cost
        ran.append((found.flops - rotary.flops, cost.flops))
    return ran


@pytest.mark.parametrize("name", ["full", "random", "prumerge", "tome"])
def test_later_questions_cost_their_own_prefill_alone_and_a_twentieth_of_the_first(model: Model, name: str) -> None:
    settings = {**settings_of(name, 1.0 if name == "full" else 0.4), "encoder.device": "cpu"}
    (ran, first), *later = counted(model, Clip(80, chunk_size=CHUNK), settings)
    for operations, own in later:
        assert operations == own["prefill"] + own.get("pruner", 0)  # nothing of tower, projector and encoder
        assert own["prefill"] <= 0.05 * first["prefill"]
    assert ran >= sum(first[stage] for stage in ("vision", "projector", "prefill"))


@pytest.mark.parametrize("name", ["full", "random", "tome"])
def test_later_questions_run_nothing_of_the_towers_of_other_families(native: Model, name: str) -> None:
    settings = {**settings_of(name, 1.0 if name == "full" else 0.4), "encoder.pretrained": str(SIGLIP)}
    (ran, first), *later = counted(native, noise(native, 24), settings)
    for operations, own in later:
        assert operations == own["prefill"] + own.get("pruner", 0) and own["prefill"] < 0.5 * first["prefill"]
    assert ran >= sum(first[stage] for stage in ("vision", "projector", "prefill"))


def test_encoding_needs_no_more_memory_for_more_frames_beyond_the_features_kept(model: Model) -> None:
    settings = {**settings_of("kvtp+prumerge", 0.2), "encoder.device": "cpu"}
    clips = [Clip(count * CHUNK, chunk_size=CHUNK) for count in (2, 8)]
    few, many = (beyond(model, clip, settings) - clip.rgb.nbytes for clip in clips)  # in memory all along
    assert many <= 1.03 * few


def test_encoding_by_other_families_does_not_either(native: Model) -> None:
    """DeepStack's features are among those kept: 1 + S times the tokens."""
    settings = {**settings_of("random", 0.2), "encoder.pretrained": str(SIGLIP)}
    rgb = 84 * 112 * 3  # a frame, which is in memory all along
    few, many = (beyond(native, noise(native, n), settings) - n * rgb for n in (2 * CHUNK, 8 * CHUNK))
    assert many <= 1.03 * few


def beyond(model: Model, video: Video, settings: dict[str, str]) -> int:
    """Most bytes of tensors alive at once while a video is encoded, beyond what is kept."""
    method = model.method(settings)
    encode(model.vlm, method, video)  # loads the encoder
    with LiveBytes() as memory:
        kept = encode(model.vlm, method, video)
    features = [kept.features.image, kept.features.keys, kept.features.probe_attention]
    tokens = [kept.tokens.embeds, kept.tokens.deep]
    return memory.peak - sum(each.nbytes for each in (*features, *tokens) if each is not None)
