"""Backgrounds of the eight places."""

from functools import lru_cache
from math import pi

import numpy as np
import numpy.typing as npt

from lmms_kvtp.embedded.script import PLACES, SIZE

Field = npt.NDArray[np.float64]


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
    lit = rng.rand(12, 24) < 0.4
    for row in range(12):
        for column in range(24):
            ink = (216, 200, 150) if lit[row, column] else (62, 66, 80)
            picture[row * 8 + 2 : row * 8 + 6, column * 4 + 1 : column * 4 + 3] = ink
    return picture


def _meadow(rng: np.random.RandomState) -> Field:
    grass = 0.6 * _clouds(rng, 6) + 0.4 * _clouds(rng, 24)
    return _dots(
        rng, _mix(grass, (118, 176, 70), (176, 220, 112)), 34, (248, 244, 240), (244, 170, 196), (250, 226, 110)
    )


_PAINTERS = {
    "desert": _desert,
    "ocean": _ocean,
    "forest": _forest,
    "snow": _snow,
    "night": _night,
    "lava": _lava,
    "city": _city,
    "meadow": _meadow,
}
