"""A GPU of the mind: tensors that lie on it are told apart, so that waits for it are counted on a machine without one.

Arithmetic runs on the CPU. What is kept track of is where each tensor would lie: results lie where their inputs do, a
copy between host and device is a wait unless it is sent without blocking, and an operation whose result the host must
know, be it only its size, is a wait, too. An operation on tensors of both sides raises, as it would on a GPU.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HOST, DEVICE = torch.device("cpu"), torch.device("cpu", 7)
"""Where tensors say that they lie; torch takes both for the CPU."""
TOLD = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "equal", "is_nonzero", "numpy", "allclose"}
"""Values that the host wants to know."""
UNSIZED = {"nonzero", "argwhere", "bincount", "masked_select", "unique", "unique_consecutive", "_unique2"}
"""Operations that find out how large their result is."""
PLAIN = {
    "__get__",
    "__set__",
    "size",
    "dim",
    "stride",
    "__len__",
    "numel",
    "is_floating_point",
    "ndimension",
    "__hash__",
}
"""Looks at shape and type."""
ON_HOST = {"times"}
"""Fields of features that stay on the CPU."""
DEVICE_OF = Tensor.device.__get__  # type: ignore[attr-defined]


class PretendGpu(TorchFunctionMode):
    """Inside this block, tensors marked by `put` and what comes of them lie on the device; `waits` names the waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if func == DEVICE_OF:
            return DEVICE if there(args[0]) else HOST
        if name in PLAIN:
            seen = func(*args, **kwargs)
            return put(seen) if isinstance(seen, Tensor) and there(args[0]) else seen  # such as .T
        if name in ("to", "cpu", "cuda"):
            return self._move(name, func, args, kwargs)
        given = list(_tensors((args, kwargs)))
        on = [tensor for tensor in given if there(tensor)]
        wanted = kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = HOST
        if on:
            self._watch(name, args, kwargs, given)
        elif wanted == DEVICE and name in ("tensor", "as_tensor"):
            self.waits.append(f"{name} from the host")
        made = func(*args, **kwargs)
        if name in TOLD or (wanted == HOST and not on):
            return made
        if on or wanted == DEVICE:
            put(made)
        return made

    def _move(self, name: str, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        moved, *rest = args
        named = [value for value in (*rest, *kwargs.values()) if isinstance(value, torch.device | str | Tensor)]
        places = [_place(value) if isinstance(value, Tensor) else torch.device(value) for value in named]
        goal = HOST if name == "cpu" else places[0] if places else _place(moved)
        blocks = not kwargs.pop("non_blocking", False)
        dtypes = [value for value in (*rest, *kwargs.values()) if isinstance(value, torch.dtype)]
        dtypes += [value.dtype for value in named if isinstance(value, Tensor)]
        made = moved if not dtypes or moved.dtype == dtypes[0] else Tensor.to(moved, dtypes[0])
        if there(moved) == (goal == DEVICE):
            return put(made) if there(moved) else made
        if blocks or goal == HOST:
            self.waits.append(f"{name} {'device' if goal == DEVICE else 'host'}")
        made = made.clone() if made is moved else made
        return put(made) if goal == DEVICE else _lift(made)

    def _watch(self, name: str, args: Any, kwargs: Mapping[str, Any], given: list[Tensor]) -> None:
        if name in TOLD | UNSIZED or (name == "where" and len(args) == 1):
            self.waits.append(name)
        elif name == "repeat_interleave" and kwargs.get("output_size") is None:
            if not (len(args) > 1 and isinstance(args[1], int)):
                self.waits.append(name)
        elif name in ("__getitem__", "__setitem__", "index_put_"):
            self._watch_indices(name, args)
        elif name == "copy_":
            if there(args[0]) != there(args[1]) and not kwargs.get("non_blocking"):
                self.waits.append(name)
        elif any(tensor.ndim and not there(tensor) for tensor in given):
            raise RuntimeError(f"{name} of tensors on the host and on the device")

    def _watch_indices(self, name: str, args: Any) -> None:
        at, new = args[1], args[2] if len(args) > 2 else None
        indices = at if isinstance(at, tuple | list) and not _numbers(at) else (at,)
        tensors = [index for index in indices if isinstance(index, Tensor) and index.ndim]
        masks = [index for index in tensors if index.dtype == torch.bool]
        filled = name == "__setitem__" and not isinstance(new, Tensor)
        if masks and not (filled and there(masks[0])):
            self.waits.append(f"{name} by a mask")
        elif filled and tensors and not masks:
            self.waits.append(f"{name} of a number")  # which becomes a tensor of the host, and is copied
        elif any(map(_numbers, indices)) or not all(map(there, tensors)):
            self.waits.append(f"{name} by indices of the host")
        if isinstance(new, Tensor) and new.ndim and there(new) != there(args[0]):
            self.waits.append(f"{name} of the other side")


def there(tensor: Any) -> bool:
    """Tell whether a tensor lies on the pretended device."""
    return bool(tensor.__dict__.get("_there"))


def _place(tensor: Tensor) -> torch.device:
    return DEVICE if there(tensor) else HOST


def put(made: Any) -> Any:
    """Mark the tensors of a result, or of a dataclass, a module or a list."""
    if isinstance(made, Tensor):
        made.__dict__["_there"] = True
    elif isinstance(made, nn.Module):
        put(_weights(made))
    elif isinstance(made, list | tuple):
        for part in made:
            put(part)
    return made


def _weights(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _lift(made: Tensor) -> Tensor:
    made.__dict__.pop("_there", None)
    return made


def _numbers(index: Any) -> bool:
    return isinstance(index, list) and bool(index) and all(isinstance(each, int) for each in index)


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def put_all(*values: Any) -> None:
    """Put the tensors of dataclasses there, but for what they hold on the CPU."""
    for value in values:
        for field in fields(value):
            if field.name not in ON_HOST:
                put(getattr(value, field.name))


@contextmanager
def pretend_gpu(*held: Any) -> Iterator[list[str]]:
    """Let tensors and modules lie on a device inside this block; yields the waits for it."""
    put(held)
    try:
        with PretendGpu() as mode:
            yield mode.waits
    finally:
        for tensor in _tensors([_weights(each) if isinstance(each, nn.Module) else each for each in held]):
            _lift(tensor)


@contextmanager
def reported_waits() -> Iterator[list[str]]:
    """Collect what torch reports of waits for a real GPU inside this block."""
    waits: list[str] = []
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
            waits += [str(each.message) for each in told if "synchronizing" in str(each.message)]
