"""A method: the parts that run, with their settings, built from --model_args."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, get_type_hints

from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.allocators.base import BudgetAllocator
from lmms_kvtp.device import warn
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.encoders.own import OwnTower
from lmms_kvtp.encoders.parts.predictor import TINY_SHARED, TrainedPredictor, find_predictor, is_predictor
from lmms_kvtp.layer_pruning.base import LayerPruner
from lmms_kvtp.layer_pruning.none import NoLayerPruning
from lmms_kvtp.presets import PACKAGES, SHARED, WORDS
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.resolve import near, resolve
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.settings import parse
from lmms_kvtp.shipped import TINY
from lmms_kvtp.types import ADDED, Positions

if TYPE_CHECKING:
    from lmms_kvtp.vlms.base import VideoVLM

PARTS: dict[str, tuple[str, type[Any]]] = {
    part: (PACKAGES[part], base)
    for part, base in {
        "encoder": FrameEncoder,
        "scorer": FrameScorer,
        "allocator": BudgetAllocator,
        "pruner": TokenPruner,
        "layer_pruning": LayerPruner,
    }.items()
}
"""Package of the components and their interface, by part."""

KVTP = {"encoder": "siglip", "scorer": "kvtp", "allocator": "softmax", "pruner": "prumerge", "keep_ratio": "0.2"}
"""Settings of KVTP with PruMerge at 20 %, the paper's headline row: the default of the wrapper."""
PREDICTOR = "predictor"
"""Setting that names a trained predictor; `none` for the encoder as it is."""


