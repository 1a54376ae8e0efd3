"""The Python interface, on a real video file and a whole tiny model."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers.checkpoints import write_tiny
from PIL import Image

import lmms_kvtp
from lmms_kvtp import load
from lmms_kvtp.api import Model, load_options
from lmms_kvtp.types import GenerationOptions, PackedTokens
from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.checkpoint.config import CheckpointError

SHORT = GenerationOptions(max_new_tokens=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(str(write_tiny(tmp_path_factory.mktemp("model"))), device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven seconds of noise at 5 frames a second, in H.264."""
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(35):
            image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_question_about_a_file_is_answered_with_its_cost(model: Model, video: Path) -> None:
    answer = model.answer(video, "What color is the star?", "keep_ratio=0.2,pruner=random", options=SHORT)
    assert answer.text and answer.error is None
    cost = answer.cost
    assert (cost.num_frames, cost.tokens_before, cost.tokens_kept) == (7, 7 * 25, 35)
    assert cost.keep_ratio_actual == 0.2
    assert cost.output_tokens <= 5


def test_methods_are_text_or_a_dict_and_kvtp_where_silent(model: Model) -> None:
    text, given = model.method(" keep_ratio=0.5, pruner=grid,"), model.method({"keep_ratio": 0.5, "pruner": "grid"})
    assert text == given
    described = model.method().describe()
    assert described["keep_ratio"] == 0.2
    assert described["pruner"]["class"].endswith("prumerge:PruMerge")
    assert described["scorer"]["class"].endswith("kvtp:KVTP") and not described["scorer"]["fusion"]
    assert described["encoder"]["pretrained"] == model.vlm.default_encoder


def test_the_image_text_encoder_is_loaded_once(model: Model) -> None:
    first, second = model.method("pruner=grid"), model.method("keep_ratio=0.7")
    assert first.encoder is second.encoder
    assert model.method("encoder.dtype=bfloat16").encoder is not first.encoder


def test_questions_on_one_video_are_answered_in_order(model: Model, video: Path) -> None:
    texts = ["What color is the star?", "Where is it?"]
    together = [answer.text for answer in model.answers(video, texts, "keep_ratio=1,pruner=none", options=SHORT)]
    alone = [model.answer(video, text, "keep_ratio=1,pruner=none", options=SHORT).text for text in texts]
    assert together == alone
    assert alone[0] != alone[1]


def test_frames_can_be_chosen(model: Model, video: Path) -> None:
    frames = FrameOptions(max_frames_num=3)
    assert model.answer(video, "What?", "pruner=random", frames, SHORT).cost.num_frames == 3


def test_mistakes_are_named(model: Model, video: Path, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="did you mean prumerge"):
        model.method("pruner=prunmerge")
    with pytest.raises(ValueError, match=r"'pruner' in method 'keep_ratio=0\.2,pruner' is not of the form name=value"):
        model.method("keep_ratio=0.2,pruner")
    with pytest.raises(LookupError, match="unknown option 'dtyp'; did you mean dtype"):
        load("anything", dtyp="float32")
    with pytest.raises(ValueError, match="dtype='float8' is not one of auto, float32"):
        load("anything", dtype="float8")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load(str(tmp_path))
    with pytest.raises(VideoError, match=r"missing\.mp4"):
        model.answer(tmp_path / "missing.mp4", "What?")
    with pytest.raises(ValueError, match="the question is empty"):
        model.answer(video, "  ", "keep_ratio=1,pruner=none,scorer=uniform")


def test_options_also_have_their_names_of_model_args() -> None:
    assert load_options({"torch_dtype": "float32", "newline": "row"}) == load_options(
        {"dtype": "float32", "newlines": "row"}
    )
    with pytest.raises(ValueError, match="torch_dtype=float32 sets dtype twice; give it once"):
        load_options({"dtype": "bfloat16", "torch_dtype": "float32"})
    with pytest.raises(ValueError, match="torch_dtype='float8' is not one of"):
        load_options({"torch_dtype": "float8"})


