"""From a data set's questions and videos to its index: the order of the steps, and nothing else."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmms_kvtp.files import write_whole
from lmms_kvtp.skvqa.entry import DIGITS, Entry, make
from lmms_kvtp.skvqa.index import write
from lmms_kvtp.skvqa.layouts import SourceQuestion
from lmms_kvtp.skvqa.rates import ALPHA, CLIP_SIZE, TEMPERATURE
from lmms_kvtp.skvqa_build.ask import Failure
from lmms_kvtp.skvqa_build.captions import caption_clips, captions_hash
from lmms_kvtp.skvqa_build.chat import Chat
from lmms_kvtp.skvqa_build.locate import VideoFolder
from lmms_kvtp.skvqa_build.prompts import VERSION
from lmms_kvtp.skvqa_build.refinement import RULE, refine_questions
from lmms_kvtp.skvqa_build.scoring import ClipScorer, Scoreable
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.skvqa_build.videos import Clips, sample_clips
from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.sampling import FrameOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What an index depends on beside its data set."""

    scorer: ClipScorer
    captioner: Chat | None = None
    refiner: Chat | None = None
    """None: by rule."""
    frames: FrameOptions = FrameOptions()  # noqa: RUF009  # frozen, as plain values are
    clip_size: int = CLIP_SIZE
    alpha: float = ALPHA
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        """Refuse a scorer of captions without a captioner.

        Raises:
            ValueError: as said.
        """
        if self.scorer.needs_captions and self.captioner is None:
            raise ValueError(f"scorer {self.scorer.name} reads captions; name a captioner, or use --scorer siglip")

    @property
    def models(self) -> dict[str, str]:
        """By their part; a captioner only where its captions are read."""
        captioner = self.captioner.name if self.captioner and self.scorer.needs_captions else "none"
        return {
            "captioner": captioner,
            "refiner": self.refiner.name if self.refiner else RULE,
            "scorer": self.scorer.name,
        }

    @property
    def prompts(self) -> str:
        """Version of the prompts, where any is used."""
        return VERSION if self.refiner or self.scorer.uses_prompts else ""


@dataclass(frozen=True)
class Built:
    """What came of a build."""

    entries: list[Entry]
    failures: list[Failure] = field(default_factory=list)


def build(
    dataset: str, questions: Sequence[SourceQuestion], videos: VideoFolder, recipe: Recipe, store: Store
) -> Built:
    """Build an index; a build that was broken off goes on where it stopped.

    Args:
        dataset: its name.
        questions: of the data set.
        videos: its files; questions without file are left out.
        recipe: models and settings.
        store: of finished calls.

    Raises:
        ChatError: a model cannot be used at all.
        BudgetError: the budget is spent.
        StoreError: the store cannot be written.
    """
    files = videos.find_all(dataset, [asked.video for asked in questions], skip_missing=True)
    present = [asked for asked in questions if asked.video in files]
    clips, failures = _sample({asked.video_id: files[asked.video] for asked in present}, recipe, store)
    log.info("%s: %d videos sampled, %d unreadable", dataset, len(clips), len(failures))
    captions: Mapping[str, tuple[str, ...]] = {}
    if recipe.captioner is not None and recipe.scorer.needs_captions:
        captioned = caption_clips(recipe.captioner, store, clips)
        captions = captioned.captions
        failures += captioned.failures
        log.info("%s: %d videos captioned, %d clips failed", dataset, len(captions), len(captioned.failures))
        clips = {name: found for name, found in clips.items() if name in captions}
    ready = sorted((asked for asked in present if asked.video_id in clips), key=lambda asked: asked.video_id)
    refined = refine_questions(recipe.refiner, store, ready)
    log.info("%s: %d questions refined, %d failed", dataset, len(refined.answers), len(refined.failures))

    def scoreable() -> Iterator[Scoreable]:
        for asked in ready:
            if asked.question_id in refined.answers:
                text = refined.answers[asked.question_id]
                yield Scoreable(asked.question_id, text, clips[asked.video_id], captions.get(asked.video_id, ()))

    scored = recipe.scorer.score(scoreable(), store)
    log.info("%s: %d questions scored, %d failed", dataset, len(scored.answers), len(scored.failures))
    entries = []
    for asked in ready:
        if asked.question_id in scored.answers:
            text, scores = refined.answers[asked.question_id], scored.answers[asked.question_id]
            sampled, described = clips[asked.video_id], captions.get(asked.video_id, ())
            video = sampled.path.relative_to(videos.root).as_posix()
            entries.append(_entry(dataset, asked, text, video, sampled, described, scores, recipe))
    return Built(entries, [*failures, *refined.failures, *scored.failures])


def save(built: Built, dataset: str, out: Path) -> Path:
    """Write the index, and beside it what failed; returns the path of the index.

    Raises:
        OSError: the folder is full or cannot be written.
    """
    path = out / f"{dataset}.jsonl"
    lost = [{"step": lost.step, "subject": lost.subject, "reason": lost.reason} for lost in built.failures]
    write_whole(out / f"{dataset}.failures.jsonl", "".join(json.dumps(line) + "\n" for line in lost).encode())
    if built.entries:
        write(path, built.entries)
    return path


def _sample(files: Mapping[str, Path], recipe: Recipe, store: Store) -> tuple[dict[str, Clips], list[Failure]]:
    clips, failures = {}, []
    for name, path in files.items():
        try:
            clips[name] = sample_clips(path, store, recipe.frames, recipe.clip_size)
        except VideoError as error:
            failures.append(Failure("sample", name, str(error)))
    return clips, failures


def _entry(
    dataset: str,
    asked: SourceQuestion,
    refined: str,
    video: str,
    clips: Clips,
    captions: tuple[str, ...],
    scores: tuple[float, ...],
    recipe: Recipe,
) -> Entry:
    return make(
        dataset=dataset,
        question_id=asked.question_id,
        video_id=asked.video_id,
        video=video,
        question=asked.question,
        options=asked.options,
        refined=refined,
        num_frames=clips.num_frames,
        clip_size=recipe.clip_size,
        duration=round(clips.duration, DIGITS),
        edges=tuple((round(start, DIGITS), round(end, DIGITS)) for start, end in clips.edges),
        clip_scores=scores,
        alpha=recipe.alpha,
        temperature=recipe.temperature,
        captions_hash=captions_hash(captions),
        models=recipe.models,
        prompts=recipe.prompts,
    )
