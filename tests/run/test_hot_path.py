"""What a question costs beside its prefill: counted, so that nothing is done again for each frame or each question."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.pretend_gpu import DEVICE, pretend_gpu, put_all, reported_waits, there
from helpers.small_videos import Clip
from torch import Tensor, nn

from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.encode import Encoded, encode_once
from lmms_kvtp.method import KVTP, Method, build_method, build_part
from lmms_kvtp.pipeline import fit, prepare
from lmms_kvtp.presets import names_of, settings_of
from lmms_kvtp.questions import Question
from lmms_kvtp.run.answerer import Answerer, unrecorded
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video

ASKED = [Question(f"What is thing {number}?") for number in range(3)]


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


PRUNERS = {name: build_part("pruner", name) for name in names_of("pruner") if name != "none"}
MOST = 2
"""Times that the host waits for a GPU, to make a prompt: for the scores, and for what is kept."""
SCENES = 4
STATED = {
    "fastvid": 168,
    "flashvid": 132,
    "flashvid_release": 132,
    "prunevid": 62,
    "prunevid_release": 22,
    "holitom": 23,
}
"""The same with pruners that search for scenes, on 20 frames of four scenes; docs/performance.md has them."""
BY_NAME = pytest.mark.parametrize("name", PRUNERS)


def in_scenes(made: Any) -> Any:
    """Noise around each scene in place of tokens or features: how many scenes random weights see depends on them."""
    noise = torch.Generator().manual_seed(0)

    def draw(name: str, like: Tensor) -> Tensor:
        scene = torch.arange(len(like)) * SCENES // len(like)
        drawn = torch.randn(SCENES, *like.shape[1:], generator=noise)[scene]
        drawn += 0.3 * torch.randn(like.shape, generator=noise)
        return (drawn.softmax(-1) if name.endswith("attention") else drawn).to(like)

    tensors = {field.name: getattr(made, field.name) for field in fields(made) if field.name != "times"}
    return replace(made, **{name: draw(name, like) for name, like in tensors.items() if isinstance(like, Tensor)})


def encoded_scenes(vlm: LlavaVideo, method: Method) -> Encoded:
    [encoded] = encode_once(vlm, [method], Clip(20, chunk_size=8))
    return replace(encoded, tokens=in_scenes(encoded.tokens), features=in_scenes(encoded.features))


@BY_NAME
def test_to_make_a_prompt_the_host_waits_for_scores_and_for_what_is_kept(vlm, method, monkeypatch, name):
    monkeypatch.setattr("lmms_kvtp.pruners.parts.packing.TOKENS_AT_ONCE", 4 * vlm.pool.grid[0] * vlm.pool.grid[1])
    made = method(f"kvtp+{name}")
    encoded = encoded_scenes(vlm, made)
    with torch.inference_mode():
        expected, _ = fit(vlm, made, [encoded], ASKED[0], Meter(vlm.device), fewer_frames=False)  # loads
        made.encoder.forget_texts()
        put_all(encoded.tokens, encoded.features)
        monkeypatch.setattr(vlm, "device", DEVICE)
        with pretend_gpu(vlm.network, made.encoder.model) as waits:
            prompt, _ = fit(vlm, made, [encoded], ASKED[0], Meter(torch.device("cpu")), fewer_frames=False)
    assert there(prompt.embeds) and not there(prompt.role)
    assert torch.equal(prompt.embeds, expected.embeds)
    assert len(waits) <= STATED.get(name, MOST) and (name in STATED) == PRUNERS[name].searches, waits


@pytest.mark.gpu
@BY_NAME
def test_on_a_gpu_no_more_waits_are_reported_by_torch(folder, method, name):
    vlm = load_llava_video(str(folder), LoadOptions(device="cuda", dtype="float32"))
    made = replace(method(f"kvtp+{name}"), encoder=replace(method(f"kvtp+{name}").encoder, device="cuda"))
    encoded = encoded_scenes(vlm, made)
    with torch.inference_mode():
        fit(vlm, made, [encoded], ASKED[0], Meter(vlm.device), fewer_frames=False)  # loads
        made.encoder.forget_texts()
        with reported_waits() as waits:
            fit(vlm, made, [encoded], ASKED[0], Meter(vlm.device), fewer_frames=False)
    assert len(waits) <= STATED.get(name, MOST), waits


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
