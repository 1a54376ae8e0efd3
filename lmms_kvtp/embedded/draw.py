"""From a script to frames of 96x96 pixels, with the textures of the eight places behind them, and to an mp4 file.

Textures are frozen within a shot, so that H.264 compresses them well.
"""

import io
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import cos, pi, sin

import av
import numpy as np
import numpy.typing as npt

from lmms_kvtp.embedded.script import COLORS, DECOYS, GLYPHS, PLACES, SIZE, Script, Shot, Sprite

Picture = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float64]

SHAPES = GLYPHS + DECOYS
INKS = {
    "red": (228, 38, 44),
    "yellow": (252, 214, 32),
    "green": (46, 184, 72),
    "blue": (44, 88, 240),
    "purple": (166, 52, 206),
    "white": (250, 250, 250),
}
OUTLINE = (18, 18, 26)
FINE = 4  # sub-pixels a side, for smooth edges


def draw(shot: Shot, time: float) -> Picture:
    """Draw the frame of `shot` at `time` (s from the start of the video), [96, 96, 3]."""
    canvas = texture(shot.place, shot.texture_seed).copy()
    for sprite in _stack(shot):
        ink, clear = _stamp(sprite.shape, sprite.color, sprite.size)
        rows, columns = _box(sprite, shot, time)
        canvas[rows, columns] = canvas[rows, columns] * clear + ink
    return (canvas + 0.5).astype(np.uint8)


def labels(shot: Shot, time: float) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Label each pixel by the indices of its shape in SHAPES and COLORS, -1 for the background; both [96, 96]."""
    shapes = np.full((SIZE, SIZE), -1, np.int8)
    colors = shapes.copy()
    for sprite in _stack(shot):
        inside = _masks(sprite.shape, sprite.size)[0] > 0.5
        box = _box(sprite, shot, time)
        shapes[box][inside] = SHAPES.index(sprite.shape)
        colors[box][inside] = COLORS.index(sprite.color)
    return shapes, colors


def _stack(shot: Shot) -> tuple[Sprite, ...]:
    return shot.clutter if shot.event is None else (*shot.clutter, shot.event)


def _box(sprite: Sprite, shot: Shot, time: float) -> tuple[slice, slice]:
    passed = time - shot.start
    left = round(sprite.x + sprite.dx * passed - sprite.size / 2)
    top = round(sprite.y + sprite.dy * passed - sprite.size / 2)
    left, top = (min(max(corner, 0), SIZE - sprite.size) for corner in (left, top))
    return slice(top, top + sprite.size), slice(left, left + sprite.size)


@lru_cache(maxsize=1024)
def _stamp(shape: str, color: str, size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Draw the light that a sprite adds, and the share of the background that it lets through."""
    fill, edge = _masks(shape, size)
    cover = np.maximum(fill, edge)[..., None]
    ink = fill[..., None] * np.array(INKS[color]) + (cover - fill[..., None]) * np.array(OUTLINE)
    return ink.astype(np.float32), (1 - cover).astype(np.float32)


@lru_cache(maxsize=256)
def _masks(shape: str, size: int) -> tuple[Field, Field]:
    """Measure how far the shape, and the shape with its outline, covers each pixel; both [size, size]."""
    fine = size * FINE
    axis = ((np.arange(fine) + 0.5) / fine * 2 - 1) * (size / (size - 2.4))  # leaves room for the outline
    u, v = np.meshgrid(axis, axis)
    inside = _INSIDE[shape](u, v)
    reach = range(-FINE - 1, FINE + 2)
    near = [(down, right) for down in reach for right in reach if down**2 + right**2 <= (FINE + 1) ** 2]
    edge = np.any([np.roll(inside, shift, (0, 1)) for shift in near], axis=0)
    fill, cover = (mask.reshape(size, FINE, size, FINE).mean((1, 3)) for mask in (inside, edge))
    return fill, cover


