"""What happens in a synthetic video: shots in places, clutter everywhere, and four short events."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np

PLACES = ("desert", "ocean", "forest", "snow", "night", "lava", "city", "meadow")
GLYPHS = ("star", "heart", "cross", "triangle", "ring", "arrow", "moon", "bolt")
DECOYS = ("circle", "square", "hexagon", "spiral")
COLORS = ("red", "yellow", "green", "blue", "purple", "white")
SPLITS = ("train", "val", "test", "sealed")

SIZE = 96  # pixels a side
NUM_EVENTS = 4
MAX_FRAMES = 128  # frames that LLaVA-Video's rule samples at most
FRAME_RATES = (1.0, 2.0, 2.5, 3.0, 4.0)
EVENT_STEPS = (1, 2, 3, 4, 5, 6)
EVENT_STEPS_ODDS = (0.30, 0.25, 0.17, 0.12, 0.09, 0.07)
CAST = 5  # places of a video; the other three are never shown
FAVOURED_ODDS = 0.9  # in shots that no question asks about
ASKED_FAVOURED_ODDS = 0.28  # elsewhere: with the luck of the draw, a quarter of the answers are the favoured place
LONG_ODDS = 0.1
MAX_SPEED = 3.0  # pixels a second


@dataclass(frozen=True)
class Sprite:
    """A drifting shape: its centre and size in pixels at the start of the shot, its velocity in pixels a second."""

    shape: str
    color: str
    x: float
    y: float
    size: int
    dx: float
    dy: float


@dataclass(frozen=True)
class Shot:
    """One place from `start` (s) up to, and not including, `end` (s); `event` is drawn over the clutter."""

    place: str
    start: float
    end: float
    event: Sprite | None
    clutter: tuple[Sprite, ...]
    texture_seed: int


@dataclass(frozen=True)
class Script:
    """A video: `duration` (s) at `fps` frames a second, cut into shots without gaps."""

    key: str
    seed: int
    fps: float
    duration: float
    shots: tuple[Shot, ...]

    @property
    def num_frames(self) -> int:
        """Number of frames in the file."""
        return round(self.duration * self.fps)

    @property
    def events(self) -> tuple[Shot, ...]:
        """Shots that hold an event, in order."""
        return tuple(shot for shot in self.shots if shot.event is not None)

    @property
    def step(self) -> float:
        """Seconds between sampled frames of a video of at most 128 of them; shots start on multiples of it."""
        return round(self.fps) / self.fps

    def shot_at(self, time: float) -> Shot:
        """Find the shot on screen at `time` (s); after the end, the last one."""
        starts = [shot.start for shot in self.shots]
        return self.shots[max(0, bisect_right(starts, time + 1e-6) - 1)]


def sampled_times(script: Script) -> list[float]:
    """List the seconds of frames that LLaVA-Video's rule takes at 1 a second, or of MAX_FRAMES evenly spread."""
    indices = list(range(0, script.num_frames, round(script.fps)))
    if len(indices) > MAX_FRAMES:
        indices = [int(i) for i in np.linspace(0, script.num_frames - 1, MAX_FRAMES)]
    return [i / script.fps for i in indices]


