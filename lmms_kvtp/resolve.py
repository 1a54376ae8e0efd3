"""Names of components: the file name is the registry, `pruners/tome.py` is `pruner=tome`."""

import importlib
import inspect
import pkgutil
from collections.abc import Collection
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TypeVar

C = TypeVar("C")


def near(name: str, known: list[str]) -> str:
    """Write the end of a message about a wrong name: what it may have meant, and all that there is."""
    matches = get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(matches)}? " if matches else ""
    return f"{hint}available: {', '.join(known)}"


def available(package: str) -> list[str]:
    """List the names that `resolve` knows: files of `package` but base.py, and installed entry points of that group."""
    return sorted({*_files(package), *(entry.name for entry in entry_points(group=package))})


def resolve(package: str, name: str, base: type[C], words: Collection[str] = ()) -> type[C]:
    """Find the concrete subclass of `base` that `name` stands for.

    Args:
        package: where the shipped components are, and the name of the entry-point group: `lmms_kvtp.pruners`.
        name: a file of the package, an entry point of the group, or `their_pkg.module:Class`.
        base: the interface.
        words: further names that are valid in its place, for the message.

    Raises:
        LookupError: nothing has that name, and the message lists near matches and all names; several things have it;
            or what was found does not import, or is not a concrete subclass of `base`.
    """
    if ":" in name:
        return _checked(_attribute(name, base), name, base)
    theirs = sorted({entry.value for entry in entry_points(group=package, name=name)})
    shipped = [f"{package}.{name}"] if name in _files(package) else []
    if len(theirs) + len(shipped) > 1:
        raise LookupError(
            f"several {base.__name__}s are named {name!r}: {', '.join([*shipped, *theirs])}; "
            "say which as package.module:Class, or uninstall the other"
        )
    if theirs:
        return _checked(_attribute(theirs[0], base), name, base)
    if not shipped:
        raise LookupError(f"no {base.__name__} named {name!r}; {near(name, sorted({*available(package), *words}))}")
    module = _module(shipped[0], name, base)
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    final = [c for c in own if issubclass(c, base) and not inspect.isabstract(c)]
    if len(final) != 1:
        raise LookupError(
            f"{module.__name__} must hold exactly one {base.__name__}, found {len(final)}; name one as "
            f"{module.__name__}:Class"
        )
    return _checked(final[0], name, base)


def _files(package: str) -> set[str]:
    path = importlib.import_module(package).__path__
    return {m.name for m in pkgutil.iter_modules(path) if m.name != "base" and not m.ispkg}


def _attribute(name: str, base: type[C]) -> object:
    """Import what `package.module:Class` names."""
    module_name, _, class_name = name.partition(":")
    try:
        return getattr(_module(module_name, name, base), class_name)
    except AttributeError as error:
        raise LookupError(f"no {base.__name__} at {name!r}: {error}") from error


def _module(module_name: str, name: str, base: type[C]) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # foreign code: anything may come of its import
        here = [file for file in (module_name.split(".")[0], f"{module_name}.py") if Path(file).exists()]
        there = f"{here[0]} lies in the working directory: set PYTHONPATH=. to have it searched" if here else ""
        hint = f"; {there or 'install its package, or name another'}"
        cause = f"{type(error).__name__}: {error}{hint if isinstance(error, ModuleNotFoundError) else ''}"
        raise LookupError(f"no {base.__name__} at {name!r}: {cause}") from error


def _checked(found: object, name: str, base: type[C]) -> type[C]:
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise LookupError(f"{name!r} is {found!r}, no {base.__name__}; name a class that has it as a base")
    if inspect.isabstract(found):
        lacks = [name for name, own in inspect.getmembers(found) if getattr(own, "__isabstractmethod__", False)]
        raise LookupError(f"{name!r} is an abstract {base.__name__}; it lacks {', '.join(lacks)}")
    return found
