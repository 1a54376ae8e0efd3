"""What lmms-eval loads of this package, and everything of ours that touches the harness's private parts.

The entry point `manifests` runs while `lmms_eval.models` is still being imported, so nothing here imports torch or a
large part of the harness. It only adds names: a run that names none of our models and tasks is the same without us.
"""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache, wraps
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from inspect import ismethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_kvtp.harness.after_import import Hook, call_after_import

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

TESTED = ("0.7.3",)
"""Releases of lmms-eval that pass tests/harness."""

Models = Mapping[str, tuple[str, tuple[str, ...]]]
"""Model id -> class path of a wrapper, aliases."""

MODELS: Models = {
    "llava_video_kvtp": ("lmms_kvtp.model_wrappers.llava_video.LlavaVideoKvtp", ("llava_vid_kvtp",)),
    "kvtp_sweep": ("lmms_kvtp.model_wrappers.sweep.KvtpSweep", ()),
    "llava_onevision_kvtp": ("lmms_kvtp.model_wrappers.baselines.LlavaOnevisionKvtp", ()),
    "llava_video": ("lmms_kvtp.model_wrappers.baselines.LlavaVideoFull", ()),
    "llava_video_random": ("lmms_kvtp.model_wrappers.baselines.LlavaVideoRandom", ()),
    "llava_video_tome": ("lmms_kvtp.model_wrappers.baselines.LlavaVideoToMe", ()),
    "llava_video_prumerge": ("lmms_kvtp.model_wrappers.baselines.LlavaVideoPruMerge", ()),
    "llava_video_fastv": ("lmms_kvtp.model_wrappers.baselines.LlavaVideoFastV", ()),
    "llava_video_keyvideollm": ("lmms_kvtp.model_wrappers.baselines.LlavaVideoKeyVideoLLM", ()),
    "llava_video_prunevid": ("lmms_kvtp.model_wrappers.baselines.LlavaVideoPruneVid", ()),
}
"""The rows of the papers' tables."""
CHAT: Models = {
    "qwen2_5_vl_kvtp": ("lmms_kvtp.model_wrappers.baselines.Qwen25VLKvtp", ()),
    "qwen3_vl_kvtp": ("lmms_kvtp.model_wrappers.baselines.Qwen3VLKvtp", ()),
    "internvl_kvtp": ("lmms_kvtp.model_wrappers.baselines.InternVLKvtp", ()),
    "qwen2_5_vl_kvtp_sweep": ("lmms_kvtp.model_wrappers.sweep.ChatSweep", ()),
    "qwen3_vl_kvtp_sweep": ("lmms_kvtp.model_wrappers.sweep.ChatSweep", ()),
    "internvl_kvtp_sweep": ("lmms_kvtp.model_wrappers.sweep.ChatSweep", ()),
}
"""Models that tasks send chat messages to, as to the harness's own wrappers of these families."""
STOCK = {name: "internvl_hf" if name.startswith("internvl") else name.partition("_kvtp")[0] for name in CHAT}
"""The harness's own model of the family, by whose name tasks choose prompts and settings."""
BY_MODEL = ("lmms_eval_specific_kwargs", "model_specific_generation_kwargs", "model_specific_target_kwargs")
"""Settings of tasks that are keyed by model ids."""
PERCENT = ("lmms_kvtp.tasks.skvqa.utils", "percent")
"""Module and name of the function that makes percentages of our tasks' scores."""

log = logging.getLogger(__name__)


def manifests() -> "list[ModelManifest]":
    """List our model ids, for the entry-point group `lmms_eval.models`, and make our tasks known. Never raises."""
    try:
        hooks = {"lmms_eval.tasks": _add_tasks, "lmms_eval.tui.discovery": _add_tasks_to_ui}
        call_after_import({**hooks, "lmms_eval.evaluator_utils": _give_errors_in_percent})
    except Exception as error:  # a plug-in that raises here takes all other plug-ins' models down
        report(f"the tasks of lmms_kvtp are missing: {_one_line(error)}")
    return [*register(MODELS), *register(CHAT, chat=True)]