@lru_cache(maxsize=256)
def write_script(seed: int, split: str = "test") -> Script:
    """Invent video number `seed` of a split, which never changes, on no machine.

    `RandomState` is used because numpy freezes its stream, which it does not for the newer `Generator`. The random
    streams of the splits, train, val, test and sealed, are separate. ValueError for another split or a negative seed.
    """
    if split not in SPLITS:
        raise ValueError(f"no split named {split!r}; available: {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"a seed must be 0 or more, got {seed}")
    rng = np.random.RandomState([crc32(split.encode()), seed])
    fps = FRAME_RATES[rng.randint(len(FRAME_RATES))]
    is_long = rng.rand() < LONG_ODDS
    num_steps = rng.randint(129, 161) if is_long else rng.randint(64, 129)
    shots = _film(rng, num_steps, fps, shortest_event=2 if is_long else 1)
    return Script(f"{split}-{seed:05d}", seed, fps, num_steps * round(fps) / fps, shots)


def _film(rng: np.random.RandomState, num_steps: int, fps: float, shortest_event: int) -> tuple[Shot, ...]:
    """Make all shots of a video of `num_steps` sampled frames."""
    lengths, is_event = _cut(rng, num_steps, shortest_event)
    places = _choose_places(rng, is_event)
    glyphs = tuple(GLYPHS[i] for i in rng.permutation(len(GLYPHS)))
    colors = tuple(COLORS[i] for i in rng.permutation(len(COLORS)))
    events = iter(zip(glyphs[:NUM_EVENTS], colors[:NUM_EVENTS], strict=True))
    shots, begin = [], 0
    for length, place, has_event in zip(lengths, places, is_event, strict=True):
        start, end = (count * round(fps) / fps for count in (begin, begin + length))
        kinds = []
        for _ in range(rng.randint(5, 9)):  # a decoy one time in three, else a glyph that is no event, in any color
            shapes = DECOYS if rng.rand() < 1 / 3 else glyphs[NUM_EVENTS:]
            kinds.append((shapes[rng.randint(len(shapes))], COLORS[rng.randint(len(COLORS))]))
        which = rng.randint(len(kinds)) if has_event else None
        if which is not None:
            kinds[which] = next(events)
        sprites = _scatter(rng, kinds, end - start)
        event = None if which is None else sprites.pop(which)
        shots.append(Shot(place, start, end, event, tuple(sprites), int(rng.randint(2**31 - 1))))
        begin += length
    return tuple(shots)


def _cut(rng: np.random.RandomState, num_steps: int, shortest_event: int) -> tuple[list[int], list[bool]]:
    """Draw the lengths of the shots in steps, and which are events: never the first, the last, or two in a row."""
    events = [max(shortest_event, int(n)) for n in rng.choice(EVENT_STEPS, NUM_EVENTS, p=EVENT_STEPS_ODDS)]
    context: list[int] = []
    rest = num_steps - sum(events)
    while rest > 8:
        context.append(int(rng.randint(3, min(8, rest - 3) + 1)))
        rest -= context[-1]
    context.append(rest)
    rng.shuffle(context)
    after = set(rng.permutation(len(context) - 1)[:NUM_EVENTS].tolist())
    cut = []
    for i, length in enumerate(context):
        cut += [(length, False), (events.pop(), True)] if i in after else [(length, False)]
    return [length for length, _ in cut], [is_event for _, is_event in cut]


def _choose_places(rng: np.random.RandomState, is_event: list[bool]) -> list[str]:
    """Draw a place for each shot: one is favored, others never come twice in a row.

    The first and last shots, events and their neighbours show the favored place less often than others do: "the place
    that is shown most" should be no good guess for the questions about them. An event's place differs from those of
    its neighbours.
    """
    cast = [PLACES[i] for i in rng.permutation(len(PLACES))[:CAST]]
    favoured = cast[0]
    places: list[str] = []
    for i in range(len(is_event)):
        asked = i in (0, len(is_event) - 1) or any(is_event[i - 1 : i + 2])
        free = [place for place in cast if place not in places[-1:] and place != favoured]
        odds = ASKED_FAVOURED_ODDS if asked else FAVOURED_ODDS
        if (not asked or favoured not in places[-1:]) and rng.rand() < odds:
            places.append(favoured)
        else:
            places.append(free[rng.randint(len(free))])
    return places


def _scatter(rng: np.random.RandomState, kinds: list[tuple[str, str]], seconds: float) -> list[Sprite]:
    """Place sprites inside the frame and apart from one another, as far as eight tries each allow."""
    paths: list[np.ndarray] = []
    sprites = []
    for shape, color in kinds:
        size = int(rng.randint(16, 23))
        margin = size / 2 + 1
        first = rng.uniform(margin, SIZE - margin, (8, 2))
        drift = rng.uniform(-MAX_SPEED, MAX_SPEED, (8, 2)) * seconds
        last = np.clip(first + drift, margin, SIZE - margin)
        tries = np.stack([first, last], 1)  # [8, 2 ends, xy]
        gaps = [np.linalg.norm(tries - path, axis=-1).min(-1) for path in paths]
        best = tries[int(np.argmax(np.min(gaps, axis=0)))] if gaps else tries[0]
        paths.append(best)
        (x, y), (dx, dy) = best[0].round(1).tolist(), ((best[1] - best[0]) / seconds).round(2).tolist()
        sprites.append(Sprite(shape, color, x, y, size, dx, dy))
    return sprites
