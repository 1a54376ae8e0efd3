"""Types of command-line arguments, for the `type` of argparse."""

import argparse


def at_least_one(text: str) -> int:
    """Read a number of things.

    Raises:
        argparse.ArgumentTypeError: it is no whole number, or below 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of at least 1")
    return int(text)


def not_negative(text: str) -> int:
    """Read a number of things that may be 0.

    Raises:
        argparse.ArgumentTypeError: it is no whole number, or below 0.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number of at least 0")
    return int(text)


def ratios(text: str) -> list[float]:
    """Read shares of vision tokens kept, such as `0.2,0.1`; whether each is a share is for those who use it.

    Raises:
        argparse.ArgumentTypeError: one of them is no number.
    """
    try:
        return [float(ratio) for ratio in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers; give shares in (0, 1], such as 0.2,0.1") from error
