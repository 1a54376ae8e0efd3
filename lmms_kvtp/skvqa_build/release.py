"""The `skvqa.json` of the paper's authors: an object whose keys and values are Python tuples, written as text.

A key is (video path, prompt), a value (captions, scores, refined question), as text or as a list. Captions are a dict
by "[first, last]" frame, scores a text such as "{[0, 7]: 3, [8, 15]: 5}"; frames that it leaves out have 0, as the
release reads it. Literals are parsed, nothing is evaluated.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from lmms_kvtp.files import read_json
from lmms_kvtp.questions import MOST_RELEVANT
from lmms_kvtp.skvqa.entry import CLIP_SIZE, TEMPERATURE, Entry, EntryError, clip_bounds, make_entry
from lmms_kvtp.skvqa.layouts import SourceQuestion
from lmms_kvtp.skvqa_build.ask import captions_hash
from lmms_kvtp.skvqa_build.videos import Clips

MODELS = {"captioner": "LLaVA-NeXT (KVTP release)", **dict.fromkeys(("refiner", "scorer"), "gpt-4o (KVTP release)")}
PROMPTS = "release"
MOST_BYTES = 1_000_000
"""Most characters of a key or value: `ast.literal_eval` may exhaust memory on very long or deeply nested text."""

_RANGE = re.compile(r"""['"]?\[\s*(\d{1,6})\s*,\s*(\d{1,6})\s*\]['"]?""")
_SCORE = re.compile(_RANGE.pattern + r"\s*:\s*(\d+(?:\.\d+)?)\b")


class ReleaseError(ValueError):
    """The file, or one of its items, is not of the released form; the message says what is wrong."""


@dataclass(frozen=True)
class Item:
    """One question of the release."""

    video: str
    """Name of the video's file, without folder and extension."""
    prompt: str
    refined: str
    captions: tuple[str, ...]
    frame_scores: tuple[float, ...]


@dataclass(frozen=True)
class Imported:
    """Entries made of a release, and what stood in the way of others."""

    entries: list[Entry]
    problems: list[str]
    foreign: int
    """Number of items on videos that the data set does not have."""


def read_release(path: Path) -> tuple[list[Item], list[str]]:
    """Read a file's items, and what is wrong with the unreadable ones; ReleaseError where it is no object of JSON."""
    items, problems = [], []
    for number, (key, value) in enumerate(read_json(path, dict, ReleaseError).items(), start=1):
        try:
            items.append(_item(key, value))
        except ReleaseError as error:
            problems.append(f"item {number} ({key[:80]}): {error}")
    return items, problems


def match_items(
    dataset: str,
    items: Sequence[Item],
    questions: Sequence[SourceQuestion],
    clips: Mapping[str, Clips],
    temperature: float = TEMPERATURE,
    root: Path | None = None,
) -> Imported:
    """Make entries of the items that belong to a data set's questions.

    An item belongs to the question on the same video whose text, and options, its prompt contains. `clips` are sampled
    videos by video id, below `root`, for durations and seconds; without files there are none.
    """
    by_video: dict[str, list[SourceQuestion]] = {}
    for asked in questions:
        by_video.setdefault(PurePosixPath(asked.video).stem, []).append(asked)
    entries: dict[str, Entry] = {}
    problems, foreign = [], 0
    for item in items:
        if item.video not in by_video:
            foreign += 1
            continue
        prompt, fitting = " ".join(item.prompt.split()), []
        for asked in by_video[item.video]:
            if all(" ".join(text.split()) in prompt for text in (asked.question, *asked.options)):
                fitting.append(asked)
        if len(fitting) != 1:
            problems.append(f"{item.video}: {len(fitting)} questions fit the prompt {item.prompt[:80]!r}")
        elif fitting[0].question_id in entries:
            problems.append(f"{item.video}: question {fitting[0].question_id} occurs again")
        else:
            try:
                name = fitting[0].video_id
                entries[fitting[0].question_id] = _entry(dataset, fitting[0], item, clips.get(name), temperature, root)
            except EntryError as error:
                problems.append(f"{item.video}: {error}")
    return Imported(list(entries.values()), problems, foreign)


