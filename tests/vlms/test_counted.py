"""Counted while it runs: what later questions on a video cost, and the memory that encoding needs."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.answers import answers
from helpers.checkpoints import write_tiny
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
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video

CHUNK = 8
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


@pytest.mark.parametrize("name", ["full", "random", "prumerge", "tome"])
def test_later_questions_cost_their_own_prefill_alone_and_a_twentieth_of_the_first(model: Model, name: str) -> None:
    method = model.method({**settings_of(name, 1.0 if name == "full" else 0.4), "encoder.device": "cpu"})
    ran, said = [], []
    made = answers(model.vlm, method, [Clip(80, chunk_size=CHUNK)], QUESTIONS, GenerationOptions(max_new_tokens=1))
    for _ in QUESTIONS:
        with unfused(), counting() as found:
            said.append(next(made))
        ran.append(found.flops)
    first, *later = [made.cost for made in said]
    for counted, cost in zip(ran[1:], later, strict=True):
        pruner = cost.flops.get("pruner", 0)
        assert counted == cost.flops["prefill"] + pruner  # nothing of tower, projector and encoder
        assert cost.flops["prefill"] <= 0.05 * first.flops["prefill"]
    assert ran[0] >= sum(first.flops[stage] for stage in ("vision", "projector", "prefill"))


def test_encoding_needs_no_more_memory_for_more_frames_beyond_the_features_kept(model: Model) -> None:
    method = model.method({**settings_of("kvtp+prumerge", 0.2), "encoder.device": "cpu"})
    encode(model.vlm, method, Clip(CHUNK))  # loads the encoder
    beyond = []
    for clip in (Clip(2 * CHUNK, chunk_size=CHUNK), Clip(8 * CHUNK, chunk_size=CHUNK)):
        with LiveBytes() as memory:
            kept = encode(model.vlm, method, clip)
        features = [kept.features.image, kept.features.keys, kept.features.probe_attention, kept.tokens.embeds]
        features.append(clip.rgb)  # in memory all along
        beyond.append(memory.peak - sum(each.nbytes for each in features if each is not None))
    assert beyond[1] <= 1.03 * beyond[0]
