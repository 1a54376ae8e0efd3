"""Answers to several questions on videos in memory, through the loop that every run takes."""

from collections.abc import Iterator, Sequence
from typing import Any

from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.questions import Question
from lmms_kvtp.run.answerer import Answerer, unrecorded
from lmms_kvtp.run.asks import ask_about
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM


def answers(
    vlm: VideoVLM,
    method: Method,
    videos: Sequence[Video],
    questions: Sequence[Question],
    options: GenerationOptions | None = None,
    **run: Any,
) -> Iterator[Answer]:
    """One by one, as they are asked for; `run` are fields of `RunOptions`."""
    asks = {n: ask_about(videos, question, options or GenerationOptions()) for n, question in enumerate(questions)}
    answerer = Answerer([unrecorded(vlm, method, RunOptions(**run))], FrameOptions())
    return (answer for _, _, answer in answerer.answer_all(asks))