def read_segments(text: str) -> list[tuple[int, int, float]]:
    """Read first frame, last frame and score of each segment of a text such as "{[0, 7]: 3, [8, 15]: 5}".

    ReleaseError where there is anything else in the text, a score is out of range, or segments overlap.
    """
    if _SCORE.sub("", text).strip("{}, \n\t`"):
        raise ReleaseError(f"scores are not of the form {{[0, 7]: 3}}: {text[:120]!r}")
    segments = sorted((int(first), int(last), float(score)) for first, last, score in _SCORE.findall(text))
    for first, last, score in segments:
        if last < first or score > MOST_RELEVANT:
            wrong = f"a wrong order or a score above {MOST_RELEVANT:g}"
            raise ReleaseError(f"segment [{first}, {last}]: {score:g} has {wrong}")
    for (_, last, _), (first, _, _) in pairwise(segments):
        if first <= last:
            raise ReleaseError(f"segments overlap at frame {first}")
    if not segments:
        raise ReleaseError("there are no scores")
    return segments


def _item(key: str, value: Any) -> Item:
    named = _literal(key)
    if not isinstance(named, tuple) or len(named) != 2 or not all(isinstance(part, str) for part in named):
        raise ReleaseError("its key is not a tuple of 2 texts")
    path, prompt = named
    parts = _literal(value) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 3:
        raise ReleaseError("its value is not (captions, scores, refined question)")
    captions, scores, refined = parts
    described = _captions(captions)
    segments = read_segments(scores if isinstance(scores, str) else str(scores))
    last = max([end for _, end in described] + [end for _, end, _ in segments])
    frames = [0.0] * (last + 1)
    for first, end, score in segments:
        frames[first : end + 1] = [score] * (end + 1 - first)
    if not isinstance(refined, str) or not refined.strip():
        raise ReleaseError("it has no refined question")
    return Item(PurePosixPath(path).stem, prompt, refined.strip(), tuple(described.values()), tuple(frames))


def _captions(captions: Any) -> dict[tuple[int, int], str]:
    found = _literal(captions) if isinstance(captions, str) and captions.strip().startswith("{") else captions
    if not isinstance(found, dict):
        return {}
    described = {}
    for name, caption in found.items():
        bounds = _RANGE.fullmatch(str(name).strip())
        if bounds is None or int(bounds[2]) < int(bounds[1]) or not isinstance(caption, str):
            raise ReleaseError(f"its captions have {name!r}, wanted frames such as '[0, 7]' with a text")
        described[int(bounds[1]), int(bounds[2])] = caption
    return described


def _literal(text: str) -> Any:
    if len(text) > MOST_BYTES:
        raise ReleaseError(f"it has {len(text)} characters, at most {MOST_BYTES} are read")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ReleaseError(f"it is no Python literal: {error}") from error


def _entry(
    dataset: str, asked: SourceQuestion, item: Item, clips: Clips | None, temperature: float, root: Path | None
) -> Entry:
    frames = item.frame_scores
    if clips is not None and clips.num_frames != len(frames):
        raise EntryError(f"has {len(frames)} frames in the release, {clips.num_frames} here: another file or sampling")
    regular = all(len(set(frames[a : b + 1])) == 1 for a, b in clip_bounds(len(frames), CLIP_SIZE))
    clip_size = CLIP_SIZE if regular else 1
    bounds = clip_bounds(len(frames), clip_size)
    video = asked.video if clips is None else clips.path.relative_to(root or clips.path.parent).as_posix()
    return make_entry(
        dataset=dataset,
        **{**vars(asked), "video": video},
        refined=item.refined,
        num_frames=len(frames),
        clip_size=clip_size,
        duration=0.0 if clips is None else clips.duration,
        edges=() if clips is None else replace(clips, clip_size=clip_size).edges,
        clip_scores=tuple(frames[first] for first, _ in bounds),
        temperature=temperature,
        captions_hash=captions_hash(item.captions),
        models=MODELS,
        prompts=PROMPTS,
    )
