"""Where rows come from: label, method, command and commit of a run of ours, or the paper that reports the row."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lmms_kvtp.presets import RECIPES, recipe_of, word_of

NOT_IN_ANSWERS = ("backend", "chunk_size", "num_threads")
"""Frame settings that change how frames are read, but not which."""
NOT_REPEATED = ("journal", "resume", "frame_cache")
"""Settings of the wrapper that name places of one machine, and change no answer."""


@cache
def _words() -> dict[str, dict[str, Any]]:
    """Read what labels and commands leave out or say otherwise.

    pairs: scorer/allocator -> how the papers call the pair; only a record with a trained predictor has the scorer kvtp.
    plain: classes and words whose names are not those of a paper's method -> what a label says instead.
    options: options of the harness that answers depend on -> defaults, which a command leaves out.
    """
    found: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "labels.json").read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Provenance:
    """Where a run comes from; fields are empty where the results file does not say."""

    label: str
    method: dict[str, Any] = field(default_factory=dict)
    """All parts with all fields, as `Method.describe` gives them."""
    keep_ratio: float | None = None
    """Share of vision tokens that was asked for."""
    model: str = ""
    """Checkpoint and its fingerprint."""
    frames: dict[str, Any] = field(default_factory=dict)
    """Settings that choose frames."""
    versions: dict[str, str] = field(default_factory=dict)
    task_versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    """Command line of the harness, put together from its record."""
    commit: str = ""
    dirty: bool | None = None
    """Whether the tree had changes that no commit holds; None where that was not recorded."""
    toy: bool = False
    seed: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    """What else answers depend on, where it is not as usual: prompts, decoding, images, limits."""
    place: tuple[str, str] = ("", "")
    """Batch size, and phase of the frame rule: by these an unpruned run is no other method, but a floor of noise."""
    verdicts: dict[str, Any] = field(default_factory=dict)
    """Margin, contrasts and the row's own name in them, as its configuration fixed them."""
    resumed: int = 0
    """Answers taken over from an earlier run."""

    @property
    def key(self) -> str:
        """What runs of one method share, however often it ran."""
        return json.dumps([self.label, self.model, self.method, self.frames, self.seed, self.options], sort_keys=True)

    @property
    def unpruned(self) -> bool:
        """Whether every vision token reaches every layer, so that the run is the baseline of its model."""
        classes = _class(self.method, "pruner"), _class(self.method, "layer_pruning")
        return self.keep_ratio == 1 and classes == ("Unpruned", "NoLayerPruning")


def provenance(results: Mapping[str, Any]) -> Provenance:
    """Read a file that keeps to results_schema.json; a model that is not ours is labeled by its id and arguments."""
    config = results["config"]
    ours = record_of(results)
    method = ours.get("method") or {}
    versions = {"lmms_eval": str(results.get("lmms_eval_version", "")), **(ours.get("versions") or {})}
    tree = ours.get("tree") or {}
    frames = {name: value for name, value in (ours.get("frames") or {}).items() if name not in NOT_IN_ANSWERS}
    model = ours.get("model") or {}
    pretrained = str(model.get("pretrained") or config.get("model") or "")
    weights = str((ours.get("weights") or {}).get(pretrained, ""))
    return Provenance(
        label=label(method) if method else f"{config.get('model', '')} {config.get('model_args', '')}".strip(),
        method=method,
        keep_ratio=method.get("keep_ratio"),
        model=" ".join(part for part in (pretrained, weights[:12], model.get("dtype") or "") if part),
        frames=frames if frames.get("phase") else {name: frames[name] for name in frames if name != "phase"},
        versions={name: str(value) for name, value in versions.items()},
        task_versions={name: str(value) for name, value in (results.get("versions") or {}).items()},
        command=command(config),
        commit=str(tree.get("commit") or results.get("git_hash") or ""),
        dirty=tree.get("dirty"),
        toy=bool(ours.get("toy", False)),
        seed=ours.get("seed"),
        options=_options(config, ours),
        place=(str(ours.get("batch_size") or 1), f"{frames.get('phase') or 0:g}"),
        verdicts=dict(ours.get("verdicts") or {}),
        resumed=int(ours.get("resumed") or 0),
    )


def _options(config: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, str]:
    usual = {"too_long": "error", "images": "frames", "settings": "default", "gen_kwargs": "", "num_fewshot": "0"}
    arguments = config.get("resolved_cli_args") or {}
    found = {name: str({**arguments, **ours}.get(name) or value) for name, value in usual.items()}
    return {name: value for name, value in found.items() if value != usual[name]}


def record_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of ours put into the harness's results file; nothing where another model ran."""
    arguments = (results.get("config") or {}).get("resolved_cli_args") or {}
    return arguments.get("lmms_kvtp") or {}


def command(config: Mapping[str, Any]) -> str:
    """The command line that repeats a run, without its output folder and where its answers were kept."""
    arguments = config.get("resolved_cli_args") or {}
    given = str(config.get("model_args") or "").split(",")
    settings = ",".join(part for part in given if part.partition("=")[0].strip() not in NOT_REPEATED)
    words = ["lmms-eval", "--model", str(config.get("model")), "--model_args", settings]
    words += ["--tasks", str(arguments.get("tasks") or "")]
    for name, defaults in _words()["options"].items():
        value = arguments.get(name)
        if isinstance(value, list):
            value = ",".join(map(str, value))
        if value not in defaults:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join([*words, "--log_samples", "--output_path", "OUT"])


