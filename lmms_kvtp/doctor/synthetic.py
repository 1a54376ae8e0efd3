"""An exam on the synthetic benchmark's videos, which any model can watch."""

from typing import Any, cast

from lmms_kvtp.doctor.exam import Exam, ExamQuestion
from lmms_kvtp.doctor.expected import Expected
from lmms_kvtp.doctor.reference import reference_logits
from lmms_kvtp.embedded import cache
from lmms_kvtp.embedded.dataset import build
from lmms_kvtp.embedded.questions import INSTRUCTION, LETTERS
from lmms_kvtp.method import Method
from lmms_kvtp.questions import Question, chosen_letter
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM
from lmms_kvtp.vlms.llava_video import LlavaVideo

QUESTIONS = 4
"""Questions on each video."""


def synthetic_exam(vlm: VideoVLM, method: Method, videos: int, frames: int, expected: Expected | None = None) -> Exam:
    """An exam on the first videos of the test split, which are made now if the cache does not hold them.

    `frames` are the most of each; `expected` is the accuracy of the unpruned model on this split before. ValueError
    where there are no videos, CacheError where they cannot be written.
    """
    if videos < 1:
        raise ValueError(f"videos={videos}: an exam needs at least one")
    asked: dict[str, list[ExamQuestion]] = {}
    loaded: dict[str, Video] = {}
    for doc in build("test", videos, per_video=QUESTIONS):
        key = str(doc["video_id"])
        asked.setdefault(key, []).append(_asked(doc))
        if key not in loaded:
            path = cache.video(str(doc["split"]), cast(int, doc["seed"]))
            loaded[key] = load_video(str(path), FrameOptions(max_frames_num=frames))
    return Exam(vlm, method, list(loaded.values()), [asked[key] for key in loaded], chosen_letter, reference, expected)


def reference(vlm: VideoVLM) -> tuple[bool | None, str]:
    """Compare the unpruned model with transformers' own class, and with published logits where there are some."""
    if not isinstance(vlm, LlavaVideo):
        return None, f"there is no other implementation of {type(vlm).__name__}"
    try:
        checks = reference_logits(vlm)
    except ValueError as error:
        return None, str(error)
    told = "; ".join(f"{check.name}: logits differ by at most {check.difference:.2g}" for check in checks)
    return all(check.passed for check in checks), told


def _asked(doc: dict[str, Any]) -> ExamQuestion:
    stem, options = str(doc["question"]), tuple(map(str, doc["options"]))
    lettered = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    spans = tuple((float(start), float(end), float(score)) for start, end, score in doc["spans"])
    question = Question(
        prompt="\n".join([stem, *lettered, INSTRUCTION]),
        stem=stem,
        options=options,
        doc_key=str(doc["question_id"]),
        spans=spans,
    )
    return ExamQuestion(question, str(doc["answer"]), options)
