"""Examples that the predictor learns from: videos, questions on them, and how relevant each frame is."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.embedded import cache
from lmms_kvtp.embedded.questions import ask
from lmms_kvtp.embedded.script import write_script
from lmms_kvtp.files import from_json, is_inside, text_lines
from lmms_kvtp.questions import MOST_RELEVANT, Question, Refiner, check_scale, refine
from lmms_kvtp.scorers.oracle import span_scores
from lmms_kvtp.video.sampling import FrameOptions

CLIP_SIZE = 8
"""Frames of a clip where an index does not say."""


@dataclass(frozen=True)
class ClipScores:
    """Relevance of consecutive clips of the frames that were sampled when the video was scored."""

    scores: tuple[float, ...]
    num_frames: int
    clip_size: int


@dataclass(frozen=True)
class Example:
    """A video with questions whose relevant spans, or clips, are known."""

    source: str
    """Path of the video."""
    questions: tuple[Question, ...]
    """Questions with `refined` and `spans`; no spans, (), mean that the whole video is relevant."""
    frames: FrameOptions = FrameOptions()  # noqa: RUF009  # frozen, as plain values are
    clips: tuple[ClipScores | None, ...] = ()
    """Scores of each question that count instead of its spans; () where no question has any."""
    kinds: tuple[str, ...] = ()
    """Kind of each question, by which measures are listed apart; () where the data does not say."""
    evaluated: frozenset[str] = frozenset()
    """Data sets for whose evaluation an index keeps some of the questions."""


def synthetic(
    split: str, videos: Iterable[int], frames: FrameOptions | None = None, refiner: Refiner = refine
) -> list[Example]:
    """List videos of the embedded benchmark, made if need be, with all questions that they allow.

    `split` is train, val or test, `videos` are numbers, and `refiner` shortens a question to what scorers read.
    """
    chosen, found = list(videos), []
    paths = cache.ensure(split, chosen)
    for script in (write_script(number, split) for number in chosen):
        asked = ask(script)
        questions = [
            Question(
                prompt=one.prompt,
                stem=one.text,
                options=one.options,
                refined=refiner(one.text, one.options),
                doc_key=f"{script.key}-{one.kind}",
                spans=tuple((start, end, MOST_RELEVANT) for start, end in one.spans),
            )
            for one in asked
        ]
        kinds, path = tuple(one.kind for one in asked), str(paths[script.key])
        found.append(Example(path, tuple(questions), frames or FrameOptions(), kinds=kinds))
    return found


def read_examples(
    path: Path,
    videos: Path,
    frames: FrameOptions | None = None,
    refiner: Refiner = refine,
    check: Callable[[dict[str, Any]], None] | None = None,
) -> list[Example]:
    """Read examples from an index of JSON lines, one question a line, grouped by video.

    A line has `video` (below the folder `videos`), `question`, and its relevance on a scale of 0 to 5: `spans` as
    [[start s, end s, score], ...], or, as an index of SparseKV-QA has it, `clip_scores` of clips of `clip_size` out of
    `num_frames` frames. It may have `options` and `refined`; without the latter `refiner` refines the question.

    ValueError names file and line where that is damaged, incomplete or refused by `check`, or a score is out of range.
    Or no score of the file is above 1: its scale is another.
    """
    grouped: dict[str, list[tuple[Question, ClipScores | None]]] = {}
    evaluated: dict[str, set[str]] = defaultdict(set)
    scores: list[float] = []
    for number, line in text_lines(path):
        try:
            entry = from_json(line)
            if not isinstance(entry, dict):
                raise ValueError(f"it holds a {type(entry).__name__}, wanted an object")
            if check is not None:
                check(entry)
            if not is_inside(entry["video"]) and videos != Path("/"):
                raise ValueError(f"the video {entry['video']!r} is not below {videos}; name it from there")
            options, text = tuple(map(str, entry.get("options", ()))), entry["question"]
            refined = entry.get("refined") or refiner(text, options)
            question = Question(text, text, options, refined, f"{path.name}:{number}", _spans(entry))
            asked = (question, _clips(entry))
            scores += asked[1].scores if asked[1] else [score for _, _, score in asked[0].spans or ()]
            grouped.setdefault(str(videos / entry["video"]), []).append(asked)
            if entry.get("split") == "evaluation":
                evaluated[str(videos / entry["video"])].add(str(entry.get("dataset", "")))
        except KeyError as error:
            raise ValueError(f"{path}, line {number}: it has no {error}") from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path}, line {number}: {error if type(error) is ValueError else repr(error)}") from error
    check_scale(scores, path)
    found = []
    for source, rows in grouped.items():
        questions, clips = tuple(question for question, _ in rows), tuple(scored for _, scored in rows)
        found.append(Example(source, questions, frames or FrameOptions(), clips, (), frozenset(evaluated[source])))
    return found


def _spans(entry: dict[str, Any]) -> tuple[tuple[float, float, float], ...] | None:
    if "clip_scores" in entry:  # these count instead
        return None
    if "spans" not in entry:
        raise ValueError('it has neither "spans" nor "clip_scores": nothing says which frames are relevant')
    spans = tuple((float(start), float(end), float(score)) for start, end, score in entry["spans"])
    bad = [span for span in spans if not (0 <= span[2] <= MOST_RELEVANT and span[0] <= span[1])]
    if bad:
        raise ValueError(f"span {bad[0]} is not a start, a later end and a score of 0 to {MOST_RELEVANT:g}")
    return spans


def _clips(entry: dict[str, Any]) -> ClipScores | None:
    if "clip_scores" not in entry:
        return None
    scores = tuple(float(score) for score in entry["clip_scores"])
    num_frames, clip_size = int(entry["num_frames"]), int(entry.get("clip_size", CLIP_SIZE))
    bad = [score for score in scores if not 0 <= score <= MOST_RELEVANT]
    if bad:
        raise ValueError(f"clip score {bad[0]:g} is not on the scale of 0 to {MOST_RELEVANT:g}; scale all of them")
    if num_frames < 1 or clip_size < 1 or len(scores) != -(-num_frames // clip_size):
        raise ValueError(f"{len(scores)} clip scores do not fit {num_frames} frames in clips of {clip_size}")
    return ClipScores(scores, num_frames, clip_size)


class FrameCountError(ValueError):
    """An index has scores for another number of frames than the video gives."""


def labels_of(example: Example, times: Float[Tensor, " T"]) -> Float[Tensor, "q T"]:
    """Give each frame, at `times` in seconds, its relevance to each question, 0 to 5.

    FrameCountError where there are scores of another number of frames.
    """
    rows = []
    for question, clips in zip(example.questions, example.clips or [None] * len(example.questions), strict=True):
        if clips is None:
            rows.append(span_scores(question.spans or (), times))
        elif clips.num_frames != len(times):
            raise FrameCountError(
                f"question {question.doc_key} has scores of {clips.num_frames} frames, the video gives {len(times)}; "
                "sample it as the index did (--max-frames-num, --fps)"
            )
        else:
            rows.append(torch.tensor(clips.scores).repeat_interleave(clips.clip_size)[: len(times)])
    return torch.stack(rows)