def register(models: Models, chat: bool = False) -> "list[ModelManifest]":
    """Make manifests of model ids, which `lmms-eval models` then lists; other packages may call it. Never raises.

    Args:
        models: their classes and aliases.
        chat: whether tasks send these classes chat messages, in place of a text and visuals.
    """
    found: list[ModelManifest] = []
    try:
        from lmms_eval.models import registry_v2

        for name, (path, aliases) in models.items():
            if _list_model(name, path, aliases, chat):
                classes = {"chat_class_path" if chat else "simple_class_path": path}
                found.append(registry_v2.ModelManifest(model_id=name, aliases=aliases, **classes))
    except Exception as error:  # as above
        report(f"some models among {', '.join(models)} are missing: {_one_line(error)}")
    return found


@cache
def report(message: str) -> None:
    """Warn, once per process and message."""
    log.warning(message)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def check_plugins() -> None:
    """Refuse an entry point before ours that does not load, for lmms-eval would then leave ours out: LookupError."""
    for entry in entry_points(group="lmms_eval.models"):
        if entry.value.startswith("lmms_kvtp."):
            return
        try:
            entry.load()
        except Exception as error:  # foreign code
            told = f"{entry.name} = {entry.value} of {entry.dist and entry.dist.name}, {_one_line(error)}"
            way = "lmms-eval leaves out all plug-ins behind it, this one too; uninstall or mend that package"
            raise LookupError(f"a plug-in does not load: {told}; {way}") from error


@cache
def check_harness() -> None:
    """Warn, once, when this release of lmms-eval was not tested with ours; called where one of our parts is used."""
    installed = version("lmms_eval")
    if installed not in TESTED:
        report(
            f"lmms_kvtp was tested with lmms-eval {', '.join(TESTED)}, not with {installed}; "
            "compare a known result first, or install a tested release"
        )


def task_dirs() -> list[str]:
    """Find the folders of our tasks, in a wheel, an editable install or a checkout."""
    spec = find_spec("lmms_kvtp.tasks")
    return list(spec.submodule_search_locations or ()) if spec else []


def _list_model(name: str, path: str, aliases: tuple[str, ...], chat: bool = False) -> bool:
    """Add a model to the tables that `lmms-eval models` prints; False where the harness has that name already."""
    models = sys.modules.get("lmms_eval.models")
    kinds = [getattr(models, f"AVAILABLE_{kind}_MODELS", {}) for kind in ("SIMPLE", "CHAT_TEMPLATE")]
    listed_aliases, ours = getattr(models, "MODEL_ALIASES", {}), kinds[chat]
    theirs = {*kinds[0], *kinds[1]}.union(*listed_aliases.values())
    if ours.get(name) != path and theirs & {name, *aliases}:
        names = " or ".join([name, *aliases])
        report(f"lmms-eval has a model {names} of its own; the one of {path.partition('.')[0]} is left out")
        return False
    ours[name] = path
    listed_aliases[name] = aliases
    return True


def _once(patch: Hook) -> Hook:
    """Apply a patch once per module, and report what it raises: the harness must go on without us."""

    @wraps(patch)
    def guarded(module: Any) -> None:
        if not getattr(module, "_lmms_kvtp", False):
            module._lmms_kvtp = True
            try:
                patch(module)
            except Exception as error:
                report(f"what lmms_kvtp adds to {module.__name__} is missing: {_one_line(error)}")

    return guarded


@_once
def _add_tasks(tasks: Any) -> None:
    """Let every TaskManager find our tasks, and read `base_task: NAME` in them: that task's settings under ours.

    The harness reads its own 1,900 task files, which take seconds, once per process instead of once per run.
    """
    manager = tasks.TaskManager
    index_theirs, config_theirs = manager.initialize_tasks, manager._get_config
    stock: dict[str, Any] = {}  # by the harness's folder

    @wraps(index_theirs)
    def initialize_tasks(self: Any, include_path: Any = None, include_defaults: bool = True, **more: Any) -> Any:
        included = index_theirs(self, include_path, False, **more)
        if not include_defaults:
            return included
        if tasks.__file__ not in stock:
            stock[tasks.__file__] = index_theirs(self, None, True, **more)
        index = {**included, **deepcopy(stock[tasks.__file__])}
        for folder in task_dirs():
            index = {**_index(self, folder), **index}  # a name that is there already keeps its meaning
        return index

    @wraps(config_theirs)
    def get_config(self: Any, name: str) -> Any:
        if not _is_ours(self.task_index.get(name, {}).get("yaml_path")):
            return _as_for(self.model_name, config_theirs(self, name))
        check_harness()
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        os.environ.setdefault("HF_HOME", str(Path(caches) / "huggingface"))  # stock tasks need it
        config = config_theirs(self, name)
        if check := getattr(config.get("process_docs"), "check", None):
            check()  # what a task needs besides its data set, before the harness downloads that
        base = config.pop("base_task", None)
        return _as_for(self.model_name, config if base is None else _override(get_config(self, base), config))

    manager.initialize_tasks, manager._get_config = initialize_tasks, get_config


