"""One line of an index: a question on a video, how relevant each clip is to it, and the rates that follow (eq. 1)."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_origin

from lmms_kvtp.files import from_json, is_inside
from lmms_kvtp.questions import MOST_RELEVANT

SCHEMA = 1
"""Version of the format, in every line."""
EVALUATION = ("videomme", "egoschema", "nextqa")
TRAINING = ("activitynetqa", "perceptiontest", "videochatgpt", "mvbench")
DATASETS = EVALUATION + TRAINING
"""The first three are for evaluation, the others for training the predictor (section 5.1 of the paper)."""
WEIGHTS = "scorer_weights"
"""Key of a scorer's fingerprint among the models."""
DIGITS = 6
"""Decimals of numbers in the file."""

TOO_MUCH = 1e15
"""What no number of a line reaches."""

CLIP_SIZE = 8
"""Frames of a clip (section 3 of the paper)."""
ALPHA = 0.2
"""Mean rate, which sparsity does not depend on."""
TEMPERATURE = 1.0
"""Temperature of the softmax over scores, unadjusted in the paper (section 5.3); the released filter has 2."""

Split = Literal["evaluation", "training"]


class EntryError(ValueError):
    """A line is not an entry of this schema; the message names field, value and what is wanted."""


@dataclass(frozen=True)
class Entry:
    """A question with its clip scores; `make_entry` derives rates and sparsity."""

    dataset: str
    split: Split
    question_id: str
    video_id: str
    video: str
    """Path of the file below the folder of the data set's videos."""
    question: str
    """Bare question, without options."""
    options: tuple[str, ...]
    refined: str
    """Question without hints, which clips were scored for and relevance scorers read."""
    num_frames: int
    clip_size: int
    duration: float
    """Length of the video in seconds; 0 where it is unknown."""
    edges: tuple[tuple[float, float], ...]
    """Start and end of each clip in seconds; () where they are unknown."""
    clip_scores: tuple[float, ...]
    """Relevance of each clip, 0 to 5."""
    alpha: float
    temperature: float
    rates: tuple[float, ...]
    """Rate of a frame in each clip."""
    sparsity: float
    captions_hash: str
    """SHA-256 over the captions that were scored; empty where frames were scored without captions."""
    models: Mapping[str, str]
    """Names of captioner, refiner and scorer; the fingerprint of a scorer that is an image-text model."""
    prompts: str
    """Version of the prompts; empty where none was used."""

    @property
    def encoder(self) -> tuple[str, str] | None:
        """Name, and where known the fingerprint, of the image-text model that scored the clips; None for captions."""
        return None if self.captions_hash else (self.models.get("scorer", ""), self.models.get(WEIGHTS, ""))

    @property
    def spans(self) -> tuple[tuple[float, float, float], ...] | None:
        """Start, end (s) and score of each clip, as the oracle scorer reads them; None where times are unknown."""
        if not self.edges:
            return None
        return tuple((start, end, score) for (start, end), score in zip(self.edges, self.clip_scores, strict=True))


def make_entry(
    *,
    dataset: str,
    clip_scores: Sequence[float],
    num_frames: int,
    clip_size: int = CLIP_SIZE,
    alpha: float = ALPHA,
    temperature: float = TEMPERATURE,
    **rest: Any,
) -> Entry:
    """Make an entry; split, rates and sparsity follow from the rest.

    EntryError where a field is missing, of the wrong type or out of range.
    """
    rates = clip_rates(clip_scores, num_frames, clip_size, alpha, temperature)
    entry = Entry(
        dataset=dataset,
        split="evaluation" if dataset in EVALUATION else "training",
        clip_scores=tuple(clip_scores),
        num_frames=num_frames,
        clip_size=clip_size,
        alpha=alpha,
        temperature=temperature,
        rates=tuple(round(rate, DIGITS) for rate in rates),
        sparsity=round(sparsity_of(rates, alpha), DIGITS),
        **rest,
    )
    _check(entry)
    return entry


def to_line(entry: Entry) -> str:
    """Write the entry as one line of JSON, without its line break."""
    plain = {f.name: getattr(entry, f.name) for f in fields(Entry) if f.name != "edges"}
    plain["spans"] = entry.spans
    return json.dumps({"schema": SCHEMA, **plain})


