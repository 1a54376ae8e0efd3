"""Command-line arguments that several commands share, and their types for argparse."""

import argparse
import ast
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lmms_kvtp
from lmms_kvtp.settings import field_docs, pairs

FLAGS: Sequence[tuple[Any, ...]] = (
    ("pretrained", "tiny", "pretrained"),
    ("dtype", "auto", "torch_dtype", "dtype"),
    ("max_frames", 128, "max_frames_num", "max_num_frames"),
    ("fps", 1.0, "fps", "video_fps"),
)
"""Flags for some of `--model_args`: default, and names there."""
ALWAYS = ("pretrained", "max_frames")
"""Those whose default holds; of the others that of the model's family does."""


def not_negative(text: str, least: int = 0) -> int:
    """Read a number of things; ArgumentTypeError where it is no whole number, or below `least`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of at least {least}")
    return int(text)


at_least_one = partial(not_negative, least=1)


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
    parser.add_argument("--model_args", default="", help="as of lmms-eval, in place of or beside the four flags above")


def model_settings(arguments: argparse.Namespace) -> str:
    """Join `--model_args` with the flags of `add_model_arguments`; ValueError where they contradict each other."""
    given = pairs(arguments.model_args)
    for flag, default, *names in FLAGS:
        value = getattr(arguments, flag)
        if told := [name for name in names if name in given and value not in (default, given[name])]:
            twice = f"--{flag.replace('_', '-')} {value} and --model_args {told[0]}={given[told[0]]}"
            raise ValueError(f"{twice} contradict each other; give one")
        if not any(name in given for name in names) and (value != default or flag in ALWAYS):
            given[names[0]] = str(value)
    return ",".join(f"{name}={value}" for name, value in given.items())


def add_fields(parser: argparse.ArgumentParser, cls: str, names: Sequence[str]) -> None:
    """Add a flag for each of these fields of a class of settings, with its default and what its docstring says.

    `cls` is `predictor/recipe.py:Recipe`, below the package; it is read, and nothing is imported.
    """
    file, _, name = cls.partition(":")
    tree = ast.parse((Path(lmms_kvtp.__file__).parent / file).read_text(encoding="utf-8"))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found = {ast.unparse(one.target): one for one in body.body if isinstance(one, ast.AnnAssign)}
    told = field_docs(body)
    for name in names:
        kind, default = ast.unparse(found[name].annotation), found[name].value
        flag, value, meaning = f"--{name.replace('_', '-')}", default and ast.literal_eval(default), told[name]
        if isinstance(value, bool):
            parser.add_argument(flag, action="store_true", help=meaning.replace("%", "%%"))
        else:
            choices = ast.literal_eval(kind.removeprefix("Literal")) if kind.startswith("Literal") else None
            text = f"{meaning.replace('%', '%%')} (default %(default)s)"
            parser.add_argument(flag, type=type(value), default=value, choices=choices, help=text)


def add_numbers(parser: argparse.ArgumentParser, numbers: Sequence[tuple[str, int | float, str]]) -> None:
    """Add a flag for each number, of the type of its default, with what it means."""
    for flag, default, text in numbers:
        parser.add_argument(flag, type=type(default), default=default, help=f"{text} (default %(default)s)")
