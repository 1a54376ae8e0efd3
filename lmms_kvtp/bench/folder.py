"""Questions about video files, answered as the wrapper answers the harness's, without the harness."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.device import find_device
from lmms_kvtp.forecast.models import find
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.answerer import make_answerer
from lmms_kvtp.run.asks import Ask, read_question
from lmms_kvtp.run.build import Built, build
from lmms_kvtp.run.journal import Session
from lmms_kvtp.run.options import Arguments
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.ahead.ahead import decode_ahead
from lmms_kvtp.video.load import VIDEO_SUFFIXES, load_video


def find_videos(folder: Path) -> list[Path]:
    """The video files directly in a folder, by name.

    Raises:
        ValueError: there are none; the message names the endings that count.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise ValueError(f"{folder} holds no video; files ending in {', '.join(VIDEO_SUFFIXES)} count")
    return found


def ask_about(path: Path, prompt: str, max_new_tokens: int) -> Ask:
    """One question about one file."""
    options = GenerationOptions(max_new_tokens=max_new_tokens)
    return Ask("direct", "", read_question(prompt, {}, path.name), (str(path),), lambda: [str(path)], options)


def answer_directly(arguments: Arguments, built: Built, asks: Sequence[Ask]) -> list[Answer]:
    """All answers, in batches and with videos decoded ahead as `arguments` say; no journal is kept.

    Raises:
        SampleError: one cannot be answered, and errors are not skipped.
    """
    sharing, answers = Counter(ask.visuals for ask in asks), list[Answer]()
    with decode_ahead(arguments.run.ahead, arguments.frames, (ask.visuals for ask in asks)) as ahead:
        answerer = make_answerer(arguments, built, Session(built.setup, None, None), ahead=ahead)
        for start in range(0, len(asks), arguments.run.batch_size):
            answers += answerer.answer(asks[start : start + arguments.run.batch_size], sharing)
    return answers


def build_for(arguments: Arguments) -> Built:
    """Model and method of `arguments`, KVTP with PruMerge where they name none."""
    return build(arguments, find_device(arguments.load.device), {})


def decoder_alone(paths: Sequence[str], arguments: Arguments) -> dict[str, float]:
    """Seconds to decode the files, and to make the model's pixels of them, with nothing else at work."""
    meter, spec = Meter(torch.device("cpu")), find(arguments.run.pretrained).pixel_spec
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