def test_the_package_has_load_without_importing_it_beforehand() -> None:
    assert lmms_kvtp.load is load
    assert "load" not in vars(lmms_kvtp)  # tests/house/test_imports.py: importing the package loads nothing heavy
    with pytest.raises(AttributeError, match="module 'lmms_kvtp' has no attribute 'laod'"):
        _ = lmms_kvtp.laod


QUESTION = "What color is the star?"


def frames_of(count: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 40, 56, 3), dtype=np.uint8)


def test_frames_in_memory_are_a_video_whatever_holds_them(model: Model) -> None:
    array = frames_of()
    ways = [array, torch.from_numpy(array), [Image.fromarray(frame) for frame in array]]
    answers = [model.answer(way, QUESTION, "uniform+random", max_new_tokens=6) for way in ways]
    assert {answer.text for answer in answers} == {answers[0].text}
    assert [answer.cost.num_frames for answer in answers] == [6] * 3
    for answer in answers:
        [kept] = answer.kept
        assert kept.shape == (6, 5, 5) and int(kept.sum()) == answer.cost.tokens_kept == 30
        assert kept.equal(answers[0].kept[0])


def test_kept_patches_lie_in_rows_and_columns_of_their_frame() -> None:
    frame, patch = torch.tensor([0, 0, 2]), torch.tensor([1, 5, 3])
    kept = PackedTokens(torch.zeros(3, 4), frame, patch, torch.ones(3), (2, 3), 3).kept()
    assert kept.shape == (3, 2, 3) and kept.nonzero().tolist() == [[0, 0, 1], [0, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (frames_of().astype(np.float32), r"float32 of shape \(6, 40, 56, 3\); give uint8 of shape \(T, H, W, 3\)"),
        (frames_of().transpose(0, 3, 1, 2), r"uint8 of shape \(6, 3, 40, 56\)"),
        (frames_of()[0], r"shape \(40, 56, 3\)"),
        (frames_of(0), "has no frames"),
    ],
)
def test_arrays_that_are_no_frames_are_refused(model: Model, wrong: np.ndarray, told: str) -> None:
    with pytest.raises(VideoError, match=told):
        model.answer(wrong, QUESTION)


def test_methods_are_short_names_too_with_settings_behind_them(model: Model) -> None:
    assert model.method("kvtp+tome") == model.method("pruner=tome,keep_ratio=0.2")
    changed = model.method("uniform+tome,keep_ratio=0.4,positions=kept")
    assert (changed.keep_ratio, changed.positions) == (0.4, "kept")
    assert changed.describe()["allocator"]["class"].endswith("EqualBudgets")
    assert model.method(changed) == changed
    with pytest.raises(LookupError, match="no preset named 'kvpt'"):
        model.method("kvpt+tome")


def test_settings_of_the_answer_are_keywords(model: Model) -> None:
    both = model.answer(frames_of(), QUESTION, "full", options=GenerationOptions(max_new_tokens=3, seed=1))
    assert model.answer(frames_of(), QUESTION, "full", max_new_tokens=3).text == both.text
    assert both.cost.output_tokens <= 3
    with pytest.raises(LookupError, match="unknown generation setting 'max_tokens'; did you mean max_new_tokens"):
        model.answer(frames_of(), QUESTION, max_tokens=3)


def test_pieces_join_to_the_answer_wherever_it_is_stopped(model: Model) -> None:
    given = {"method": "uniform+random", "max_new_tokens": 16}
    whole = model.answer(frames_of(), QUESTION, **given).text
    assert len(list(model.stream(frames_of(), QUESTION, **given))) > 5
    for place in range(0, len(whole), 3):  # some are inside a token, and some longer than one
        told = given | {"until": (whole[place : place + 1 + place % 5],)}
        pieces = list(model.stream(frames_of(), QUESTION, **told))
        assert "".join(pieces) == model.answer(frames_of(), QUESTION, **told).text and all(pieces), told["until"]


