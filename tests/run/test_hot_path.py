"""What a question costs beside its prefill: counted, so that nothing is done again for each frame or each question."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.small_videos import Clip
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.encode import Encoded, encode_once
from lmms_kvtp.method import KVTP, Method, build_method
from lmms_kvtp.pipeline import fit, prepare, select
from lmms_kvtp.presets import settings_of
from lmms_kvtp.questions import Question
from lmms_kvtp.run.answerer import Answerer, unrecorded
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video

ASKED = [Question(f"What is thing {number}?") for number in range(3)]
WAITS = {"item", "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "bincount", "masked_select"}
"""Operations for whose result the host waits, as it then has to know a number that the device has computed."""


class Waits(TorchDispatchMode):
    """Names of the operations in WAITS that run, and of those that find out how large their result is."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, named = func._schema.name.removeprefix("aten::"), kwargs or {}
        indices = args[1] if name in ("index", "index_put_") else ()
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        unsized = name == "repeat_interleave" and named.get("output_size") is None
        if name in WAITS or by_mask or unsized:
            self.names.append(name)
        return func(*args, **named)


@contextmanager
def calls(module: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """The shape of what each call of a module is given first."""
    seen: list[tuple[int, ...]] = []

    def keep(_: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        seen.append(tuple([*args, *kwargs.values()][0].shape))

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    yield seen
    handle.remove()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vlm(folder: Path) -> LlavaVideo:
    return load_llava_video(str(folder), LoadOptions(device="cpu"))


@pytest.fixture(scope="module")
def method(folder: Path) -> Callable[[str], Method]:
    def make(name: str) -> Method:
        own = {"encoder.pretrained": str(folder / "siglip"), "encoder.device": "cpu"}
        return build_method({**settings_of(name, 0.3), **own}, KVTP)

    return make


@pytest.mark.parametrize(("name", "most"), [("kvtp+random", 4), ("kvtp+prumerge", 5)])
def test_the_host_waits_as_often_for_many_frames_as_for_few(vlm, method, monkeypatch, name, most):
    monkeypatch.setattr("lmms_kvtp.pruners.parts.packing.TOKENS_AT_ONCE", 4 * vlm.pool.grid[0] * vlm.pool.grid[1])
    made, waits = method(name), []
    for count in (4, 40):
        [encoded] = encode_once(vlm, [made], Clip(count, chunk_size=8))
        meter = Meter(vlm.device)
        select(made, encoded, ASKED[0], meter)  # loads
        with torch.inference_mode(), Waits() as waiting:
            fit(vlm, made, [encoded], ASKED[0], meter, fewer_frames=False)
        waits.append(waiting.names)
    assert waits[0] == waits[1]
    assert len(waits[0]) <= most, waits[0]


def test_a_text_is_embedded_once_for_scorers_and_pruners_of_a_whole_sweep(vlm, method):
    names = ("kvtp+random", "kvtp+prumerge", "kvtp+cdpruner", "hard+random")
    lanes = Answerer([unrecorded(vlm, method(name)) for name in names], FrameOptions()).lanes
    methods = [lane.built.method for lane in lanes]
    encoded: list[Encoded] = encode_once(vlm, methods, Clip(5))
    with calls(methods[0].encoder.model.text_model) as read:
        for one, visual in zip(methods, encoded, strict=True):
            for question in ASKED:
                prepare(vlm, one, [visual], question)
    assert len(read) == len(ASKED)


def test_a_prompt_is_embedded_in_one_call_and_only_its_last_position_gets_logits(vlm, method):
    made = method("random")
    [encoded] = encode_once(vlm, [made], Clip(5))
    llm = vlm.network.llm
    for question in ASKED:
        with calls(llm.get_input_embeddings()) as embedded, calls(llm.lm_head) as headed:
            prompt = prepare(vlm, made, [encoded], question).prompt
            vlm.generate([prompt], GenerationOptions(max_new_tokens=1))
        assert len(embedded) == 1
        assert headed == [(1, 1, llm.config.hidden_size)]


def test_of_a_prompt_only_the_question_is_split_into_tokens(vlm, method, monkeypatch):
    from lmms_kvtp.vlms.layout import Chat

    texts, plain = [], Chat.plain
    made = method("random")
    [encoded] = encode_once(vlm, [made], Clip(5))
    prepare(vlm, made, [encoded], ASKED[0])
    monkeypatch.setattr(Chat, "plain", lambda chat, text: (texts.append(text), plain(chat, text))[1])
    for question in ASKED:
        prepare(vlm, made, [encoded], question)
    assert texts == [f"\n{question.prompt}" for question in ASKED]


def test_splitting_the_question_and_laying_out_the_prompt_have_their_stages(vlm, method, monkeypatch):
    made, stage, within = method("kvtp+random"), Meter.stage, dict[str, str]()
    [encoded], ids, layout = encode_once(vlm, [made], Clip(5)), type(made.encoder).token_ids, LlavaVideo.assemble
    running = [""]

    @contextmanager
    def named(meter: Meter, name: str, flops: int | None = 0) -> Iterator[None]:
        running.append(name)
        with stage(meter, name, flops):
            yield
        running.pop()

    def noted(key: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (within.setdefault(key, running[-1]), call(*given))[1]

    monkeypatch.setattr(Meter, "stage", named)
    monkeypatch.setattr(type(made.encoder), "token_ids", noted("question", ids))
    monkeypatch.setattr(LlavaVideo, "assemble", noted("prompt", layout))
    prepare(vlm, made, [encoded], Question("How many?"))
    assert within == {"question": "scorer", "prompt": "prefill"}


def test_pixels_are_made_where_the_first_tower_reads_and_shared():
    frames, spec = Frames(torch.zeros(2, 6, 5, 3, dtype=torch.uint8), torch.zeros(2)), ResizedPixels((4, 4))
    there = frames.pixels(spec, torch.device("meta"))
    assert there.is_meta and there.dtype == torch.float32
    assert frames.pixels(spec) is there


@pytest.mark.gpu
def test_pixels_of_a_gpu_are_those_of_the_cpu_bit_for_bit():
    rgb = torch.arange(256, dtype=torch.uint8).repeat_interleave(3).view(1, 16, 16, 3)
    spec = ResizedPixels((16, 16), mean=(0.48, 0.45, 0.41), std=(0.27, 0.26, 0.28))
    there = Frames(rgb, torch.zeros(1)).pixels(spec, torch.device("cuda"))
    assert torch.equal(there.cpu(), Frames(rgb, torch.zeros(1)).pixels(spec))


def test_a_measurement_embeds_its_text_itself(vlm, method):
    encoder = method("kvtp+random").encoder
    with calls(encoder.model.text_model) as read:
        for _ in range(2):
            encoder.encode_text(["Who is it?"])
            encoder.encode_text(["Who is it?"])
            encoder.forget_texts()
    assert len(read) == 2
