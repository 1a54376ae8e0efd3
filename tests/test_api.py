"""The Python interface, on a real video file and a whole tiny model."""

from pathlib import Path

import av
import numpy as np
import pytest
from helpers.checkpoints import write_tiny

import lmms_kvtp
from lmms_kvtp import load
from lmms_kvtp.api import Model, load_options
from lmms_kvtp.types import GenerationOptions
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