def test_who_leaves_a_stream_stops_the_decoding_and_errors_come_through(model: Model) -> None:
    steps, ends, head = [], torch.tensor([480, 482]), model.vlm.network.llm.lm_head
    hook = model.vlm.layers[0].register_forward_hook(lambda *_: steps.append(1))
    endless = head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, ends, -1e9))
    given = {"method": "full", "max_new_tokens": 200, "until": ()}
    try:
        assert len(list(model.stream(frames_of(), QUESTION, **given))) > 20
        whole = len(steps)
        for _ in model.stream(frames_of(), QUESTION, **given):
            break
    finally:
        hook.remove()
        endless.remove()
    assert len(steps) - whole < whole / 2
    with pytest.raises(VideoError, match="nowhere"):
        next(model.stream("nowhere.mp4", QUESTION))


def test_a_stream_that_waits_for_its_reader_changes_no_other_answer(model: Model) -> None:
    pruned = {"method": "uniform+random,layer_pruning=fastv", "max_new_tokens": 32, "until": ()}
    other = {"method": "full", "max_new_tokens": 12, "until": ()}
    alone = model.answer(frames_of(), "Where is it?", **other).text
    pieces = model.stream(frames_of(), QUESTION, **pruned)
    first = next(pieces)
    assert model.answer(frames_of(), "Where is it?", **other).text == alone
    assert first + "".join(pieces) == model.answer(frames_of(), QUESTION, **pruned).text


def test_a_batch_is_its_questions_one_by_one_with_one_encoding_of_each_video(model: Model, video: Path) -> None:
    twin = video.parent / "other" / video.name  # another video of the same name
    twin.parent.mkdir(exist_ok=True)
    with av.open(str(twin), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames_of(10):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(frame, ((4, 4), (4, 4), (0, 0)))), "rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    asked = [(video, QUESTION), (twin, QUESTION), (frames_of(), QUESTION), (video, "Where?")]
    methods, told = ["uniform+random", {"pruner": "grid", "keep_ratio": "0.4"}], []
    seen: list[int] = []
    hook = model.vlm.network.tower.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    made = list(model.batch(asked, methods, progress=lambda *count: told.append(count), max_new_tokens=6))
    hook.remove()
    lengths = {one.question: one.answer.cost.num_frames for one in made}
    assert sum(seen) == lengths[0] + lengths[1] + lengths[2]
    assert told == [(number, 8) for number in range(1, 9)]
    assert {(one.question, one.method) for one in made} == {(q, m) for q in range(4) for m in range(2)}
    for one in made:
        alone = model.answer(*asked[one.question], methods[one.method], max_new_tokens=6)
        assert (one.answer.text, one.answer.cost.tokens_kept) == (alone.text, alone.cost.tokens_kept)
        assert all(ours.equal(theirs) for ours, theirs in zip(one.answer.kept, alone.kept, strict=True))
        assert one.answer.cost.questions_on_video == (2 if one.question in (0, 3) else 1)


def test_who_leaves_a_batch_leaves_the_model_as_it_was(model: Model, video: Path) -> None:
    asked = [(frames_of(), QUESTION), (video, QUESTION)]
    for _ in model.batch(asked, ["fastv", "full"], max_new_tokens=4):
        break
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in model.vlm.network.modules())
    begun = model.answers(video, [QUESTION, "Where?"], "fastv", max_new_tokens=4)
    next(begun)
    with ThreadPoolExecutor(1) as pool:  # a batch that nobody goes on with holds no lock
        alone = pool.submit(model.answer, frames_of(), QUESTION, "full", max_new_tokens=4).result(timeout=60)
    assert alone.cost.layer_lengths == (alone.cost.prompt_tokens,) * len(model.vlm.layers)
    assert next(begun).cost.layer_lengths[-1] < alone.cost.prompt_tokens


def test_threads_take_turns(model: Model) -> None:
    """Hooks of a layer pruner must not see another thread's prompt."""
    ask = [(frames_of(count), f"{QUESTION} {count}", "fastv" if count % 2 else "full") for count in range(3, 11)]
    alone = [model.answer(*one, max_new_tokens=8) for one in ask]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: model.answer(*one, max_new_tokens=8), ask))
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    lengths = [answer.cost.layer_lengths for answer in alone]
    assert [answer.cost.layer_lengths for answer in together] == lengths