def _polygon(*points: tuple[float, float]) -> Callable[[Field, Field], npt.NDArray[np.bool_]]:
    def inside(u: Field, v: Field) -> npt.NDArray[np.bool_]:
        odd = np.zeros(u.shape, bool)
        for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
            if y1 != y2:
                odd ^= ((y1 > v) != (y2 > v)) & (u < (x2 - x1) * (v - y1) / (y2 - y1) + x1)
        return odd

    return inside


def _corners(count: int, turn: float, *radii: float) -> list[tuple[float, float]]:
    angles = [turn + 2 * pi * i / count for i in range(count)]
    return [(radii[i % len(radii)] * cos(a), radii[i % len(radii)] * sin(a)) for i, a in enumerate(angles)]


def _heart(x: Field, y: Field) -> npt.NDArray[np.bool_]:
    return (x**2 + y**2 - 1) ** 3 - x**2 * y**3 < 0


_INSIDE: dict[str, Callable[[Field, Field], npt.NDArray[np.bool_]]] = {
    "star": _polygon(*_corners(10, -pi / 2, 1.0, 0.47)),
    "heart": lambda u, v: _heart(u * 1.18, 0.1 - v * 1.18),
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 0.95),
    "triangle": _polygon((0.0, -0.9), (0.98, 0.85), (-0.98, 0.85)),
    "ring": lambda u, v: abs(np.hypot(u, v) - 0.74) < 0.23,
    "arrow": _polygon((-0.98, -0.3), (0.05, -0.3), (0.05, -0.9), (0.98, 0.0), (0.05, 0.9), (0.05, 0.3), (-0.98, 0.3)),
    "moon": lambda u, v: (np.hypot(u, v) < 0.97) & (np.hypot(u - 0.5, v + 0.12) > 0.74),
    "bolt": _polygon((-0.3, -1.0), (0.5, -1.0), (0.18, -0.3), (0.75, -0.3), (-0.4, 1.0), (-0.12, 0.14), (-0.7, 0.14)),
    "circle": lambda u, v: np.hypot(u, v) < 0.9,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.8,
    "hexagon": _polygon(*_corners(6, 0.0, 0.98)),
    "spiral": lambda u, v: (np.hypot(u, v) < 0.98) & ((np.hypot(u, v) * 1.75 - np.arctan2(v, u) / (2 * pi)) % 1 < 0.5),
}
CRF = 28
PRESET = "veryfast"
KEY_FRAME_EVERY = 48
REPEATABLE = "threads=1:mbtree=0"  # with mbtree, frames this small give other bytes at each run


