"""The Python interface: `load("tiny").answer("video.mp4", "What color is the star?")`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import Any, get_type_hints

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.method import KVTP, Method, build_method, check_predictor, defaults_of
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.questions import Question
from lmms_kvtp.resolve import near
from lmms_kvtp.run.answerer import Answerer, plain_errors, unrecorded
from lmms_kvtp.run.asks import Ask, ask_about
from lmms_kvtp.settings import pairs, parse
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM
from lmms_kvtp.vlms.llava_video import ALIASES, LoadOptions, load_llava_video


@dataclass(frozen=True)
class Model:
    """A loaded model; an image-text encoder stays loaded from its first use on."""

    vlm: VideoVLM
    _encoders: list[FrameEncoder] = field(default_factory=list, repr=False, compare=False)

    def answer(
        self,
        video: str | PathLike[str],
        question: str,
        method: str | Mapping[str, Any] = "",
        frames: FrameOptions | None = None,
        options: GenerationOptions | None = None,
    ) -> Answer:
        """Answer one question about a video file; raises as `answers` does."""
        return next(self.answers(video, [question], method, frames, options))

    def answers(
        self,
        video: str | PathLike[str],
        questions: Sequence[str],
        method: str | Mapping[str, Any] = "",
        frames: FrameOptions | None = None,
        options: GenerationOptions | None = None,
    ) -> Iterator[Answer]:
        """Answer questions about a video file, which is read and encoded once.

        Args:
            video: the file.
            questions: the whole text of each, options and instructions included.
            method: as in `--model_args`, "keep_ratio=0.2,pruner=random", or as a dict; KVTP with PruMerge at 20 %
                where it is silent.
            frames: which frames the model sees.
            options: how answers are decoded.

        Raises:
            VideoError: the video cannot be read.
            LookupError: a part or setting of the method is unknown.
            ValueError: a setting has a wrong value, a question is empty, or a prompt too long.
        """
        answerer = Answerer([unrecorded(self.vlm, self.method(method))], frames or FrameOptions())
        opened, chosen = load_video(video, frames), options or GenerationOptions()
        asks = {number: ask_about([opened], Question(prompt=text), chosen) for number, text in enumerate(questions)}
        return _answers(answerer, asks)

    def method(self, settings: str | Mapping[str, Any] = "") -> Method:
        """Build the method that `settings` describe; raises as `answers` does."""
        chosen = pairs(settings) if isinstance(settings, str) else settings
        method = build_method(chosen, defaults_of(self.vlm))
        check_predictor(method, self.vlm, str(chosen.get("scorer", KVTP["scorer"])))
        same = [encoder for encoder in self._encoders if encoder == method.encoder]
        if not same:
            self._encoders.append(method.encoder)
        return replace(method, encoder=(same or [method.encoder])[0])


def _answers(answerer: Answerer, asks: Mapping[int, Ask]) -> Iterator[Answer]:
    with plain_errors():
        yield from (answer for _, _, answer in answerer.answer_all(asks))


def load(pretrained: str = "lmms-lab/LLaVA-Video-7B-Qwen2", **options: Any) -> Model:
    """Load a model.

    Args:
        pretrained: folder, hub id, or `tiny` for the embedded model.
        options: fields of `LoadOptions`, such as `dtype="bfloat16"`; `torch_dtype` and `newline` as in `--model_args`.

    Raises:
        CheckpointError: there is no such checkpoint.
        LookupError: an unknown option.
        ValueError: an option has a wrong value.
    """
    return Model(load_llava_video(pretrained, load_options(options)))


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
