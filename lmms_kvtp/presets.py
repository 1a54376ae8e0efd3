"""Short names: words for a component with settings, and whole methods: `random`, `kvtp+prumerge`, `oracle/aks+grid`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmms_kvtp.resolve import available, near
from lmms_kvtp.settings import pairs, parse


@dataclass(frozen=True)
class Word:
    """Another name of a component, with settings of its own."""

    component: str
    settings: Mapping[str, Any]
    """Fields of the component that are set where nobody sets them otherwise."""
    does: str
    """What `lmms-kvtp list` says of it."""
    brings: Mapping[str, str] = field(default_factory=dict)
    """Other parts that come with it where nobody names one: part -> component."""
    tells: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the component's class that read otherwise with these settings."""


PACKAGES = {
    "encoder": "lmms_kvtp.encoders",
    "scorer": "lmms_kvtp.scorers",
    "allocator": "lmms_kvtp.allocators",
    "pruner": "lmms_kvtp.pruners",
    "layer_pruning": "lmms_kvtp.layer_pruning",
}
"""Package of the components of each part of a method, and entry-point group of those of other packages."""
SHARED = "shared"

WORDS = {
    "scorer": {
        "similarity": Word(
            "kvtp",
            {"fusion": False, "checkpoint": None},
            "Image-text logits of frame and question; of a question in several pieces, the best piece counts.",
            tells={"training_free": True},
        ),
        SHARED: Word(
            "kvtp",
            {},
            "Relevance by a light head on the tower that the language model runs anyway, in the context of clip and "
            "video.",
            brings={"encoder": "tower"},
            tells={"paper": "objective of KVTP, arXiv 2503.10742"},
        ),
    },
}
"""Words that stand for a component wherever one is named, by part."""


def names_of(part: str) -> list[str]:
    """List the short names of a part: components, here and in installed packages, and words for them."""
    return sorted({*available(PACKAGES[part]), *WORDS.get(part, {})})


def word_of(part: str, method: Mapping[str, Any]) -> str:
    """Find the word that fits a part of a method; else the name of the component's file.

    A number fits a word's if both are 0 or both are not.

    Args:
        part: scorer, pruner, ...
        method: as `Method.describe` records it.
    """
    described, file = method.get(part) or {}, _file(method, part)
    ours = str(described.get("class", "")).startswith("lmms_kvtp.")
    for name, word in WORDS.get(part, {}).items() if ours else ():
        same = all(bool(described.get(field)) == bool(value) for field, value in word.settings.items())
        if word.component == file and same and all(_file(method, other) == own for other, own in word.brings.items()):
            return name
    return file


def _file(method: Mapping[str, Any], part: str) -> str:
    return str((method.get(part) or {}).get("class", "")).partition(":")[0].rpartition(".")[2]


FULL = "full"
"""Name of the method that keeps all tokens, the row that others are compared with."""

PRESETS = {
    "uniform": {"scorer": "uniform", "allocator": "uniform"},
    "kvtp": {"scorer": "kvtp", "allocator": "softmax"},
    "similarity": {"scorer": "similarity", "allocator": "softmax"},
    "shared": {"scorer": SHARED, "allocator": "softmax"},
    "oracle": {"scorer": "oracle", "allocator": "softmax"},
    "hard": {"scorer": "similarity", "allocator": "hard"},
    "aks": {"scorer": "similarity", "allocator": "aks"},
    "frames": {"scorer": "uniform", "allocator": "frames"},
}
"""Scorers and allocators that decide together how much each frame keeps, by short name. kvtp has a trained predictor,
similarity the image-text encoder alone."""


DEPTH = 28
"""Layers of Qwen2-7B, of which recipes count their layers; a model of other depth gets them in proportion."""


