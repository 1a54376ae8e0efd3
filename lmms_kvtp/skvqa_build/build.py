"""The order of the steps from a data set's questions and videos to its index."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lmms_kvtp.files import write_whole
from lmms_kvtp.questions import RULE
from lmms_kvtp.skvqa.entry import ALPHA, CLIP_SIZE, DIGITS, TEMPERATURE, WEIGHTS, Entry, make_entry
from lmms_kvtp.skvqa.index import write_entries
from lmms_kvtp.skvqa.layouts import SourceQuestion
from lmms_kvtp.skvqa_build.ask import Failure, caption_clips, captions_hash, refine_questions
from lmms_kvtp.skvqa_build.chat import ChatModel
from lmms_kvtp.skvqa_build.prompts import VERSION
from lmms_kvtp.skvqa_build.scorers import ClipScorer, Scoreable
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.skvqa_build.videos import Clips, VideoFolder, sample_clips
from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.sampling import FrameOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexSettings:
    """Everything that decides an index beside its data set: models and numbers."""

    scorer: ClipScorer
    captioner: ChatModel | None = None
    refiner: ChatModel | None = None
    """Model that refines questions; None for fixed rules."""
    frames: FrameOptions = FrameOptions()  # noqa: RUF009  # frozen, as plain values are
    clip_size: int = CLIP_SIZE
    alpha: float = ALPHA
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        """Refuse a scorer of captions without a captioner, by ValueError."""
        if self.scorer.needs_captions and self.captioner is None:
            raise ValueError(f"scorer {self.scorer.name} reads captions; name a captioner, or use --scorer siglip")

    @cached_property
    def models(self) -> dict[str, str]:
        """Names of captioner, refiner and scorer, and the scorer's weights where it is an image-text model.

        No captioner where its captions are not read.
        """
        captioner = self.captioner.name if self.captioner and self.scorer.needs_captions else "none"
        names = {"captioner": captioner, "refiner": self.refiner.name if self.refiner else RULE}
        weights = {WEIGHTS: self.scorer.weights} if self.scorer.weights else {}
        return {**names, "scorer": self.scorer.name, **weights}

    @property
    def prompts(self) -> str:
        """Version of the prompts; empty where none is used."""
        return VERSION if self.refiner or self.scorer.uses_prompts else ""


@dataclass(frozen=True)
class BuiltIndex:
    """Entries of a finished build, and the calls that failed."""

    entries: list[Entry]
    failures: list[Failure] = field(default_factory=list)


def build_index(
    dataset: str, questions: Sequence[SourceQuestion], videos: VideoFolder, settings: IndexSettings, store: Store
) -> BuiltIndex:
    """Build an index of the questions whose videos are there; a build that was broken off goes on where it stopped.

    Raises as `ask_all` does.
    """
    files = videos.find_all(dataset, [asked.video for asked in questions], skip_missing=True)
    present = [asked for asked in questions if asked.video in files]
    clips: dict[str, Clips] = {}
    failures: list[Failure] = []
    for name, path in {asked.video_id: files[asked.video] for asked in present}.items():
        try:
            clips[name] = sample_clips(path, store, settings.frames, settings.clip_size)
        except VideoError as error:
            failures.append(Failure("sample", name, str(error)))
    log.info("%s: %d videos sampled, %d unreadable", dataset, len(clips), len(failures))
    captions: Mapping[str, tuple[str, ...]] = {}
    if settings.captioner is not None and settings.scorer.needs_captions:
        captioned = caption_clips(settings.captioner, store, clips)
        captions = captioned.answers
        failures += captioned.failures
        log.info("%s: %d videos captioned, %d clips failed", dataset, len(captions), len(captioned.failures))
        clips = {name: found for name, found in clips.items() if name in captions}
    ready = sorted((asked for asked in present if asked.video_id in clips), key=lambda asked: asked.video_id)
    refined = refine_questions(settings.refiner, store, ready)
    log.info("%s: %d questions refined, %d failed", dataset, len(refined.answers), len(refined.failures))
    scoreable = {
        asked.question_id: Scoreable(asked.question_id, text, clips[asked.video_id], captions.get(asked.video_id, ()))
        for asked in ready
        if (text := refined.answers.get(asked.question_id)) is not None
    }
    scored = settings.scorer.score(scoreable.values(), store)
    log.info("%s: %d questions scored, %d failed", dataset, len(scored.answers), len(scored.failures))
    entries = [
        _entry(dataset, asked, scoreable[asked.question_id], scores, videos.root, settings)
        for asked in ready
        if (scores := scored.answers.get(asked.question_id)) is not None
    ]
    return BuiltIndex(entries, [*failures, *refined.failures, *scored.failures])


def save_index(built: BuiltIndex, dataset: str, out: Path) -> Path:
    """Write the index, and beside it what failed; returns its path. OSError where the folder cannot be written."""
    path = out / f"{dataset}.jsonl"
    lost = "".join(json.dumps(vars(failure)) + "\n" for failure in built.failures)
    write_whole(out / f"{dataset}.failures.jsonl", lost)
    if built.entries:
        write_entries(path, built.entries)
    return path


def _entry(
    dataset: str, asked: SourceQuestion, scored: Scoreable, scores: Sequence[float], root: Path, settings: IndexSettings
) -> Entry:
    clips = scored.clips
    return make_entry(
        dataset=dataset,
        **{**vars(asked), "video": clips.path.relative_to(root).as_posix()},
        refined=scored.text,
        num_frames=clips.num_frames,
        clip_size=settings.clip_size,
        duration=round(clips.duration, DIGITS),
        edges=tuple((round(start, DIGITS), round(end, DIGITS)) for start, end in clips.edges),
        clip_scores=scores,
        alpha=settings.alpha,
        temperature=settings.temperature,
        captions_hash=captions_hash(scored.captions),
        models=settings.models,
        prompts=settings.prompts,
    )