def label(method: Mapping[str, Any]) -> str:
    """A row's name as the papers write it: `KVTP + PruMerge`, `FastV`, `all tokens`.

    A published method with all of its parts has one name; its pruner alone says what it lacks.
    """
    if recipe_of(method):
        return _title(method, "pruner") or _title(method, "layer_pruning")
    scorer, allocator = word_of("scorer", method), word_of("allocator", method)
    told = predictor_of(method)
    if scorer in ("similarity", "kvtp", "shared"):
        scorer = "similarity" if told is None else "kvtp"
    start = _words()["pairs"].get(f"{scorer}/{allocator}", f"{scorer}/{_plain(allocator)}")
    if told is not None and scorer == "kvtp":
        start += "" if method["scorer"].get("fusion") else ", no fusion head"
        start += f" with {', '.join(told)} (ours)" if told else ""
    parts = [start, _title(method, "pruner") + _lack(method), _title(method, "layer_pruning")]
    return " + ".join(part for part in parts if part) or "all tokens"


def _lack(method: Mapping[str, Any]) -> str:
    recipe = RECIPES.get(word_of("pruner", method))
    if not recipe or (word_of("scorer", method), word_of("allocator", method)) != ("uniform", "uniform"):
        return ""
    equal = recipe.settings["allocator"] == "uniform"
    return ", without its stage" * ("layer_pruning" in recipe.settings) if equal else ", equal budgets"


def predictor_of(method: Mapping[str, Any]) -> list[str] | None:
    """What the trained predictor of a record has beyond the paper's; None where it names no trained predictor."""
    described = method.get("predictor")
    if described:
        return list(described.get("extensions") or ())
    if "predictor" in method:
        return None
    older = (method.get("scorer") or {}).get("checkpoint") or _class(method, "encoder") == "TowerEncoder"
    return ["a predictor of an older version"] if older else None


def row_name(typed: str, method: Mapping[str, Any]) -> str:
    """The name that somebody typed for a row, with what its record says where that is not what the word kvtp means."""
    untuned = "kvtp" in typed.lower() and method and predictor_of(method) is None
    return f"{typed} (KVTP, untuned)" if untuned else typed


def _class(method: Mapping[str, Any], part: str) -> str:
    return str((method.get(part) or {}).get("class", "")).rpartition(":")[2]


def _title(method: Mapping[str, Any], part: str) -> str:
    word = word_of(part, method)
    return _plain(word if word in _words()["plain"] else _class(method, part))


def _plain(name: str) -> str:
    return str(_words()["plain"].get(name, name))


def names(origins: Sequence[Provenance]) -> list[str]:
    """Labels, with the settings that tell rows of one label and ratio apart."""
    found = []
    for origin in origins:
        same = [other for other in origins if (other.label, other.keep_ratio) == (origin.label, origin.keep_ratio)]
        flat = [_flat(other) for other in same]
        told = [key for key in sorted(set().union(*flat)) if len({str(one.get(key)) for one in flat}) > 1]
        told = [key for key in told if key != "seed"] or told  # parts that draw have the run's seed
        mine = dict.fromkeys(told, "default") | _flat(origin)
        found.append(origin.label + (f" ({', '.join(f'{key}={mine[key]}' for key in told)})" if told else ""))
    return found


def _flat(origin: Provenance) -> dict[str, str]:
    nested = {part: values for part, values in origin.method.items() if isinstance(values, Mapping)}
    flat = {f"{part}.{key}": str(value) for part, values in nested.items() for key, value in values.items()}
    places = {"positions": str(origin.method.get("positions", "renumbered"))}
    rest = {"model": origin.model, "frames": json.dumps(origin.frames), "seed": str(origin.seed), **origin.options}
    return flat | places | rest


REPORTED = Path(__file__).parent / "reported.json"


@dataclass(frozen=True)
class Reported:
    """A row that a paper reports."""

    model: str
    """Model with frames and data: only rows that share it can be compared."""
    method: str
    keep_ratio: float | None
    """Share of vision tokens kept; None where the paper and its code leave it open."""
    source: str
    scores: Mapping[str, float] = field(default_factory=dict)
    """Accuracy in %, by benchmark."""
    relative: float | None = None
    """Mean accuracy over the paper's benchmarks, in % of its own unpruned model's."""
    relative_flops: float | None = None
    """Operations in % of the unpruned model's, by the paper's own count."""
    page_flops: float | None = None
    """Operations on the project page, in %, where it contradicts the paper."""
    note: str = ""
    model_id: str = ""
    """Id of this package's model in the harness that runs the row; empty for rows of other papers."""
    settings: str = ""
    """Settings of that model, as in `--model_args`."""


def reported() -> list[Reported]:
    """All reported rows, in the order of the file."""
    return [Reported(**row) for row in json.loads(REPORTED.read_text(encoding="utf-8"))]


def paper_rows(table: int) -> list[Reported]:
    """Rows of a table of KVTP, 2 (LLaVA-Video-7B), 3 (72B) or 4 (ways to assign rates); the first has all tokens."""
    return [row for row in reported() if row.model_id and row.source.endswith(f"table {table}")]
