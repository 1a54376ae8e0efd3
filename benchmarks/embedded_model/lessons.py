"""What is practised: questions, of which kinds that lag are asked more often, riddles, captions and symbolic videos."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.embedded_model.language import Asked
from lmms_kvtp.embedded.draw import SHAPES
from lmms_kvtp.embedded.questions import (
    GLOBAL_KINDS,
    INSTRUCTION,
    KEY_KINDS,
    KINDS,
    LETTERS,
    WORDING,
    ScriptQuestion,
    ask,
)
from lmms_kvtp.embedded.script import CAST, COLORS, DECOYS, GLYPHS, PLACES, Script, Shot, Sprite

EMPHASIS = {"color": 2.0, "where": 2.0, "main": 1.5}
ABOUT_ALL = ("a picture of a place", "a frame of the video", *(WORDING[kind] for kind in GLOBAL_KINDS))
"""Captions that fit every frame, among them the questions about the whole video."""
ABOUT_GLYPH = tuple(WORDING[kind] for kind in KEY_KINDS)
EMPTY = -1
FAVOURED_ODDS = 0.45


class Coach:
    """Draws questions, and keeps a running accuracy of each kind."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Start all kinds at chance."""
        self.rng = rng
        self.accuracy = dict.fromkeys(KINDS, 0.25)

    def draw(self, script: Script, count: int, kinds: Sequence[str] = KINDS) -> list[ScriptQuestion]:
        """Draw `count` questions about a video, of some kinds, with the letters of their options shuffled."""
        pool = [question for question in ask(script) if question.kind in kinds]
        there = Counter(question.kind for question in pool)
        need = {kind: EMPHASIS.get(kind, 1.0) * (1.15 - self.accuracy[kind]) for kind in there}
        odds = np.array([need[question.kind] / there[question.kind] for question in pool])
        chosen = self.rng.choice(len(pool), count, p=odds / odds.sum())
        return [pool[i].with_answer_at(LETTERS[self.rng.integers(4)]) for i in chosen]

    def note(self, questions: Sequence[ScriptQuestion], right: Tensor) -> None:
        """Take in which answers were right."""
        for question, hit in zip(questions, right.tolist(), strict=True):
            self.accuracy[question.kind] += 0.02 * (hit - self.accuracy[question.kind])


def right_letters(logits: Tensor, targets: Tensor) -> Tensor:
    """Tell which answers are right: the letter is the likeliest of all tokens. Targets alternate with ends of turns."""
    return torch.eq(logits[::2].argmax(-1), targets[::2])


class Riddler:
    """Asks "What color is the red?", or bare: lists the options and says "red"."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Start at chance."""
        self.rng, self.accuracy = rng, 1 / len(LETTERS)

    def draw(self, bare: bool) -> Asked:
        """Draw a riddle, and the letter that answers it."""
        words = (COLORS, PLACES, GLYPHS)[self.rng.integers(3)]
        options = [words[i] for i in self.rng.permutation(len(words))[: len(LETTERS)]]
        right = int(self.rng.integers(len(options)))
        stems = [wording for wording in WORDING.values() if "{glyph}" in wording]
        stem = stems[self.rng.integers(len(stems))].format(glyph=options[right])
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
        if bare:
            return "\n".join([*lines, f" {options[right]}"]), LETTERS[right]
        return "\n".join([stem, *lines, INSTRUCTION]), LETTERS[right]

    def note(self, share_right: float) -> None:
        """Take in how many answers of a batch were right."""
        self.accuracy += 0.05 * (share_right - self.accuracy)