@dataclass(frozen=True)
class Method:
    """Scorer and allocator decide how many tokens each frame keeps, the pruner which."""

    encoder: FrameEncoder
    scorer: FrameScorer
    allocator: BudgetAllocator
    pruner: TokenPruner
    layer_pruning: LayerPruner = field(default_factory=NoLayerPruning)
    """Part that drops more of the tokens between the layers of the language model."""
    keep_ratio: float = 1.0
    """Vision tokens that enter the language model over those of the unpruned model, in (0, 1]."""
    positions: Positions = "renumbered"
    """Rotary positions of what is kept: 0, 1, 2, ..., or those of the prompt in which all tokens are kept."""
    predictor: TrainedPredictor | None = None
    """Trained predictor that scorer and encoder are of; without one nothing here is called KVTP."""

    def __post_init__(self) -> None:
        """Refuse a ratio outside (0, 1], and parts that need what the encoder cannot give."""
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio={self.keep_ratio} is outside (0, 1]; it is the fraction of tokens kept")
        missing = self.needs - self.encoder.provides
        if missing:
            raise ValueError(
                f"{type(self.scorer).__name__} and {type(self.pruner).__name__} need {', '.join(sorted(missing))}, "
                f"which encoder {type(self.encoder).__name__} does not provide; choose another encoder"
            )
        if self.positions != "renumbered" and any(stage.renumber for stage in self.layer_pruning.stages()):
            raise ValueError(
                f"positions={self.positions}, and {type(self.layer_pruning).__name__} numbers them anew; set "
                "layer_pruning.positions=kept, or leave that out"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Features of frames that the parts read; the encoder computes only these."""
        return (self.scorer.needs | self.pruner.needs) - ADDED

    @property
    def additions(self) -> frozenset[str]:
        """Features that the parts read and the pipeline adds."""
        return (self.scorer.needs | self.pruner.needs) & ADDED

    @property
    def query_aware(self) -> bool:
        """Kept tokens depend on the question."""
        budgets = self.scorer.query_aware and self.allocator.query_aware
        return budgets or self.pruner.query_aware or self.layer_pruning.query_aware

    def total(self, num_frames: int, capacity: int) -> int:
        """Count the tokens that `keep_ratio` leaves of a video, rounded down.

        ValueError where less than one token would be left.
        """
        tokens = num_frames * capacity
        kept = int(self.keep_ratio * tokens + 1e-6)
        if kept < 1:
            raise ValueError(
                f"keep_ratio={self.keep_ratio} of {num_frames} frames x {capacity} tokens is less than one token; "
                f"the least here is {1 / tokens:.2g}"
            )
        return kept

    def budgets(self, relevance: Tensor, capacity: int) -> Int[Tensor, " T"]:
        """Give each frame its number of kept tokens."""
        return self.allocator.allocate(relevance.cpu(), self.total(len(relevance), capacity), capacity)

    def describe(self) -> dict[str, Any]:
        """Record every part with every field, as plain values."""
        parts = {}
        for part in PARTS:
            component = getattr(self, part)
            cls = type(component)
            settings = {f.name: getattr(component, f.name) for f in fields(component)} if is_dataclass(cls) else {}
            parts[part] = {"class": f"{cls.__module__}:{cls.__name__}", **settings}
        predictor = self.predictor.describe() if self.predictor else None
        return parts | {"keep_ratio": self.keep_ratio, "positions": self.positions, PREDICTOR: predictor}


def build_method(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Method:
    """Build a method from `<part>=name` and `<part>.<field>=value` settings, `positions=` and `predictor=NAME`.

    Where the scorer is KVTP's and no predictor is found, the encoder scores the frames alone, without untrained head.
    Where nothing but attention and keys is read and no encoder is named, they are those of the model's own tower.

    Args:
        settings: what the user asked for; text values are read by the type of their field.
        defaults: used where `settings` is silent. A default of a part's field holds only while that part is the
            default's, so `encoder.pretrained` of one encoder never reaches another.

    Raises:
        ValueError: a value does not fit its field, or the parts do not fit together.
        LookupError: an unknown part, field or component, with near matches.
    """
    defaults = {"layer_pruning": "none", **defaults}
    settings, predictor = with_predictor(settings, defaults)
    names = {part: str(settings.get(part, defaults.get(part))) for part in PARTS}
    words = [WORDS[part][name] for part, name in names.items() if name in WORDS.get(part, {})]
    names |= {part: name for word in words for part, name in word.brings.items() if part not in settings}
    inherited = {
        key: value
        for key, value in defaults.items()
        if "." in key and names[key.split(".")[0]] == str(defaults.get(key.split(".")[0]))
    }
    merged = {**inherited, **settings}
    known = [*PARTS, "keep_ratio", "positions", PREDICTOR]
    for key in merged:
        if key.split(".")[0] not in known:
            raise LookupError(f"unknown setting {key!r}; {near(key, known)}")
    parts = {part: build_part(part, names[part], merged) for part in PARTS if part != "encoder"}
    reads = (parts["scorer"].needs | parts["pruner"].needs) - ADDED
    if reads and reads <= OwnTower.provides and not any(key.partition(".")[0] == "encoder" for key in settings):
        names["encoder"], merged = "own", {key: value for key, value in merged.items() if key[:8] != "encoder."}
    parts["encoder"] = build_part("encoder", names["encoder"], merged)
    ratio = parse(float, str(settings.get("keep_ratio", defaults.get("keep_ratio", 1.0))), "keep_ratio")
    places = parse(Positions, str(settings.get("positions", defaults.get("positions", "renumbered"))), "positions")
    if places != "renumbered" and "positions" in vars(parts["layer_pruning"]):
        kept = {"layer_pruning.positions": "kept", **merged}  # where nothing else is said
        parts["layer_pruning"] = build_part("layer_pruning", names["layer_pruning"], kept)
    return Method(**parts, keep_ratio=ratio, positions=places, predictor=predictor)


def with_predictor(
    settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], TrainedPredictor | None]:
    """Replace `predictor=`, and what else names a trained predictor, by the settings of parts that it stands for.

    Returns:
        The settings, and the predictor; None where the scorer reads none, or there is none.

    Raises:
        ValueError: there is no such predictor, or settings name two, or one that does not fit its encoder.
    """
    rest = {name: value for name, value in settings.items() if name != PREDICTOR}
    scorer, encoder = (str(settings.get(part, defaults.get(part))) for part in ("scorer", "encoder"))
    if scorer == SHARED and "encoder" not in settings:
        encoder = "tower"
    if scorer not in ("kvtp", SHARED):
        return rest, None
    named = {key: str(settings[key]) for key in (PREDICTOR, "scorer.checkpoint") if key in settings}
    frames = str(settings.get("encoder.pretrained", ""))
    if encoder == "tower":
        named["encoder.pretrained"] = TINY_SHARED if frames in ("", TINY) else frames
        if not frames and named.get(PREDICTOR, "none") != "none":
            del named["encoder.pretrained"]
    elif frames and is_predictor(frames):
        named["encoder.pretrained"] = frames
    elif not named and not frames and encoder == defaults.get("encoder") and defaults.get(PREDICTOR):
        named[PREDICTOR] = str(defaults[PREDICTOR])
    found = {key: find_predictor(name, key) for key, name in named.items() if name.lower() not in ("none", "")}
    if len({predictor.folder.resolve() for predictor in found.values()}) > 1:
        given = " and ".join(f"{key}={predictor.name}" for key, predictor in found.items())
        raise ValueError(f"{given} name two predictors; give one, as {PREDICTOR}=")
    if not found:
        return {"scorer.fusion": False, **rest}, None
    predictor = next(iter(found.values()))
    for key, value in predictor.settings.items():
        if key in rest and rest[key] != value and key not in found:
            raise ValueError(f"{PREDICTOR}={predictor.name} has {key}={value}, not {rest[key]}; leave {key} out")
    if not predictor.head:
        rest = {"scorer.fusion": False, **rest}
    return {**predictor.settings, **rest, "scorer": "kvtp"}, predictor


def defaults_of(vlm: "VideoVLM") -> dict[str, str]:
    """The wrapper's method with the encoder and the predictor that belong to a model."""
    own = {PREDICTOR: TINY} if vlm.toy else {}
    return {**KVTP, "encoder.pretrained": vlm.default_encoder, "positions": vlm.positions[0], **own}


def check_predictor(method: Method, vlm: "VideoVLM", scorer: str) -> None:
    """Make sure that a predictor reads frames as in its training; warn where there is none, or none of its head.

    Args:
        method: built with `defaults_of` the model.
        vlm: the model.
        scorer: what was asked for; `similarity` wants no predictor.

    Raises:
        ValueError: the predictor is of other weights.
    """
    found = method.predictor
    if found is None:
        if scorer == KVTP["scorer"]:
            warn(
                "no trained predictor: the image-text encoder scores the frames as it is, and the row is called "
                '"KVTP, untuned", which is not the method of the paper; give predictor=FOLDER, which '
                "`lmms-kvtp train predictor` writes (docs/predictor.md), or name scorer=similarity"
            )
        return
    if found.form == "shared":
        found.check_frames(vlm.files, vlm.name)
    elif found.form == "slim" and (weights := method.encoder.companion("model.safetensors")):
        found.check_frames([weights], f"encoder.pretrained={getattr(method.encoder, 'pretrained', '')}")
    if not found.head:
        warn(f"predictor={found.name} has no fusion head: it scores each frame alone, as KVTP's release does")


def class_of(part: str, name: str) -> type[Any]:
    """Find the class that a name or a word stands for; raises as `resolve` does."""
    package, base = PARTS[part]
    words = WORDS.get(part, {})
    if name in words and (theirs := entry_points(group=package, name=name)):
        raise LookupError(
            f"several {base.__name__}s are named {name!r}: a word for {words[name].component}, "
            f"{', '.join(entry.value for entry in theirs)}; say which as package.module:Class, or uninstall the other"
        )
    return resolve(package, words[name].component if name in words else name, base, words)


def build_part(part: str, name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Build one component from those of the settings that are its own: `<part>.<field>=value`.

    ValueError where a value does not fit its field; LookupError of unknown components or fields, with near ones.
    """
    cls, words = class_of(part, name), WORDS.get(part, {})
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)] if is_dataclass(cls) else []
    values = dict(words[name].settings) if name in words else {}
    for key, value in (settings or {}).items():
        owner, _, field_name = key.partition(".")
        if owner != part or not field_name:
            continue
        if field_name not in known:
            raise LookupError(f"{part}={name} has no setting {field_name!r}; {near(field_name, known)}")
        read = parse(hints[field_name], value, key)
        if bool(values.get(field_name, read)) != bool(read):
            fixed = f"{words[name].component} with {field_name}={values[field_name]}"
            raise ValueError(f"{key}={value}: {part}={name} is {fixed}; name {part}={words[name].component} to set it")
        values[field_name] = read
    return cls(**values)
