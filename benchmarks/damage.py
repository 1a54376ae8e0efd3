"""Damages JSON values and files at random, by dice: what `benchmarks/fuzz_inputs.py` has others read."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

DEEP, HUGE = "DEEP-900", "HUGE-INT"
"""Stand for what the JSON writer itself refuses: 900 lists in each other, 10 to the 400th."""
HOSTILE = (
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 1e-300, 1e300, 10**8, 2**63, 65536, float("nan"), float("inf"), HUGE),
    *("", " ", "x", "x" * 300, "x" * 100_000, "\ud800", "\0", "\x1b]0;title\x07", "<script>alert(1)</script>"),
    *("=HYPERLINK(1)", "../../../etc/passwd", "/etc/passwd", "a" * 300 + "/b", "`@all` ![x](http://e)", DEEP),
    *([], {}, [1], [[]], {"a": 1}, [None] * 1000, {"": {"": {}}}, ["x", 1, None, {}]),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All containers of a JSON value with each of their keys."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def damaged(value: Any, dice: random.Random) -> Any:
    """Change one to three values of a JSON value."""
    value = copy.deepcopy(value)
    for _ in range(dice.choice((1, 1, 2, 3))):
        found = list(places(value))
        if not found or dice.random() < 0.02:
            return dice.choice(HOSTILE)
        owner, key = dice.choice(found)
        way = dice.random()
        if way < 0.15:
            del owner[key]
        elif way < 0.3 and isinstance(owner[key], int | float) and not isinstance(owner[key], bool):
            owner[key] *= dice.choice((-1, 0, 2, 10, 1000, 10**6, 10**12, 0.5))
        elif way < 0.4:
            owner[key] = copy.deepcopy(dice.choice(found)[0])
        else:
            owner[key] = copy.deepcopy(dice.choice(HOSTILE))
    return value


def text_of(value: Any, dice: random.Random) -> bytes:
    """Write JSON, and change some bytes of every tenth text."""
    text = json.dumps(value).replace(f'"{HUGE}"', "1" + "0" * 400)
    data = text.replace(f'"{DEEP}"', "[" * 900 + "]" * 900 if dice.random() < 0.5 else "[" * 5000).encode()
    return scrambled(data, dice) if dice.random() < 0.1 else data


def scrambled(data: bytes, dice: random.Random) -> bytes:
    """Flip bits, cut, repeat or fill a piece of a file."""
    if len(data) < 2:
        return data
    place, length = dice.randrange(len(data)), dice.choice((1, 4, 40))
    way = dice.choice(("flip", "cut", "repeat", "noise", "leave"))
    if way == "flip":
        return data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :]
    middle = {"repeat": data[place : place + length] * 2, "noise": dice.randbytes(length)}.get(way, b"")
    return data[:place] if way == "cut" else data[:place] + middle + data[place + length :]