@dataclass(frozen=True)
class MethodRecipe:
    """A published method: its parts and settings together."""

    settings: Mapping[str, str]
    """`--model_args`, beside those that follow from the share of tokens."""
    ratio: str = "keep_ratio"
    """Setting that the share of tokens goes to."""
    factor: float = 1.0
    """Value of that setting over the share."""
    layers: tuple[int, ...] = ()
    """Layers of its stages, of a model of DEPTH layers; with several, shares fall evenly down to the last one's."""

    def at(self, share: float, layers: int) -> dict[str, str]:
        """Fill in the share of vision tokens, and the layers of a model of so many.

        ValueError where more than all tokens would be kept.
        """
        value = self.factor * share
        if value > 1 + 1e-9:
            raise ValueError(
                f"a ratio of {share:g} is {self.ratio}={value:g} here, more than all tokens; give at most "
                f"{1 / self.factor:g}"
            )
        stages, name = max(1, len(self.layers)), "layer_pruning.layer" + "s" * (len(self.layers) > 1)
        shares = [f"{min(value, 1) ** (stage / stages):.6g}" for stage in range(1, stages + 1)]
        steps = {name: ":".join(str(layer * layers // DEPTH) for layer in self.layers)} if self.layers else {}
        return {"keep_ratio": "1", **self.settings, **steps, self.ratio: ":".join(shares)}


_EQUAL, _ALL = PRESETS["uniform"], {**PRESETS["uniform"], "pruner": "none"}
RECIPES = {
    "vidcom2": MethodRecipe({"scorer": "vidcom2", "allocator": "vidcom2", "pruner": "vidcom2"}),
    "vcast": MethodRecipe({"scorer": "vcast", "allocator": "vcast", "pruner": "vcast", "positions": "kept"}),
    "evs": MethodRecipe({**_EQUAL, "pruner": "evs", "positions": "evs"}),
    "fastvid": MethodRecipe({**_EQUAL, "pruner": "fastvid", "positions": "kept"}),
    "flashvid": MethodRecipe(
        {**_EQUAL, "pruner": "flashvid", "layer_pruning": "fastv", "layer_pruning.ratio": "0.3"},
        factor=1.25,
        layers=(20,),
    ),
    "holitom": MethodRecipe(
        {**_EQUAL, "pruner": "holitom", "layer_pruning": "holitom", "layer_pruning.ratio": "0.5"}, layers=(18,)
    ),
    "prunevid": MethodRecipe(
        {**_EQUAL, "pruner": "prunevid", "layer_pruning": "prunevid", "layer_pruning.alpha": "0.4"},
        factor=2.5,
        layers=(10,),
    ),
    "fastv": MethodRecipe({**_ALL, "layer_pruning": "fastv"}, ratio="layer_pruning.ratio"),
    "pyramiddrop": MethodRecipe(
        {**_ALL, "layer_pruning": "pyramiddrop"}, ratio="layer_pruning.ratios", layers=(7, 14, 21)
    ),
}
"""Published methods of several parts or settings, by short name; a method of one part is its pruner with equal budgets.
A share of tokens is what enters the language model (vidcom2, vcast, evs, fastvid, holitom), its mean over the layers of
Qwen2-7B (flashvid), or what the last layers see (prunevid, fastv, pyramiddrop)."""


def recipe_of(method: Mapping[str, Any]) -> str | None:
    """Find the recipe whose parts a method has, as `Method.describe` records it; settings may differ."""
    parts = ("scorer", "allocator", "pruner", "layer_pruning")
    mine = {part: word_of(part, method) or "none" for part in parts}
    fits = (name for name, recipe in RECIPES.items() if all(recipe.settings.get(p, "none") == mine[p] for p in parts))
    return next(fits, None)


IDS = {
    "llava_video": FULL,
    "llava_video_random": "random",
    "llava_video_tome": "tome",
    "llava_video_prumerge": "prumerge",
    "llava_video_fastv": "fastv",
    "llava_video_keyvideollm": "hard+grid",
    "llava_video_prunevid": "prunevid",
    **dict.fromkeys(("llava_video_kvtp", "llava_vid_kvtp", "llava_onevision_kvtp"), "kvtp+prumerge"),
    **dict.fromkeys(("qwen2_5_vl_kvtp", "qwen3_vl_kvtp", "internvl_kvtp"), "kvtp+prumerge"),
}
"""Short names of the methods that the harness's model ids run; at a command's own share of tokens."""

METHOD_HELP = (
    f"full, a published method ({', '.join(RECIPES)}, or a pruner's name), kvtp+prumerge, scorer/allocator+pruner "
    f"({', '.join(PRESETS)} before the +), a model id such as llava_video_tome; further settings behind a comma "
    "(kvtp+tome,allocator.temperature=1), or settings alone, as in --model_args"
)


def split_method(text: str) -> tuple[str, dict[str, str]]:
    """Split `NAME,setting=value` or `name=NAME,setting=value`; without name it is empty. ValueError for other forms."""
    first, _, rest = text.strip().partition(",")
    if first and "=" not in first:
        return first.strip(), pairs(rest)
    given = pairs(text)
    return given.pop("name", ""), given


def method_settings(text: str, keep_ratio: float | None = None, layers: int = DEPTH) -> dict[str, str]:
    """Read one argument of the command line or of the Python interface: a short name, settings, or both.

    Args:
        text: as METHOD_HELP says; empty for the wrapper's defaults.
        keep_ratio: replaces the one in `text`; None: 0.2 for a short name.
        layers: of the language model.

    Raises:
        LookupError: there is no such preset.
        ValueError: settings that are no pairs, or that say again what the name and its share of tokens say.
    """
    name, given = split_method(text)
    share = given.pop("keep_ratio", None)
    ratio = keep_ratio if share is None or keep_ratio is not None else parse(float, share, "keep_ratio")
    if not name:
        return given | ({} if ratio is None else {"keep_ratio": f"{ratio:g}"})
    own, name = settings_of(name, 0.2 if ratio is None else ratio, layers), IDS.get(name, name)
    if name == FULL and (given or share):
        raise ValueError(f"method {text!r}: {FULL} keeps all tokens and has no settings; name another method")
    if name in RECIPES and (key := RECIPES[name].ratio) in given:
        raise ValueError(f"method {text!r}: {key}={own[key]} follows from the share of tokens; give that, not {key}")
    return {**own, **given}


def settings_of(name: str, keep_ratio: float, layers: int = DEPTH) -> dict[str, str]:
    """Translate the short name of a method into `--model_args`.

    Args:
        name: `full`; a recipe; a pruner, with equal budgets; `preset+pruner`; `scorer/allocator+pruner`; or a model id
            of IDS. A part is a component's name, or `package.module:Class`.
        keep_ratio: share of vision tokens kept, as RECIPES says.
        layers: of the language model.

    Raises:
        LookupError: there is no such preset.
        ValueError: a recipe cannot keep as much.
    """
    name = IDS.get(name, name)
    if name == FULL:
        return {**_ALL, "keep_ratio": "1"}
    if name in RECIPES:
        try:
            return RECIPES[name].at(keep_ratio, layers)
        except ValueError as error:
            raise ValueError(f"method {name}: {error}") from None
    before, plus, after = name.partition("+")
    preset, pruner = (before, after) if plus else ("uniform", before)
    scorer, slash, allocator = preset.partition("/")
    if slash:
        return {"scorer": scorer, "allocator": allocator, "pruner": pruner, "keep_ratio": f"{keep_ratio:g}"}
    if preset not in PRESETS:
        raise LookupError(f"method {name!r}: no preset named {preset!r} before the +; {near(preset, list(PRESETS))}")
    return {**PRESETS[preset], "pruner": pruner, "keep_ratio": f"{keep_ratio:g}"}