@dataclass(frozen=True)
class Phrase:
    """A caption; a frame matches if it has the shape, in the color, at the place, as far as those are named."""

    text: str
    shape: int = -1
    color: int = -1
    place: int = -1

    def matches(self, present: npt.NDArray[np.bool_], places: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
        """Tell which frames it describes, from what is present in each ([frames, shapes, colors]) and their places."""
        fits = np.ones(len(places), bool)
        if self.shape >= 0:
            shown = present[:, self.shape]
            fits &= shown[:, self.color] if self.color >= 0 else shown.any(-1)
        return fits & (places == self.place) if self.place >= 0 else fits


def all_phrases() -> list[Phrase]:
    """List captions: objects, colored or in places, places, whole questions, and those that fit every frame."""
    places = range(len(PLACES))
    phrases = [Phrase(text) for text in ABOUT_ALL]
    phrases += [Phrase(f"the {PLACES[p]}", place=p) for p in places]
    for s, shape in enumerate(SHAPES):
        article = "an" if shape[0] in "aeiou" else "a"
        phrases.append(Phrase(f"{article} {shape}", s))
        phrases += [Phrase(f"a {color} {shape}", s, c) for c, color in enumerate(COLORS)]
        phrases += [Phrase(f"{article} {shape} in the {PLACES[p]}", s, place=p) for p in places]
        if shape in GLYPHS:
            phrases += [Phrase(wording.format(glyph=shape), s) for wording in ABOUT_GLYPH]
    return phrases


@dataclass(frozen=True)
class Symbols:
    """A batch of symbolic videos: what each token says. Axes: b videos, T frames, k tokens per frame."""

    places: npt.NDArray[np.int64]
    """Index in PLACES of each frame; [b, T]"""
    shapes: npt.NDArray[np.int64]
    """Index in SHAPES of each token, or EMPTY; [b, T, k]"""
    colors: npt.NDArray[np.int64]
    """Index in COLORS of each token, or EMPTY; [b, T, k]"""


def sketch(rng: np.random.Generator, num_frames: int, num_events: int) -> Script:
    """Write a script of `num_frames` seconds at one frame a second, by the benchmark's rules but with shorter shots."""
    events = np.minimum(1 + rng.geometric(0.5, num_events) - 1, 4)
    events = np.maximum(1, np.minimum(events, max(1, (num_frames - 2 * num_events - 2) // (2 * num_events))))
    rest, parts = num_frames - int(events.sum()), 2 * num_events + 2  # two shots at least between events
    cuts = np.sort(rng.choice(np.arange(1, rest), parts - 1, replace=False))
    cast = rng.permutation(len(PLACES))[:CAST]
    glyphs, colors = rng.permutation(len(GLYPHS)), rng.permutation(len(COLORS))
    shots: list[Shot] = []
    begin, places = 0, [-1]

    def add(length: int, event: Sprite | None) -> None:
        nonlocal begin
        favoured = event is None and rng.random() < FAVOURED_ODDS
        follows = bool(shots) and shots[-1].event is not None
        if favoured and not (follows and places[-1] == cast[0]):
            places.append(int(cast[0]))
        else:
            places.append(int(rng.choice([place for place in cast if place != places[-1]])))
        clutter = tuple(_clutter(rng, glyphs[num_events:]) for _ in range(rng.integers(2, 8)))
        shots.append(Shot(PLACES[places[-1]], float(begin), float(begin + length), event, clutter, 0))
        begin += length

    for index, part in enumerate(np.diff([0, *cuts, rest]).tolist()):
        while part > 0:
            length = min(part, int(rng.integers(1, 9)))
            add(length, None)
            part -= length
        event = index // 2
        if index % 2 and event < num_events:
            add(int(events[event]), _sprite(GLYPHS[glyphs[event]], COLORS[colors[event]]))
    return Script(f"sketch-{rng.integers(2**31)}", 0, 1.0, float(num_frames), tuple(shots))


def symbols(rng: np.random.Generator, scripts: list[Script], num_tokens: int, clutter: float) -> Symbols:
    """Make `num_tokens` tokens of each frame; those of an event name it, others name clutter (with odds `clutter`)."""
    num_frames = round(scripts[0].duration)
    shape = (len(scripts), num_frames, num_tokens)
    places = np.zeros(shape[:2], np.int64)
    shapes, colors = np.full(shape, EMPTY), np.full(shape, EMPTY)
    for b, script in enumerate(scripts):
        for shot in script.shots:
            first, last = round(shot.start), round(shot.end)
            size = (last - first, num_tokens)
            places[b, first:last] = PLACES.index(shot.place)
            things = np.array([(SHAPES.index(s.shape), COLORS.index(s.color)) for s in shot.clutter])
            drawn = things[rng.integers(len(things), size=size)]
            drawn[rng.random(size) >= clutter] = EMPTY
            if shot.event is not None:
                about = np.zeros(size, bool)
                for frame in about:  # an event covers few of a frame's tokens
                    frame[rng.permutation(num_tokens)[: rng.integers(1, min(4, num_tokens) + 1)]] = True
                drawn[about] = SHAPES.index(shot.event.shape), COLORS.index(shot.event.color)
            shapes[b, first:last], colors[b, first:last] = drawn[..., 0], drawn[..., 1]
    return Symbols(places, shapes, colors)


def _clutter(rng: np.random.Generator, glyphs: npt.NDArray[np.int64]) -> Sprite:
    kind = DECOYS[rng.integers(len(DECOYS))] if rng.random() < 1 / 3 else GLYPHS[rng.choice(glyphs)]
    return _sprite(kind, COLORS[rng.integers(len(COLORS))])


def _sprite(shape: str, color: str) -> Sprite:
    return Sprite(shape, color, 0.0, 0.0, 1, 0.0, 0.0)
