"""The harness models of families in transformers, called as the harness calls them, beside its own wrappers."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.native_checkpoints import write_native
from helpers.small_videos import write_video
from lmms_eval.api.instance import Instance
from PIL import Image
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import load_video

from lmms_kvtp.harness.requests import read_turn
from lmms_kvtp.model_wrappers.baselines import ChatKvtp, InternVLKvtp, Qwen3VLKvtp, Qwen25VLKvtp
from lmms_kvtp.run.options import parse_arguments
from lmms_kvtp.vlms.checkpoint.config import CheckpointError

OURS: dict[str, type[ChatKvtp]] = {"qwen2_5_vl": Qwen25VLKvtp, "qwen3_vl": Qwen3VLKvtp, "internvl": InternVLKvtp}
STOCK = {"qwen2_5_vl": "qwen2_5_vl.Qwen2_5_VL", "qwen3_vl": "qwen3_vl.Qwen3_VL", "internvl": "internvl_hf.InternVLHf"}
FULL = {"keep_ratio": 1, "scorer": "uniform", "allocator": "uniform", "pruner": "none"}
QUESTIONS = ("What color is the star?\nA. red\nB. blue", "Where is it?", "How does the video end?")
SETTINGS = {"max_new_tokens": 10, "until": ["\n\n"]}
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
    told = {"task": "clips", "doc_id": 0, "repeats": 1}
    arguments = [
        (doc["question"], to_messages, {**SETTINGS, **settings}, n, "clips", "test") for n, doc in enumerate(docs)
    ]
    return [Instance("generate_until", given, n, told) for n, given in enumerate(arguments)]


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
    ("more", "batch"), [({}, 1), ({"max_num_frames": 12}, 2), ({"fps": 0.5, "max_num_frames": 16}, 1)]
)
def test_all_tokens_kept_answers_as_the_stock_wrapper(
    checkpoint: Path,
    docs: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    batch: int,
) -> None:
    if checkpoint.name == "internvl" and "fps" in more:
        pytest.skip("the stock wrapper ignores it, ours refuses it")
    monkeypatch.setattr(VideoProcessorMixin, "fetch_videos", by_pyav)
    theirs = [made.text.strip() for made in stock(checkpoint, docs, **more).generate_until(asked(docs))]
    model = ours(checkpoint, docs, tmp_path, **more, batch_size=batch)
    assert [made.text for made in model.generate_until(asked(docs))] == theirs
    assert len(set(theirs)) == 3


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
        with pytest.raises(ValueError, match=r"positions=renumbered is not of .*, which has kept"):
            ours(checkpoint, docs, tmp_path, positions="renumbered")
    with pytest.raises(ValueError, match="force_sample and add_time_instruction are LLaVA-Video's"):
        parse_arguments({"pretrained": str(checkpoint), "force_sample": True})


def test_a_folder_of_frames_is_a_video(checkpoint: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(9):
        Image.new("RGB", (64, 48), (25 * number, 90, 40)).save(frames / f"{number}.png")
    docs = [{"question": QUESTIONS[0], "video": str(frames)}]
    [made] = ours(checkpoint, docs, tmp_path).generate_until(asked(docs))
    assert made.token_counts.to_dict()["num_frames"] == (9 if checkpoint.name == "internvl" else 8)


def test_conversations_are_refused(checkpoint: Path, docs: Any, tmp_path: Path) -> None:
    model = ours(checkpoint, docs, tmp_path)
    with pytest.raises(NotImplementedError, match="clips holds conversations"):
        model.generate_until_multi_round([SimpleNamespace(task_name="clips")])
