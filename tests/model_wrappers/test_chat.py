"""The harness models of families in transformers, called as the harness calls them, beside its own wrappers."""

import importlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.native_checkpoints import native_tokenizer, write_native
from helpers.small_videos import write_video
from lmms_eval.api.instance import Instance
from PIL import Image
from transformers import InternVLVideoProcessor
from transformers.video_utils import load_video

from lmms_kvtp import load
from lmms_kvtp.doctor.reference import speak
from lmms_kvtp.encode import encode
from lmms_kvtp.harness.requests import STOCK, ask_stock, read_turn
from lmms_kvtp.model_wrappers.baselines import ChatKvtp, InternVLKvtp, Qwen3VLKvtp, Qwen25VLKvtp
from lmms_kvtp.pipeline import prepare
from lmms_kvtp.questions import Question
from lmms_kvtp.run.options import parse_arguments
from lmms_kvtp.video.load import load_video as read_video
from lmms_kvtp.vlms.base import LoadOptions, load_vlm
from lmms_kvtp.vlms.checkpoint.config import CheckpointError
from lmms_kvtp.vlms.decoding import text_of

OURS: dict[str, type[ChatKvtp]] = {"qwen2_5_vl": Qwen25VLKvtp, "qwen3_vl": Qwen3VLKvtp, "internvl": InternVLKvtp}
FULL = {"keep_ratio": 1, "scorer": "uniform", "allocator": "uniform", "pruner": "none"}
QUESTIONS = ("What color is the star?\nA. red\nB. blue", "Where is it?", "How does the video end?")
SETTINGS = {"max_new_tokens": 10, "until": ["\n\n"]}
TOLD = {"task": "clips", "doc_id": 0, "repeats": 1}
SMALL = {"min_pixels": 4096, "max_pixels": 30000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("native")


@pytest.fixture(scope="module", params=OURS)
def checkpoint(request: pytest.FixtureRequest, folder: Path) -> Path:
    return write_native(request.param, folder / request.param, penalty=1.3, seed=1)


@pytest.fixture(scope="module")
def docs(folder: Path) -> list[dict[str, str]]:
    """Three questions: two on a video of 60 frames, one on a shorter one."""
    long, short = (write_video(folder / f"{name}.mp4", seconds) for name, seconds in (("long", 12), ("short", 7)))
    return [{"question": text, "video": str(path)} for text, path in zip(QUESTIONS, (long, long, short), strict=True)]


def messages(doc: dict[str, str]) -> list[dict[str, Any]]:
    content = [{"type": "video", "url": doc["video"]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": content}]


def asked(docs: list[dict[str, str]], to_messages: Any = messages, **settings: Any) -> list[Instance]:
    arguments = [
        (doc["question"], to_messages, {**SETTINGS, **settings}, n, "clips", "test") for n, doc in enumerate(docs)
    ]
    return [Instance("generate_until", given, n, TOLD) for n, given in enumerate(arguments)]


def ours(checkpoint: Path, docs: Any, tmp_path: Path, **settings: Any) -> Any:
    common = {"pretrained": str(checkpoint), "device": "cpu", "journal": str(tmp_path), "torch_dtype": "bfloat16"}
    small = {} if checkpoint.name == "internvl" else SMALL
    model = OURS[checkpoint.name](**{**common, **small, **FULL, **settings})
    model.task_dict = {"clips": {"test": docs}}
    return model


def by_pyav(own: Any, videos: Any, sample_indices_fn: Any = None) -> Any:
    """Read as transformers does, by its reader that needs no torchcodec."""
    if isinstance(videos, list):
        return list(zip(*[by_pyav(own, video, sample_indices_fn) for video in videos], strict=True))
    return load_video(videos, backend="pyav", sample_indices_fn=sample_indices_fn)


def stock(checkpoint: Path, docs: Any, **settings: Any) -> Any:
    module, _, name = STOCK[checkpoint.name].partition(".")
    wrapper = getattr(importlib.import_module(f"lmms_eval.models.chat.{module}"), name)
    small = SMALL
    if checkpoint.name == "internvl":
        small, settings = {}, {"num_frames": settings.get("max_num_frames", 32)}
    model = wrapper(str(checkpoint), device="cpu", device_map="cpu", **{**small, **settings})
    model.task_dict = {"clips": {"test": docs}}
    return model


@pytest.mark.filterwarnings("ignore:Passing `min_pixels`:FutureWarning")  # the stock wrapper's
@pytest.mark.parametrize(
    ("more", "batch"),
    [
        ({}, 1),
        ({"max_num_frames": 12}, 2),
        ({"fps": 0.5, "max_num_frames": 16}, 1),
        ({"max_num_frames": 7, "min_pixels": 20000, "max_pixels": 22000}, 1),  # Qwen2.5-VL's resizes twice
        ({"total_pixels": 90000}, 2),  # Qwen3-VL's samples at 2 frames a second
    ],
)
def test_all_tokens_kept_answers_as_the_stock_wrapper(
    checkpoint: Path,
    docs: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    batch: int,
) -> None:
    if "total_pixels" in more and checkpoint.name != "qwen3_vl":
        pytest.skip("an argument of Qwen3-VL")
    if checkpoint.name == "internvl" and "fps" in more:
        pytest.skip("the stock wrapper ignores it, ours refuses it")
    if checkpoint.name == "internvl":
        more = {name: value for name, value in more.items() if "pixels" not in name}
    monkeypatch.setattr(InternVLVideoProcessor, "fetch_videos", by_pyav)
    theirs = [made.text.strip() for made in stock(checkpoint, docs, **more).generate_until(asked(docs))]
    model = ours(checkpoint, docs, tmp_path, **more, batch_size=batch)
    assert [made.text for made in model.generate_until(asked(docs))] == theirs
    assert len(set(theirs)) == 3


@pytest.mark.filterwarnings("ignore:Passing `min_pixels`:FutureWarning")  # the stock wrapper's
def test_prove_holds_the_same_tokens_against_those_of_the_stock_wrapper(
    checkpoint: Path, docs: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InternVLVideoProcessor, "fetch_videos", by_pyav)
    model = load(str(checkpoint), device="cpu", dtype="bfloat16")
    frames, device = replace(model.vlm.frames, max_frames_num=6), torch.device("cpu")
    theirs = ask_stock(checkpoint, Path(docs[0]["video"]), QUESTIONS[:2], frames, device, "bfloat16", 8)
    full = {**FULL, "keep_ratio": "1"}
    encoded = encode(model.vlm, model.method(full), read_video(docs[0]["video"], frames))
    prompts = [prepare(model.vlm, model.method(full), [encoded], Question(text)).prompt for text in QUESTIONS[:2]]
    assert [speak(model.vlm, prompt, 8).ids for prompt in prompts] == theirs and len(theirs[0]) > 1


def test_pruned_answers_are_others_and_tell_their_cost(
    checkpoint: Path, docs: list[dict[str, str]], tmp_path: Path
) -> None:
    whole = ours(checkpoint, docs, tmp_path).generate_until(asked(docs))
    model = ours(checkpoint, docs, tmp_path / "half", keep_ratio=0.25, pruner="random")
    pruned = model.generate_until(asked(docs))
    assert [made.text for made in pruned] != [made.text for made in whole]
    before, after = (made[0].token_counts for made in (whole, pruned))
    assert after.input_tokens < before.input_tokens


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ([{"role": "user", "content": [{"type": "image", "url": "a.png"}]}], "sends image; this model answers texts"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "video", "url": "a.mp4"}]}],
            "sends text, video",
        ),
        (
            [{"role": "user", "content": [{"type": "video", "url": "a.mp4", "end_time": 4.0}]}],
            "sends video from start_time to end_time; this model answers texts on whole videos",
        ),
        ([{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "turns of user, assistant"),
    ],
)
def test_what_a_back_end_cannot_lay_out_is_refused(
    checkpoint: Path, docs: list[dict[str, str]], tmp_path: Path, turns: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        read_turn(turns)
    if checkpoint.name == "qwen3_vl":
        with pytest.raises(ValueError, match=told):
            ours(checkpoint, docs, tmp_path).generate_until(asked(docs[:1], lambda doc: turns))


def test_a_checkpoint_of_another_family_is_refused_with_the_id_that_runs_it(checkpoint: Path) -> None:
    other = Qwen25VLKvtp if checkpoint.name == "qwen3_vl" else Qwen3VLKvtp
    with pytest.raises(CheckpointError, match=rf"is not of the family .*; run it with --model {checkpoint.name}_kvtp"):
        other(pretrained=str(checkpoint))


def test_arguments_of_another_family_are_refused_by_name(checkpoint: Path, docs: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mm_spatial_pool_mode=average is not of"):
        ours(checkpoint, docs, tmp_path, mm_spatial_pool_mode="average")
    if checkpoint.name != "internvl":
        with pytest.raises(ValueError, match=r"positions=renumbered is not of .*, which has kept, evs"):
            ours(checkpoint, docs, tmp_path, positions="renumbered")
    with pytest.raises(ValueError, match="force_sample, add_time_instruction and phase are LLaVA-Video's"):
        parse_arguments({"pretrained": str(checkpoint), "force_sample": True})


def test_a_folder_of_frames_is_a_video(checkpoint: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(9):
        Image.new("RGB", (64, 48), (25 * number, 90, 40)).save(frames / f"{number}.png")
    docs = [{"question": QUESTIONS[0], "video": str(frames)}]
    [made] = ours(checkpoint, docs, tmp_path).generate_until(asked(docs))
    assert made.token_counts.to_dict()["num_frames"] == (9 if checkpoint.name == "internvl" else 8)


def test_prompts_of_system_and_reasoning_are_those_of_the_simple_wrapper(
    checkpoint: Path, docs: list[dict[str, str]], tmp_path: Path
) -> None:
    told = {"system_prompt": "Be brief.", "reasoning_prompt": "\\nThink first."}
    if checkpoint.name == "internvl":
        with pytest.raises(ValueError, match=r"system_prompt=Be brief\. is not of internvl, which has empty"):
            ours(checkpoint, docs, tmp_path, system_prompt="Be brief.")
        return
    if checkpoint.name == "qwen2_5_vl":  # the simple wrapper tells the processor other times than the chat wrapper does
        vlm = ours(checkpoint, docs, tmp_path, **told).built.vlm
        text = vlm.tokenizer.decode(vlm.assemble([], " Who? ").ids)
        assert text.startswith(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?\nThink first.<|im_end|>"
        )
        return
    wrapper = importlib.import_module("lmms_eval.models.simple.qwen3_vl").Qwen3_VL
    model = wrapper(
        str(checkpoint), device="cpu", device_map="cpu", max_num_frames=8, enable_thinking=False, **SMALL, **told
    )
    model.task_dict = {"clips": {"test": docs}}
    mine = asked(docs[2:])
    theirs = []
    for number, one in enumerate(mine):
        text, _, settings, *where = one.args
        given = (text, settings, lambda doc: [doc["video"]], number + 2, *where[1:])
        theirs += [answer.strip() for answer in model.generate_until([Instance("generate_until", given, number, TOLD)])]
    own = ours(checkpoint, docs[2:], tmp_path, max_num_frames=8, enable_thinking=False, **told)
    assert [made.text for made in own.generate_until(mine)] == theirs


def test_thoughts_are_no_part_of_an_answer(checkpoint: Path) -> None:
    tokenizer = native_tokenizer(checkpoint.name)
    said, endless = (tokenizer(text).input_ids for text in ("so it is\n</think>\n\nB. blue", "endless"))
    assert text_of(tokenizer, said, (), thinks=True) == "B. blue" and text_of(tokenizer, endless, (), thinks=True) == ""
    assert text_of(tokenizer, said, ()) == "so it is\n</think>\n\nB. blue"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"trust_remote_code": True},
            "True is not possible, only trust_remote_code=False: no code of a checkpoint is",
        ),
        (
            {"interleave_visuals": True},
            "True is not possible, only interleave_visuals=False: videos stand before",
        ),
        ({"empty": "some"}, "empty='some' is not one of keep, drop"),
        ({"positions": "gaps"}, "positions='gaps' is not one of renumbered, kept, evs"),
    ],
)
def test_what_no_stock_wrapper_means_is_refused_by_name(checkpoint: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        OURS[checkpoint.name](pretrained=str(checkpoint), **settings)


def test_bad_videos_are_refused_in_one_line_and_nothing_else_is_needed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("qwen_vl_utils", "torchcodec", "decord"):
        monkeypatch.setitem(sys.modules, package, None)
    folders = {"one": (1, (64, 48)), "thin": (4, (804, 4))}
    for name, (count, size) in folders.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", size, (25 * number, 90, 40)).save(tmp_path / name / f"{number}.png")
    docs = [{"question": QUESTIONS[0], "video": str(tmp_path / name)} for name in folders]
    model = ours(checkpoint, docs, tmp_path / "out", on_error="skip")
    found = model.generate_until(asked(docs))
    errors = [made.token_counts.to_dict().get("error") for made in found]
    if checkpoint.name == "internvl":
        assert errors == [None, None]  # it makes a square of any frame
        return
    assert "1 frame, and a step of this model is 2; leave the video out" in errors[0]
    assert "frames of 804 x 4 pixels: a side is more than 200 times the other; crop the video" in errors[1]
    assert all("\n" not in error for error in errors)


def test_no_code_of_a_checkpoint_runs(checkpoint: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    file = copied / "config.json"
    config = json.loads(file.read_text())
    config["auto_map"] = {"AutoModelForImageTextToText": "theirs.Model", "AutoConfig": "theirs.Config"}
    file.write_text(json.dumps(config))
    (copied / "theirs.py").write_text("raise SystemExit('ran')")
    assert (
        type(load_vlm(str(copied), LoadOptions(device="cpu"))).__name__
        == type(load_vlm(str(checkpoint), LoadOptions(device="cpu"))).__name__
    ), "the class is transformers' own"


def test_conversations_are_refused(checkpoint: Path, docs: Any, tmp_path: Path) -> None:
    model = ours(checkpoint, docs, tmp_path)
    with pytest.raises(NotImplementedError, match="clips holds conversations"):
        model.generate_until_multi_round([SimpleNamespace(task_name="clips")])
