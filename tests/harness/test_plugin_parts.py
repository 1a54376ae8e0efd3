"""Every part of lmms-eval that we rely on without a promise: a new release that changes one fails here.

A failure names the part and what stands on it. Mend lmms_kvtp/harness/plugin.py, then add the release to TESTED there.
"""

import ast
import inspect
import sys
from argparse import Namespace
from importlib import import_module
from importlib.metadata import version

import pytest

from lmms_kvtp.harness.plugin import TESTED

SIGNATURES = {
    "lmms_eval.tasks:TaskManager.initialize_tasks": (
        ["self", "include_path", "include_defaults"],
        "wrapped to add our tasks",
    ),
    "lmms_eval.tasks:TaskManager._get_task_and_group": (["self", "task_dir"], "called to index our folder"),
    "lmms_eval.tasks:TaskManager._get_config": (["self", "name"], "wrapped for base_task and HF_HOME"),
    "lmms_eval.tui.discovery:discover_tasks": (["include_path"], "wrapped to show our tasks in the ui"),
    "lmms_eval.models.registry_v2:ModelManifest": (
        ["model_id", "simple_class_path", "chat_class_path", "aliases"],
        "made by manifests()",
    ),
    "lmms_eval.loggers.evaluation_tracker:GeneralConfigTracker._get_model_name": (
        ["model_args"],
        "called to find the folder of the results",
    ),
    "lmms_eval.utils:sanitize_model_name": (["model_name", "full_path"], "called to find the folder of the results"),
    "lmms_eval.utils:get_datetime_str": (["timezone"], "names the journal like the results"),
    "lmms_eval.models.model_utils.gen_metrics:log_metrics": (
        ["total_elapsed_time", "total_gen_tokens", "avg_speed", "additional_metrics"],
        "called for the throughput summary",
    ),
    "lmms_eval.api.instance:TokenCounts": (["input_tokens", "output_tokens", "reasoning_tokens"], "our base class"),
    "lmms_eval.api.instance:GenerationResult": (["text", "token_counts"], "what the wrapper returns"),
}


def part(path):
    module, _, names = path.partition(":")
    found = import_module(module)
    for name in names.split("."):
        assert hasattr(found, name), f"lmms-eval {version('lmms_eval')} has no {path} any more"
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures_are_those_that_the_plugin_was_written_for(path):
    expected, use = SIGNATURES[path]
    found = list(inspect.signature(inspect.unwrap(part(path))).parameters)
    assert found == expected, (
        f"lmms-eval {version('lmms_eval')} changed {path}, which is {use}: "
        f"it takes {found}, lmms_kvtp was written for {expected}"
    )


def test_this_release_is_listed_as_tested():
    assert version("lmms_eval") in TESTED, (
        f"tests ran with lmms-eval {version('lmms_eval')}: if all of tests/plugin and tests/e2e pass, "
        "add it to TESTED in lmms_kvtp/harness/plugin.py"
    )


def test_models_are_listed_from_three_tables():
    for table in ("AVAILABLE_SIMPLE_MODELS", "AVAILABLE_CHAT_TEMPLATE_MODELS", "MODEL_ALIASES"):
        assert isinstance(part(f"lmms_eval.models:{table}"), dict), f"`lmms-eval models` printed {table}"


def test_entry_points_load_while_the_tables_exist():
    source = inspect.getsource(import_module("lmms_eval.models"))
    tables = source.index("AVAILABLE_SIMPLE_MODELS"), source.index("MODEL_ALIASES:")
    assert max(tables) < source.index("MODEL_REGISTRY_V2 = "), "manifests() adds to tables that must exist by then"


def test_the_evaluator_loads_models_before_tasks():
    tree = ast.parse(inspect.getsource(import_module("lmms_eval.evaluator")))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    first_model = next(i for i, name in enumerate(modules) if name and name.startswith("lmms_eval.models"))
    assert first_model < modules.index("lmms_eval.tasks"), "the entry point runs before tasks are looked for"


def test_a_task_index_names_the_files():
    manager = part("lmms_eval.tasks:TaskManager")(include_defaults=False)
    assert isinstance(manager.task_index, dict), "_get_config tells our tasks by task_index[name]['yaml_path']"
    source = inspect.getsource(part("lmms_eval.tasks:TaskManager._get_task_and_group"))
    assert '"yaml_path"' in source


def test_requests_lead_to_their_task():
    source = inspect.getsource(part("lmms_eval.api.task:ConfigurableTask.construct_requests"))
    one = "(ctx, copy.deepcopy(self.config.generation_kwargs), self.doc_to_visual, doc_id, self.config.task, split)"
    assert f'self.OUTPUT_TYPE == "generate_until":\n            arguments = {one}' in source, (
        "the wrapper unpacks a generate_until request as (prompt, settings, doc_to_visual, doc_id, task, split)"
    )
    several = "self.doc_to_visual, partial(self.config.doc_to_text, "
    start = source.index('self.OUTPUT_TYPE == "generate_until_multi_round"')
    assert several in source[start : start + 300], "a request of several rounds has doc_to_text behind doc_to_visual"


def test_the_evaluator_gives_tasks_the_command_line_and_stores_it():
    assert "task.args = cli_args" in inspect.getsource(inspect.unwrap(part("lmms_eval.evaluator:evaluate")))
    source = inspect.getsource(inspect.unwrap(part("lmms_eval.evaluator:simple_evaluate")))
    assert "vars(cli_args).items()" in source and '["resolved_cli_args"]' in source, (
        "the effective method goes into the results as an attribute of the command line"
    )


def test_padding_is_marked():
    metadata = {"task": "some_task", "doc_id": 0, "repeats": 1}
    instance = part("lmms_eval.api.instance:Instance")("generate_until", ("prompt",), 0, metadata)
    assert (instance.args, instance.task_name) == (("prompt",), "some_task"), "the wrapper reads args and task_name"
    padding = part("lmms_eval.evaluator:_clone_padding_request")(instance)
    assert padding.metadata["__padding_only__"] is True, "the wrapper leaves out requests that only even out ranks"


def test_results_carry_the_output_of_token_counts():
    source = inspect.getsource(part("lmms_eval.evaluator:_process_document_results"))
    assert "token_counts.to_dict()" in source, "the cost of a sample rides on TokenCounts.to_dict"


def test_log_likelihoods_are_still_garbled():
    unwrap = part("lmms_eval.api.instance:unwrap_generation_output")
    assert unwrap((-2.5, False)) == ("(-2.5, False)", None), (
        "lmms-eval passes log-likelihoods on now: the wrapper's refusal can go"
    )


def test_the_command_line_has_the_attributes_that_are_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lmms-eval"])
    parser, arguments = part("lmms_eval.__main__:parse_eval_args")()
    assert isinstance(arguments, Namespace)
    names = {action.dest for action in parser._actions}
    assert {"output_path", "model_args", "timezone"} <= names, "run_folder and the journal's name read these"