def from_line(line: str) -> Entry:
    """Read and check one line of JSON.

    EntryError where it is no JSON, of another schema, or a field is missing, wrong, or does not follow from the others.
    """
    try:
        found = from_json(line)
    except ValueError as error:
        raise EntryError(f"is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise EntryError(f"holds a {type(found).__name__}, not an object")
    if found.get("schema") != SCHEMA:
        raise EntryError(f"has schema {found.get('schema')!r}, this version reads {SCHEMA}; build or import it again")
    values = {name: _field(found, name, kind) for name, kind in KINDS.items()}
    unknown = found.get("spans", ()) is None
    spans = [] if unknown else _field(found, "spans", list)
    if not (spans or unknown):
        raise EntryError("has no spans; wanted one for each clip, or null where seconds are unknown")
    try:
        numbers = {name: tuple(map(_number, values[name])) for name in ("clip_scores", "rates")}
        edges = tuple((_number(start), _number(end)) for start, end, _ in spans)
        scored = tuple(_number(score) for _, _, score in spans)
    except (TypeError, ValueError) as error:
        raise EntryError(f"clip_scores, rates and spans must hold finite numbers: {error}") from error
    texts = [*values["options"], *values["models"], *values["models"].values()]
    if not all(isinstance(text, str) for text in texts):
        raise EntryError("has options or models that are no text")
    if spans and scored != numbers["clip_scores"]:
        raise EntryError("has other scores in spans than in clip_scores")
    entry = Entry(**{**values, **numbers, "options": tuple(values["options"]), "edges": edges})
    _check(entry)
    return entry


def clip_bounds(num_frames: int, clip_size: int = CLIP_SIZE) -> list[tuple[int, int]]:
    """Divide the frames into clips: first and last frame of each; the last clip may be shorter."""
    return [(start, min(start + clip_size, num_frames) - 1) for start in range(0, num_frames, clip_size)]


def clip_rates(
    scores: Sequence[float],
    num_frames: int,
    clip_size: int = CLIP_SIZE,
    alpha: float = ALPHA,
    temperature: float = TEMPERATURE,
) -> tuple[float, ...]:
    """Compute the rate of a frame in each clip: alpha * N * softmax(s / temperature) over the video's N frames.

    The frames of a clip share its score. Rates are not cut at 1: the mean over frames is `alpha` exactly. EntryError
    where there are other clips than scores, or a setting is not above 0.
    """
    clips = -(-num_frames // clip_size)
    if len(scores) != clips:  # before anything is made of a number of frames that a file may have wrong
        raise EntryError(f"{len(scores)} scores for the {clips} clips of {num_frames} frames")
    bounds = clip_bounds(num_frames, clip_size)
    if not (temperature > 0 and alpha > 0):
        raise EntryError(f"temperature={temperature} and alpha={alpha} must be above 0")
    top = max(scores)
    weights = [math.exp((score - top) / temperature) for score in scores]
    frames = [last - first + 1 for first, last in bounds]
    total = sum(weight * count for weight, count in zip(weights, frames, strict=True))
    return tuple(alpha * num_frames * weight / total for weight in weights)


def sparsity_of(rates: Sequence[float], alpha: float = ALPHA) -> float:
    """Divide the highest rate by the mean: 1 where all frames are equal, N where one holds everything (table 1)."""
    return max(rates) / alpha


IN_JSON = {Literal: str, tuple: list, Mapping: dict}
"""Types of fields, where those of the values in JSON are others."""
KINDS: dict[str, Any] = {f.name: IN_JSON.get(get_origin(f.type), f.type) for f in fields(Entry) if f.name != "edges"}


def _field(found: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in found:
        raise EntryError(f"lacks the field {name!r}")
    value = found[name]
    if kind is float and type(value) is int and abs(value) < TOO_MUCH:
        value = float(value)
    fits = type(value) is kind
    if not fits or (kind in (int, float) and not abs(value) < TOO_MUCH):
        raise EntryError(f"has {name}={value!r}, wanted {'a finite number' if kind is float else kind.__name__}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < TOO_MUCH:
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _check(entry: Entry) -> None:
    if entry.dataset not in DATASETS:
        raise EntryError(f"is of data set {entry.dataset!r}; known are {', '.join(DATASETS)}")
    if entry.split != ("evaluation" if entry.dataset in EVALUATION else "training"):
        raise EntryError(f"has split {entry.split!r}, which is not that of {entry.dataset}")
    if not (entry.question_id and entry.video_id):
        raise EntryError("has an empty question_id or video_id")
    if entry.num_frames < 1 or entry.clip_size < 1 or not (entry.alpha > 0 and entry.temperature > 0):
        raise EntryError("needs num_frames, clip_size, alpha and temperature above 0")
    if not is_inside(entry.video):
        raise EntryError(f"has the video {entry.video!r}, which is not below the videos' folder; name it from there")
    clips = -(-entry.num_frames // entry.clip_size)
    for name in ("clip_scores", "rates"):
        if len(getattr(entry, name)) != clips:
            raise EntryError(f"has {len(getattr(entry, name))} {name} for {clips} clips of {entry.num_frames} frames")
    if entry.edges and (len(entry.edges) != clips or any(end < start for start, end in entry.edges)):
        raise EntryError(f"needs one span with its end behind its start for each of {clips} clips")
    wrong = [score for score in entry.clip_scores if not 0 <= score <= MOST_RELEVANT]
    if wrong:
        raise EntryError(f"has the score {wrong[0]:g}, scores go from 0 to {MOST_RELEVANT:g}; scale all of them")
    rates = clip_rates(entry.clip_scores, entry.num_frames, entry.clip_size, entry.alpha, entry.temperature)
    expected = sparsity_of(rates, entry.alpha)
    close = all(abs(a - b) < 1e-4 for a, b in zip(rates, entry.rates, strict=True))
    if not close or abs(expected - entry.sparsity) > 1e-4 * expected:
        raise EntryError(f"has rates or a sparsity ({entry.sparsity:g}) that its scores do not give ({expected:g})")
