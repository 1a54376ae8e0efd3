"""Command-line arguments that several commands share, and their types for argparse."""

import argparse
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lmms_kvtp.settings import meanings


def at_least_one(text: str) -> int:
    """Read a number of things; ArgumentTypeError where it is no whole number, or below 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of at least 1")
    return int(text)


def not_negative(text: str) -> int:
    """Read a number of things that may be 0; ArgumentTypeError where it is no whole number, or below 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number of at least 0")
    return int(text)


def ratios(text: str) -> list[float]:
    """Read shares of vision tokens kept, such as `0.2,0.1`, unchecked; ArgumentTypeError where one is no number."""
    try:
        return [float(ratio) for ratio in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers; give shares in (0, 1], such as 0.2,0.1") from error


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and which frames of a video it sees."""
    parser.add_argument("--pretrained", default="tiny", help="checkpoint (default: the embedded model)")
    parser.add_argument("--dtype", default="auto", help="of the weights (default %(default)s)")
    parser.add_argument("--max-frames", type=at_least_one, default=128, help="frames at most (default %(default)s)")
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second of video (default %(default)s)")


def add_fields(parser: argparse.ArgumentParser, cls: type[Any], names: Sequence[str]) -> None:
    """Add a flag for each of these fields of a class of settings, with its default and what its docstring says."""
    hints, defaults, told = get_type_hints(cls), cls(), meanings(cls)
    for name in names:
        flag, value, meaning = f"--{name.replace('_', '-')}", getattr(defaults, name), told[name].replace("%", "%%")
        if isinstance(value, bool):
            parser.add_argument(flag, action="store_true", help=meaning)
        else:
            choices = get_args(hints[name]) if get_origin(hints[name]) is Literal else None
            text = f"{meaning} (default %(default)s)"
            parser.add_argument(flag, type=type(value), default=value, choices=choices, help=text)


def add_numbers(parser: argparse.ArgumentParser, numbers: Sequence[tuple[str, int | float, str]]) -> None:
    """Add a flag for each number, of the type of its default, with what it means."""
    for flag, default, text in numbers:
        parser.add_argument(flag, type=type(default), default=default, help=f"{text} (default %(default)s)")
