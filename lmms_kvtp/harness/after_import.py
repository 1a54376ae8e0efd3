"""Calls functions when modules are imported, without importing them."""

import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Hook = Callable[[Any], None]


def call_after_import(hooks: Mapping[str, Hook]) -> None:
    """Call each hook with the module of its name: now if that is imported, else when it has been.

    Called again, it adds nothing for modules that are still to come.
    """
    waiting = {name for finder in sys.meta_path if isinstance(finder, _HookFinder) for name in finder.hooks}
    for name, hook in hooks.items():
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            hook(module)
    if not waiting >= hooks.keys():
        sys.meta_path.insert(0, _HookFinder(hooks))


class _HookFinder:
    """Finds nothing itself, but dresses the loaders of the modules in `hooks`."""

    def __init__(self, hooks: Mapping[str, Hook]) -> None:
        self.hooks = hooks

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        for finder in sys.meta_path if name in self.hooks else ():
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _HookedLoader(spec.loader, self.hooks[name])  # type: ignore[assignment]
                return spec
        return None


class _HookedLoader:
    """A module's own loader that calls `hook` when the module has run, and is invisible afterwards."""

    def __init__(self, loader: Any, hook: Hook) -> None:
        self.loader, self.hook = loader, hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.hook(module)
