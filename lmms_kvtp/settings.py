"""Settings that arrive as text from the command line: reading them, and what they mean."""

import ast
import inspect
import textwrap
import types
from dataclasses import is_dataclass
from itertools import pairwise
from typing import Any, Literal, Union, get_args, get_origin

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


def pairs(text: str) -> dict[str, str]:
    """Read `name=value,name=value`, as in `--model_args`. ValueError where a part is not of that form."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    for name, equals, value in parts:
        if not (name.strip() and equals and value.strip()):
            raise ValueError(f"{name + equals + value!r} in method {text!r} is not of the form name=value")
    return {name.strip(): value.strip() for name, _, value in parts}


def parse(kind: Any, value: Any, name: str) -> Any:
    """Read `value` as `kind`: int, float, bool, str, a Literal, a union of these, or a tuple `a:b:c` of one kind.

    Args:
        kind: a type, as annotated.
        value: text, or something that is of that type already.
        name: what the setting is called, for messages.

    Raises:
        ValueError: the value is not of that kind; the message names setting, value and kind.
    """
    origin, choices = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _parse_union(choices, value, name)
    if origin is Literal:
        if value not in choices:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(map(str, choices))}")
        return value
    if origin is tuple:
        items = value.split(":") if isinstance(value, str) else value
        return tuple(parse(choices[0], item, name) for item in items)
    return _parse_plain(kind, value, name)


def meanings(cls: type[Any]) -> dict[str, str]:
    """Collect the string under each field of a class and of its bases."""
    found: dict[str, str] = {}
    for owner in reversed([base for base in cls.__mro__ if is_dataclass(base)]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        found |= field_docs(next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)))
    return found


def field_docs(cls: ast.ClassDef) -> dict[str, str]:
    """Collect the string under each field of a class's source."""
    return {
        ast.unparse(field.target): " ".join(str(text.value.value).split())
        for field, text in pairwise(cls.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _parse_union(choices: tuple[Any, ...], value: Any, name: str) -> Any:
    if type(None) in choices and (value is None or str(value).lower() in ("none", "")):
        return None
    message = ""
    for choice in choices:
        if choice is not type(None):
            try:
                return parse(choice, value, name)
            except ValueError as error:
                message = str(error)
    raise ValueError(message)


def _parse_plain(kind: type, value: Any, name: str) -> Any:
    if kind is bool:
        text = str(value).lower()
        if text not in TRUE + FALSE:
            raise ValueError(f"{name}={value!r} is not true or false")
        return text in TRUE
    if kind is int and isinstance(value, (bool, float)) and value != int(value):
        raise ValueError(f"{name}={value!r} is not a whole number")
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        wanted = {int: "a whole number; give a number, such as 1", float: "a number"}.get(kind, kind.__name__)
        raise ValueError(f"{name}={value!r} is not {wanted}") from error
