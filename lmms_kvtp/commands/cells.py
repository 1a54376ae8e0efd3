"""Cells of a sweep or comparison: methods at ratios, their `--model_args`, and what a board will judge them by."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import get_type_hints

from lmms_kvtp.presets import DEPTH, FULL, IDS, METHOD_HELP, RECIPES, method_settings, settings_of, split_method
from lmms_kvtp.settings import pairs, parse


@dataclass(frozen=True)
class Variant:
    """A method at a ratio."""

    method: str
    keep_ratio: float
    settings: Mapping[str, str]
    """`--model_args` of the harness."""

    @property
    def name(self) -> str:
        """Name of the row, such as `kvtp+random 20%`."""
        return self.method if self.method == FULL else f"{self.method} {100 * self.keep_ratio:g}%"

    @property
    def folder(self) -> str:
        """Folder of the results, below the sweep's."""
        return re.sub(r"[^\w.+-]+", "_", self.name.replace("%", ""))  # a comma would end a setting of the harness


def add_methods(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the two ways to name methods."""
    names = f" (default {default})" if default else ""
    parser.add_argument("--methods", default=default, help=f"comma-separated names, each as in --method{names}")
    repeated = f"repeatable: {METHOD_HELP}; a:b:c as the value of a setting is a method for each"
    parser.add_argument("--method", action="append", default=[], help=repeated)


def plan(methods: Sequence[str], ratios: Sequence[float], model_args: str = "") -> list[Variant]:
    """List all cells, each once; the unpruned model comes first.

    Args:
        methods: as METHOD_HELP says; `setting=a:b` stands for two methods, where no setting has the value `a:b`. One
            with a `keep_ratio` of its own is taken at that, the others at all `ratios`.
        ratios: shares of vision tokens kept.
        model_args: of the model whose layers recipes count; DEPTH layers where they are empty.

    Raises:
        LookupError: an unknown preset or component.
        ValueError: a ratio is outside (0, 1] or more than a recipe can keep, or settings contradict each other.
    """
    from lmms_kvtp.run.options import layers_of

    split = [(*split_method(text), text) for text in dict.fromkeys(methods)]
    staged = any(name in RECIPES and RECIPES[name].layers for name in (IDS.get(name, name) for name, _, _ in split))
    layers, found = layers_of(model_args) if model_args and staged else DEPTH, dict[str, Variant]()
    for name, given, text in split:
        if IDS.get(name, name) == FULL:
            found[FULL] = Variant(FULL, 1.0, method_settings(text))
            continue
        base = settings_of(name, 0.01) if name else {}
        axes = [[(key, one) for one in _values(key, value, {**base, **given})] for key, value in given.items()]
        for own in map(dict, product(*axes)):
            shares = [float(own.pop("keep_ratio"))] if "keep_ratio" in own else ratios
            label = ",".join([name] * bool(name) + [f"{key}={value}" for key, value in own.items()]) or "kvtp+prumerge"
            for ratio in shares:
                if not 0 < ratio <= 1:
                    raise ValueError(f"ratio {ratio} is outside (0, 1]; it is the share of vision tokens kept")
                cell = Variant(label, ratio, method_settings(label, ratio, layers))
                found.setdefault(cell.name, cell)
    return sorted(found.values(), key=lambda cell: cell.method != FULL)


def _values(key: str, value: str, settings: Mapping[str, str]) -> list[str]:
    """Split the value of a setting that takes a number or a word, not `a:b`, into those that it names."""
    from lmms_kvtp.method import KVTP, class_of

    part, _, field = key.partition(".")
    if ":" not in value or not (field or key == "keep_ratio"):
        return [value]
    owner = class_of(part, settings.get(part, KVTP.get(part, "none"))) if field else None
    kind = get_type_hints(owner).get(field) if owner else float
    try:
        parse(kind, value, key)
        return [value]
    except ValueError:
        return [str(parse(kind, one, key)) for one in value.split(":")]


def arguments_of(common: str, cell: Variant) -> str:
    """Join `--model_args` of all cells and of one; ValueError where they contradict each other."""
    from lmms_kvtp.run.options import chooses_method

    shared = {k: v for k, v in pairs(common).items() if cell.method != FULL or not chooses_method(k)}
    for name, value in shared.items():
        if cell.settings.get(name, value) != value:
            own = f"method {cell.name!r}, which sets {name}={cell.settings[name]}"
            raise ValueError(f"--model_args {name}={value} contradicts {own}; leave one of them out")
    return ",".join(f"{name}={value}" for name, value in {**shared, **cell.settings}.items())


def only(method: str, keep_ratio: float | None, common: str) -> str:
    """Join `--model_args` with one method, at its own ratio, `keep_ratio` or 0.2; raises as `plan` does."""
    if keep_ratio is not None and "keep_ratio" in split_method(method)[1]:
        raise ValueError(f"--method {method} has a keep_ratio, and --keep-ratio {keep_ratio:g} is another; give one")
    cells = plan([method], [0.2 if keep_ratio is None else keep_ratio], common)
    if len(cells) > 1:
        raise ValueError(f"--method {method} names {len(cells)} methods; give one")
    return arguments_of(common, cells[0])


def with_verdicts(cells: Sequence[Variant], margin: float | None, contrasts: str = "") -> list[Variant]:
    """Write into each cell's settings what a board will judge it by: its name, the margin, and what it is held against.

    Pairs are of one ratio, or with all tokens. LookupError names a contrast whose rows are not among the cells.
    """
    against: dict[str, list[str]] = {}
    for pair in filter(None, contrasts.split(",")):
        ours, _, theirs = (part.strip() for part in pair.partition(" vs "))
        both = [(a, b) for a in cells for b in cells if (a.method, b.method) == (ours, theirs)]
        found = [(a.name, b.name) for a, b in both if theirs == FULL or a.keep_ratio == b.keep_ratio]
        if not found:
            way = "both must be among --methods, named as there and without a ratio: 'kvtp+tome vs tome'"
            raise LookupError(f"contrast {pair.strip()!r}: {way}")
        for this, that in found:
            against.setdefault(this, []).append(that)
    fixed = {} if margin is None else {"margin": f"{margin:g}"}
    if against:
        fixed["against"] = "none"
    own = [{"against": ";".join(against[cell.name])} if cell.name in against else {} for cell in cells]
    told = [{"row": cell.name, **fixed, **more} if fixed else {} for cell, more in zip(cells, own, strict=True)]
    return [replace(cell, settings={**cell.settings, **more}) for cell, more in zip(cells, told, strict=True)]


def beforehand(cells: Sequence[Variant], margin: float | None) -> list[str]:
    """What a board will say of these rows, before they run."""
    from lmms_kvtp.run.source import tree

    lacking = all(cell.method != FULL for cell in cells)
    said = {
        "the code has changes that no commit holds: a board marks every row with that": tree().get("dirty"),
        f"{FULL} is not among the methods: a board holds no row against all tokens": lacking,
        "no --margin: a board calls no two rows equal": margin is None,
    }
    return [line for line, holds in said.items() if holds]
