"""Answers questions about a folder of videos as the harness's wrapper would, without the harness."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.device import find_device
from lmms_kvtp.forecast.models import find_spec
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.answerer import Answerer, Lane
from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.build import Built, build
from lmms_kvtp.run.journal import Session
from lmms_kvtp.run.options import Arguments
from lmms_kvtp.video.load import VIDEO_SUFFIXES, load_video


def find_videos(folder: Path) -> list[Path]:
    """The video files directly in a folder, sorted by name.

    Raises:
        ValueError: there are none; the message names the endings that count.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise ValueError(f"{folder} holds no video; files ending in {', '.join(VIDEO_SUFFIXES)} count")
    return found


def answer_directly(arguments: Arguments, built: Built, asks: Sequence[Ask]) -> list[Answer]:
    """Answer all questions, in batches and with videos decoded ahead as `arguments` say; no journal is kept.

    Raises:
        SampleError: a question cannot be answered, and errors are not skipped.
    """
    lane = Lane(built, arguments.run, Session(built.setup, None, None))
    answerer = Answerer([lane], arguments.frames)
    made = {number: answer for _, number, answer in answerer.answer_all(dict(enumerate(asks)))}
    return [made[number] for number in range(len(asks))]


def build_for(arguments: Arguments) -> Built:
    """Build model and method of `arguments`; the default method is KVTP with PruMerge."""
    return build(arguments, find_device(arguments.load.device), {})


def decoder_alone(paths: Sequence[str], arguments: Arguments) -> dict[str, float]:
    """Measure the seconds to decode files and to make the model's pixels, with nothing else running."""
    meter, spec = Meter(torch.device("cpu")), find_spec(arguments.run.pretrained).pixel_spec
    for path in paths:
        chunks = load_video(path, arguments.frames).chunks()
        while True:
            with meter.stage("decode"):
                frames = next(chunks, None)
            if frames is None:
                break
            with meter.stage("preprocess"):
                frames.pixels(spec)
    return meter.seconds
