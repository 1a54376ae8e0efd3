"""The Python interface: `load("tiny").answer("video.mp4", "What color is the star?")`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from os import PathLike, fspath
from queue import Queue
from threading import Event, RLock
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.method import KVTP, Method, build_method, check_predictor, defaults_of
from lmms_kvtp.pipeline import Answer, Prepared
from lmms_kvtp.presets import method_settings
from lmms_kvtp.questions import Question
from lmms_kvtp.resolve import near
from lmms_kvtp.run.answerer import Answerer, plain_errors, unrecorded
from lmms_kvtp.run.asks import Ask, name_visuals
from lmms_kvtp.settings import parse
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.load import load_video, video_from_frames
from lmms_kvtp.video.reader import Images
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM, load_vlm
from lmms_kvtp.vlms.decoding import listening
from lmms_kvtp.vlms.load_options import ALIASES, LoadOptions

Visual = str | PathLike[str] | Video | Images
"""A file or folder of frames; or frames in memory, one a second: uint8 [T, H, W, 3] RGB, or a list of PIL images."""
Wanted = str | Mapping[str, Any] | Method
"""A short name (`kvtp+tome`, `vidcom2`), settings as in `--model_args`, `name,setting=value`, a dict, or a `Method`."""


@dataclass(frozen=True)
class Batched:
    """One answer of `Model.batch`."""

    question: int
    """Place of the question in the batch."""
    method: int
    """Place of the method."""
    answer: Answer


@dataclass(frozen=True)
class Model:
    """A loaded model; an image-text encoder stays loaded from its first use on. Several threads may use it in turns."""

    vlm: VideoVLM
    _encoders: list[FrameEncoder] = field(default_factory=list, repr=False, compare=False)
    _lock: RLock = field(default_factory=RLock, repr=False, compare=False)

    def answer(
        self,
        video: Visual,
        question: str,
        method: Wanted = "",
        frames: FrameOptions | None = None,
        options: GenerationOptions | None = None,
        **generation: Any,
    ) -> Answer:
        """Answer one question about a video; arguments and errors are those of `answers`."""
        return next(self.answers(video, [question], method, frames, options, **generation))

    def answers(
        self,
        video: Visual,
        questions: Sequence[str],
        method: Wanted = "",
        frames: FrameOptions | None = None,
        options: GenerationOptions | None = None,
        **generation: Any,
    ) -> Iterator[Answer]:
        """Answer questions about a video, which is read and encoded once.

        Args:
            video: a file, a folder of frames, or frames in memory: uint8 [T, H, W, 3] RGB, or a list of PIL images.
            questions: the whole text of each, options and instructions included.
            method: a short name, settings, or a `Method`; KVTP with PruMerge at 20 % where it is silent.
            frames: which frames the model sees; None: as its family does, and of frames in memory all.
            options: how answers are decoded.
            generation: fields of `GenerationOptions`, such as `max_new_tokens=16`, in place of those of `options`.

        Raises:
            VideoError: the video cannot be read, or frames in memory are not uint8 RGB.
            LookupError: a part or setting of the method, or a field of `generation`, is unknown.
            ValueError: a setting has a wrong value, a question is empty, or a prompt too long.
        """
        [opened] = self._opened(video, frames, _name(video))
        again = video if isinstance(video, str | PathLike) else opened  # a file may have to be read a second time
        asked = [(again, question) for question in questions]
        return (one.answer for one in self.batch(asked, [method], frames, options, **generation))

    def batch(
        self,
        questions: Sequence[tuple[Visual, str]],
        methods: Sequence[Wanted] = ("",),
        frames: FrameOptions | None = None,
        options: GenerationOptions | None = None,
        progress: Callable[[int, int], None] | None = None,
        **generation: Any,
    ) -> Iterator[Batched]:
        """Answer questions on many videos by several methods; each video is decoded and encoded once for all.

        Args:
            questions: video and text of each; those on one video are answered next to each other.
            methods: each as in `answers`.
            frames: which frames the model sees.
            options: how answers are decoded.
            progress: called behind each answer with the number of answers made, and of all.
            generation: as in `answers`.

        Raises:
            Exception: as `answers` does, once the answer's turn has come.
        """
        chosen, last = _options(options, generation), dict[int, Prepared]()
        lanes = [unrecorded(self.vlm, self.method(method)) for method in methods]
        answerer = Answerer(lanes, frames or self.vlm.frames, watch=lambda lane, _, ready: last.update({lane: ready}))
        asks = {}
        for number, (visual, text) in enumerate(questions):
            name = _name(visual)
            opened = partial(self._opened, visual, frames, name)
            asks[number] = Ask("", "", Question(prompt=text), (name,), opened, chosen)

        def made() -> Iterator[Batched]:
            answers = answerer.answer_all(asks)
            for number in range(1, len(asks) * len(lanes) + 1):
                with self._lock, plain_errors():  # layer pruning hangs hooks into the model while an answer is made
                    method, question, answer = next(answers)
                if progress:
                    progress(number, len(asks) * len(lanes))
                kept = tuple(packed.kept() for packed in last[method].packed)
                yield Batched(question, method, replace(answer, kept=kept))

        return made()

    def stream(self, video: Visual, question: str, method: Wanted = "", **more: Any) -> Iterator[str]:
        """Answer one question piece by piece; the pieces join to the text of `answer`.

        Whoever leaves the iterator early stops the decoding. Beams have no pieces: the text comes at once. Arguments
        and errors are those of `answers`.
        """
        pieces: Queue[str | None] = Queue()
        left = Event()

        def hear(text: str) -> bool:
            pieces.put(text)
            return left.is_set()

        def work() -> Answer:
            try:
                with listening(hear):
                    return self.answer(video, question, method, **more)
            finally:
                pieces.put(None)

        with ThreadPoolExecutor(1) as thread:
            made, told = thread.submit(work), ""
            try:
                while (text := pieces.get()) is not None:
                    if len(text) > len(told):
                        yield text[len(told) :]
                        told = text
                if rest := made.result().text[len(told) :]:
                    yield rest
            finally:
                left.set()

    def _opened(self, visual: Visual, frames: FrameOptions | None, key: str) -> list[Video]:
        if isinstance(visual, str | PathLike):
            return [load_video(visual, frames or self.vlm.frames)]
        return [visual if isinstance(visual, Video) else video_from_frames(visual, key, options=frames)]

    def method(self, settings: Wanted = "") -> Method:
        """Build the method that `settings` describe; raises as `answers` does."""
        if isinstance(settings, Method):
            return self._with_encoder(settings)
        chosen = method_settings(settings, layers=self.vlm.llm.layers) if isinstance(settings, str) else settings
        method = build_method(chosen, defaults_of(self.vlm))
        check_predictor(method, self.vlm, str(chosen.get("scorer", KVTP["scorer"])))
        self.vlm.check(method.positions)
        return self._with_encoder(method)

    def _with_encoder(self, method: Method) -> Method:
        same = [encoder for encoder in self._encoders if encoder == method.encoder]
        if not same:
            self._encoders.append(method.encoder)
        return replace(method, encoder=(same or [method.encoder])[0])


def _options(options: GenerationOptions | None, generation: Mapping[str, Any]) -> GenerationOptions:
    hints = get_type_hints(GenerationOptions)
    for name in generation:
        if name not in hints:
            raise LookupError(f"unknown generation setting {name!r}; {near(name, list(hints))}")
    values = {name: parse(hints[name], value, name) for name, value in generation.items()}
    return replace(options or GenerationOptions(), **values)


def _name(visual: Visual) -> str:
    """Name a video, no other one the same: by its whole path, or by what its frames show, which draws depend on."""
    if isinstance(visual, str | PathLike):
        return fspath(visual)
    if isinstance(visual, Video):
        return f"{visual.key} {id(visual):x}"
    whole = isinstance(visual, Tensor | np.ndarray)
    named = name_visuals([torch.as_tensor(visual).cpu().numpy()] if whole else list(visual))
    return f"{len(visual)} frames {named[0].rpartition(' ')[2]}" if len(named) == 1 else " ".join(map(str, named))


def load(pretrained: Any = "lmms-lab/LLaVA-Video-7B-Qwen2", processor: Any = None, **options: Any) -> Model:
    """Load a model.

    Args:
        pretrained: folder, hub id, `tiny` for the embedded model, or a model that transformers has loaded.
        processor: of a loaded model.
        options: fields of `LoadOptions`, such as `dtype="bfloat16"`; `torch_dtype` and `newline` as in `--model_args`.

    Raises:
        CheckpointError: there is no such checkpoint.
        LookupError: an unknown option.
        ValueError: an option has a wrong value.
    """
    return Model(load_vlm(pretrained, load_options(options), processor))


def load_options(settings: Mapping[str, Any]) -> LoadOptions:
    """Read fields of `LoadOptions`, or their aliases, given as text or as values; raises as `load` does."""
    hints = get_type_hints(LoadOptions)
    values: dict[str, Any] = {}
    for given, value in settings.items():
        name = ALIASES.get(given, given)
        if name not in hints:
            raise LookupError(f"unknown option {given!r}; {near(given, [f.name for f in fields(LoadOptions)])}")
        if name in values:
            raise ValueError(f"{given}={value} sets {name} twice; give it once")
        values[name] = parse(hints[name], value, given)
    return LoadOptions(**values)
