"""Everything of lmms-eval that this package touches beyond what it documents, and that all of it is there."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATCHED = (
    ("lmms_eval.tasks", "TaskManager.initialize_tasks", "our tasks join the index, which is read once in a process"),
    ("lmms_eval.tasks", "TaskManager._get_config", "base_task, checks before a download, prompts of chat models"),
    ("lmms_eval.tasks", "TaskManager._get_task_and_group", "indexes our own folder"),
    ("lmms_eval.evaluator_utils", "TaskOutput.calculate_clt_aggregate_metric", "errors of our percentages in percent"),
    ("lmms_eval.tui.discovery", "discover_tasks", "our tasks in lmms-eval ui"),
    ("lmms_eval.models", "AVAILABLE_SIMPLE_MODELS", "our ids in lmms-eval models"),
    ("lmms_eval.models", "AVAILABLE_CHAT_TEMPLATE_MODELS", "the same of chat models"),
    ("lmms_eval.models", "MODEL_ALIASES", "their aliases"),
    ("lmms_eval.loggers.evaluation_tracker", "GeneralConfigTracker._get_model_name", "the folder of the results"),
    ("lmms_eval.api.task", "ConfigurableTask.download.retry", "check tries a download once"),
    ("lmms_eval.tasks.egoschema.utils", "get_multi_choice_info", "reads the letter as the stock task does"),
    ("lmms_eval.tasks.egoschema.utils", "parse_multi_choice_response", "the same"),
    ("lmms_eval.tasks.nextqa.utils", "nextqa_doc_to_text_mc", "the stock prompt"),
    ("lmms_eval.tasks.egoschema.utils", "egoschema_doc_to_text", "the stock prompt"),
    ("lmms_eval.tasks.videomme.utils", "videomme_doc_to_text", "the stock prompt"),
)
"""What is patched, filled or called though it is private, undocumented or a task's own: module, name, what for."""
IMPORTED = {
    "lmms_eval.api.instance": {"GenerationResult", "Instance", "TokenCounts"},
    "lmms_eval.api.metrics": {"clustered_stderr"},
    "lmms_eval.api.model": {"lmms"},
    "lmms_eval.api.task": {"ConfigurableTask"},
    "lmms_eval.loggers.evaluation_tracker": {"GeneralConfigTracker"},
    "lmms_eval.models": {"registry_v2"},
    "lmms_eval.models.model_utils.gen_metrics": {"log_metrics"},
    "lmms_eval.models.registry_v2": {"ModelManifest"},
    "lmms_eval.models.simple.llava_vid": {"LlavaVid"},
    "lmms_eval.tasks": {"TaskManager", "get_task_dict"},
    "lmms_eval.tasks._task_utils.mcq_extract": {"extract_mcq_answer"},
    "lmms_eval.utils": {
        *("get_datetime_str", "load_yaml_config", "resolve_cache_dir", "sanitize_model_name"),
        "simple_parse_args_string",
    },
}
"""What is imported by name."""
LOADS_A_MODEL = "lmms_eval.models.simple.llava_vid"
"""Needs LLaVA-NeXT's package to be of use; the file is looked for, not imported."""


def sources() -> list[ast.Module]:
    files = [path for top in ("lmms_kvtp", "model_wrappers", "tasks") for path in (ROOT / top).rglob("*.py")]
    return [ast.parse(path.read_text()) for path in files]


def test_the_list_of_imports_is_complete():
    found: dict[str, set[str]] = {}
    for node in (node for tree in sources() for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lmms_eval"):
            found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    assert found == IMPORTED


def test_the_list_has_every_private_attribute_that_is_touched():
    theirs = {"TaskManager", "GeneralConfigTracker", "manager", "tasks", "models"}
    touched = {
        node.attr
        for tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in theirs
        if node.attr.startswith("_") and not node.attr.startswith("__")
    }
    assert touched == {"_get_config", "_get_task_and_group", "_get_model_name"}
    assert touched <= {name.rpartition(".")[2] for _, name, _ in PATCHED}


@pytest.mark.filterwarnings("default")  # the harness warns of its own affairs
@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module, name, _ in PATCHED]
    + [(module, name) for module, names in IMPORTED.items() for name in sorted(names) if module != LOADS_A_MODEL],
)
def test_every_part_is_there(module, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # modules of tasks read it when they are imported
    found = importlib.import_module(module)
    for piece in name.split("."):
        found = getattr(found, piece) if hasattr(found, piece) else importlib.import_module(f"{module}.{piece}")


def test_the_stock_wrapper_is_there():
    assert importlib.util.find_spec(LOADS_A_MODEL) is not None