def encode_bytes(script: Script) -> bytes:
    """Encode a video as an mp4 file in memory: libx264 in yuv420p at rate factor 28, with compression artifacts."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(script.fps).limit_denominator(1000)
        options = {"crf": str(CRF), "preset": PRESET, "g": str(KEY_FRAME_EVERY), "x264-params": REPEATABLE}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(script.num_frames):
            time = index / script.fps
            frame = av.VideoFrame.from_ndarray(draw(script.shot_at(time), time), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@lru_cache(maxsize=512)
def texture(place: str, seed: int) -> npt.NDArray[np.float32]:
    """Paint the background of a shot, 0-255, [96, 96, 3], read-only; the seed moves details and shifts the light.

    ValueError where the place is unknown.
    """
    if place not in _PAINTERS:
        raise ValueError(f"no place named {place!r}; available: {', '.join(PLACES)}")
    rng = np.random.RandomState(seed)
    light = rng.uniform(0.94, 1.06) * rng.uniform(0.98, 1.02, 3)
    picture = np.clip(_PAINTERS[place](rng) * light, 0, 255).astype(np.float32)
    picture.setflags(write=False)
    return picture


def _grid() -> tuple[Field, Field]:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    return x, y


def _clouds(rng: np.random.RandomState, cells: int) -> Field:
    """Make smooth noise in 0-1 with `cells` bumps a side."""
    at = np.linspace(0, cells, SIZE)
    weights = np.maximum(0, 1 - abs(at[:, None] - np.arange(cells + 1)))
    weights = weights**2 * (3 - 2 * weights)  # rounder than straight lines
    return np.asarray(weights @ rng.rand(cells + 1, cells + 1) @ weights.T)


def _mix(share: Field, low: tuple[int, int, int], high: tuple[int, int, int]) -> Field:
    return np.asarray(np.array(low) + share[..., None] * (np.array(high) - np.array(low)), dtype=np.float64)


def _dots(rng: np.random.RandomState, picture: Field, count: int, *inks: tuple[int, int, int]) -> Field:
    for _ in range(count):
        x, y = rng.randint(0, SIZE - 1, 2)
        picture[y : y + 2, x : x + 2] = inks[rng.randint(len(inks))]
    return picture


def _desert(rng: np.random.RandomState) -> Field:
    x, y = _grid()
    dunes = np.sin(2 * pi * (y / 15 + 0.9 * _clouds(rng, 4) + 0.12 * np.sin(x / 11) + rng.rand()))
    return _mix(0.5 + 0.5 * dunes, (206, 160, 98), (240, 206, 146))


def _ocean(rng: np.random.RandomState) -> Field:
    x, y = _grid()
    waves = np.sin(2 * pi * (y / 8 + 0.22 * np.sin(2 * pi * x / 30 + 6 * rng.rand()) + 0.5 * _clouds(rng, 5)))
    return _mix(0.5 + 0.5 * waves, (8, 92, 122), (58, 158, 176))


def _forest(rng: np.random.RandomState) -> Field:
    x, y = _grid()
    row = np.floor(y / 16)
    tip = abs(((x + 8 * (row % 2) + 16 * rng.rand()) / 16) % 1 - 0.5) * 2  # 0 at a tree's axis
    trees = np.where((y / 16) % 1 > tip, 1.0, 0.25) * (0.75 + 0.5 * _clouds(rng, 8))
    return _mix(trees, (12, 36, 24), (34, 100, 52))


def _snow(rng: np.random.RandomState) -> Field:
    drifts = _mix(_clouds(rng, 5), (196, 214, 232), (246, 250, 254))
    return _dots(rng, drifts, 40, (176, 198, 224), (255, 255, 255))


def _night(rng: np.random.RandomState) -> Field:
    sky = _mix(_clouds(rng, 3), (10, 10, 34), (36, 34, 78))
    return _dots(rng, sky, 46, (150, 150, 190), (200, 200, 225), (96, 98, 150))


def _lava(rng: np.random.RandomState) -> Field:
    heat = np.exp(-(((_clouds(rng, 7) - 0.5) / 0.06) ** 2))
    return _mix(heat, (44, 14, 12), (255, 128, 24))


def _city(rng: np.random.RandomState) -> Field:
    walls = np.repeat(np.repeat(rng.uniform(0, 1, (3, 6)), 32, 0), 16, 1)
    picture = _mix(walls, (92, 96, 106), (138, 140, 150))
    for (row, column), number in np.ndenumerate(rng.rand(12, 24)):
        window = (216, 200, 150) if number < 0.4 else (62, 66, 80)
        picture[row * 8 + 2 : row * 8 + 6, column * 4 + 1 : column * 4 + 3] = window
    return picture


def _meadow(rng: np.random.RandomState) -> Field:
    grass = _mix(0.6 * _clouds(rng, 6) + 0.4 * _clouds(rng, 24), (118, 176, 70), (176, 220, 112))
    return _dots(rng, grass, 34, (248, 244, 240), (244, 170, 196), (250, 226, 110))


_PAINTERS = dict(zip(PLACES, (_desert, _ocean, _forest, _snow, _night, _lava, _city, _meadow), strict=True))
