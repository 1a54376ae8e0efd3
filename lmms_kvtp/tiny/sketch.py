"""Short scripts without pictures: what the language model reads before it ever sees a frame."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmms_kvtp.embedded.draw import SHAPES
from lmms_kvtp.embedded.script import CAST, COLORS, DECOYS, GLYPHS, PLACES, Script, Shot, Sprite

EMPTY = -1
FAVOURED_ODDS = 0.45


@dataclass(frozen=True)
class Symbols:
    """What the tokens of a batch of videos say. Axes: b videos, T frames, k tokens per frame."""

    places: npt.NDArray[np.int64]
    """Index in PLACES; [b, T]"""
    shapes: npt.NDArray[np.int64]
    """Index in SHAPES, or EMPTY; [b, T, k]"""
    colors: npt.NDArray[np.int64]
    """Index in COLORS, or EMPTY; [b, T, k]"""


def sketch(rng: np.random.Generator, num_frames: int, num_events: int) -> Script:
    """A script of `num_frames` seconds at one frame a second, with the rules of the benchmark but shorter shots."""
    events = np.minimum(1 + rng.geometric(0.5, num_events) - 1, 4)
    events = np.maximum(1, np.minimum(events, max(1, (num_frames - 2 * num_events - 2) // (2 * num_events))))
    context = _split(rng, num_frames - int(events.sum()), 2 * num_events + 2)  # two shots at least between events
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

    for index, part in enumerate(context):
        while part > 0:
            length = min(part, int(rng.integers(1, 9)))
            add(length, None)
            part -= length
        event = index // 2
        if index % 2 and event < num_events:
            add(int(events[event]), _sprite(GLYPHS[glyphs[event]], COLORS[colors[event]]))
    return Script(f"sketch-{rng.integers(2**31)}", 0, 1.0, float(num_frames), tuple(shots))


def symbols(rng: np.random.Generator, scripts: list[Script], num_tokens: int, clutter: float) -> Symbols:
    """Each frame as `num_tokens` tokens; those of an event name it, others name clutter (with odds `clutter`)."""
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


def _split(rng: np.random.Generator, total: int, parts: int) -> list[int]:
    """`total` as a sum of `parts` positive numbers, at random."""
    cuts = np.sort(rng.choice(np.arange(1, total), parts - 1, replace=False))
    return [int(part) for part in np.diff([0, *cuts, total])]


def _clutter(rng: np.random.Generator, glyphs: npt.NDArray[np.int64]) -> Sprite:
    kind = DECOYS[rng.integers(len(DECOYS))] if rng.random() < 1 / 3 else GLYPHS[rng.choice(glyphs)]
    return _sprite(kind, COLORS[rng.integers(len(COLORS))])


def _sprite(shape: str, color: str) -> Sprite:
    return Sprite(shape, color, 0.0, 0.0, 1, 0.0, 0.0)