def _as_for(model: str | None, config: dict[str, Any]) -> dict[str, Any]:
    """Let a task treat one of our chat models as the harness's own of its family; other models are left alone."""
    for setting in BY_MODEL if model in STOCK else ():
        known = config.get(setting)
        if model and isinstance(known, dict) and STOCK[model] in known:
            config[setting] = {**known, model: known[STOCK[model]]}
    return config


def _index(manager: Any, folder: str) -> dict[str, Any]:
    """Index our tasks below `folder`; where a file is unreadable, those of its subfolders that have no such file."""
    try:
        return dict(manager._get_task_and_group(folder))
    except Exception as error:
        if any(Path(folder).glob("*.yaml")):
            report(f"the tasks of lmms_kvtp in {folder} are left out: {_one_line(error)}")
        inner = [str(path) for path in sorted(Path(folder).iterdir()) if path.is_dir() and path.name != "__pycache__"]
        return {name: task for path in inner for name, task in _index(manager, path).items()}


def _is_ours(yaml_path: object) -> bool:
    return isinstance(yaml_path, str) and any(Path(folder) in Path(yaml_path).parents for folder in task_dirs())


def _override(base: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    both = {key for key, value in ours.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return {**base, **ours, **{key: {**base[key], **ours[key]} for key in both}}


@_once
def _add_tasks_to_ui(discovery: Any) -> None:
    """Show our tasks in `lmms-eval ui`, which reads task files its own way."""
    theirs = discovery.discover_tasks

    @wraps(theirs)
    def discover_tasks(include_path: str | None = None) -> list[tuple[str, str]]:
        from lmms_eval.tasks import TaskManager

        empty = TaskManager("ERROR", include_defaults=False)
        ours = {name: name for folder in task_dirs() for name in _index(empty, folder)}
        return sorted({**ours, **dict(theirs(include_path))}.items())

    discovery.discover_tasks = discover_tasks


@_once
def _give_errors_in_percent(utils: Any) -> None:
    """Give standard errors of our tasks' percentages in percent, too: the harness computes them of shares."""
    theirs = utils.TaskOutput.calculate_clt_aggregate_metric

    @wraps(theirs)
    def calculate(self: Any) -> None:
        theirs(self)
        for metric, key in self.sample_metrics:
            rule = self.task.aggregation().get(metric)
            if (getattr(rule, "__module__", ""), getattr(rule, "__name__", "")) == PERCENT:
                for name in (f"{metric}_stderr_{kind},{key}" for kind in ("clt", "clustered")):
                    if isinstance(self.agg_metrics.get(name), float):
                        self.agg_metrics[name] *= 100

    utils.TaskOutput.calculate_clt_aggregate_metric = calculate


def task_of(request: Any) -> Any | None:
    """Find the task behind a request, by its bound `doc_to_visual` or `doc_to_messages`; None in agentic steps."""
    return next((part.__self__ for part in request.args[1:3] if ismethod(part)), None)


def cli_arguments(requests: Iterable[Any]) -> Namespace | None:
    """Find the parsed command line of the run that sent `requests`; None when it was started from Python."""
    tasks = filter(None, map(task_of, requests))
    return next((task.args for task in tasks if isinstance(getattr(task, "args", None), Namespace)), None)


def run_folder(arguments: Namespace | None) -> Path | None:
    """Find where the harness will write the results of this run; None where it writes none."""
    from lmms_eval.loggers.evaluation_tracker import GeneralConfigTracker
    from lmms_eval.utils import sanitize_model_name

    if arguments is None or not getattr(arguments, "output_path", None):
        return None
    name: str = sanitize_model_name(GeneralConfigTracker._get_model_name(arguments.model_args or ""))
    return Path(arguments.output_path) / name


def publish(arguments: Namespace | None, record: Mapping[str, Any]) -> None:
    """Put `record` into the results file, as config.resolved_cli_args.lmms_kvtp."""
    if arguments is not None:
        arguments.lmms_kvtp = dict(record)
