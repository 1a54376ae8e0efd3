"""What the entry point adds to the harness, and what it never does."""

import logging
import os
import subprocess
import sys
from argparse import Namespace
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
from lmms_eval import models
from lmms_eval import tasks as harness_tasks

from lmms_kvtp.harness import plugin

SMALL = """
task: {name}
dataset_path: json
output_type: generate_until
doc_to_text: question
doc_to_target: answer
{more}
"""


@pytest.fixture(autouse=True)
def fresh_reports():
    """Warnings that are given once per process are given once per test."""
    plugin.report.cache_clear()
    plugin.check_harness.cache_clear()


@pytest.fixture
def our_tasks(tmp_path, monkeypatch):
    """A folder of tasks that stands for lmms_kvtp.tasks, and a function that writes into it."""
    monkeypatch.setattr(plugin, "task_dirs", lambda: [str(tmp_path)])

    def write(path, name, more=""):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(SMALL.format(name=name, more=more))

    return write


@pytest.fixture
def stock_tasks(tmp_path_factory, monkeypatch):
    """A folder of two tasks that stands for the harness's own 1,900 files, which take seconds to read."""
    folder = tmp_path_factory.mktemp("stock")
    monkeypatch.setattr(harness_tasks, "__file__", str(folder / "__init__.py"))
    for name in ("stock_one", "stock_two"):
        more = "generation_kwargs:\n  max_new_tokens: 16\n  temperature: 0\nmetadata:\n  version: 2"
        (folder / f"{name}.yaml").write_text(SMALL.format(name=name, more=more))
    return folder


def test_the_entry_point_is_installed():
    [entry] = [entry for entry in entry_points(group="lmms_eval.models") if entry.name == "lmms_kvtp"]
    assert entry.value == "lmms_kvtp.harness.plugin:manifests"


def test_the_model_is_found_by_id_and_alias():
    for name in ("llava_video_kvtp", "llava_vid_kvtp"):
        manifest = models.get_model_manifest(name)
        assert (manifest.model_id, manifest.chat_class_path) == ("llava_video_kvtp", None)
    assert models.MODEL_REGISTRY_V2.resolve("llava_vid_kvtp").model_type == "simple"


def test_the_command_line_lists_the_models_without_loading_torch():
    run = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-m", "lmms_eval", "models", "--aliases"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split() for line in run.stdout.splitlines() if line.startswith(tuple(plugin.MODELS))]
    assert ["llava_video_kvtp", "simple", "llava_vid_kvtp"] in rows
    assert sorted(rows) == sorted([name, "simple", *aliases] for name, (_, aliases) in plugin.MODELS.items())
    assert " torch" not in run.stderr


def test_the_ids_of_other_families_get_chat_messages():
    for name, (path, _) in plugin.CHAT.items():
        found = models.MODEL_REGISTRY_V2.resolve(name)
        assert (found.model_type, found.class_path) == ("chat", path)


def test_a_task_treats_an_id_as_the_stock_model_of_its_family_and_other_ids_as_before(stock_tasks, our_tasks):
    kwargs = "lmms_eval_specific_kwargs:\n  default:\n    post: D\n  qwen3_vl:\n    post: Q"
    (stock_tasks / "keyed.yaml").write_text(SMALL.format(name="keyed", more=kwargs))
    our_tasks("bench/mine.yaml", "mine", "base_task: keyed")
    for task in ("keyed", "mine"):
        told = {
            model: harness_tasks.TaskManager(model_name=model)._get_config(task)["lmms_eval_specific_kwargs"]
            for model in ("qwen3_vl", "qwen3_vl_kvtp", "qwen3_vl_kvtp_sweep", "qwen2_5_vl_kvtp", "llava_video_kvtp")
        }
        assert told["qwen3_vl_kvtp"]["qwen3_vl_kvtp"] == told["qwen3_vl_kvtp_sweep"]["qwen3_vl_kvtp_sweep"]
        assert told["qwen3_vl_kvtp"]["qwen3_vl_kvtp"] == {"post": "Q"}
        assert told["qwen3_vl"] == told["qwen2_5_vl_kvtp"] == told["llava_video_kvtp"]


def test_our_names_are_none_of_theirs():
    listed = plugin.MODELS | plugin.CHAT
    ours = {name for model, (_, aliases) in listed.items() for name in (model, *aliases)}
    theirs = {manifest.model_id for manifest in models._build_builtin_manifests()} - set(listed)
    theirs |= {alias for name, aliases in models.MODEL_ALIASES.items() if name in theirs for alias in aliases}
    assert theirs and not ours & theirs


def test_a_model_of_the_harness_with_our_name_is_left_alone(monkeypatch, caplog):
    tables = {"AVAILABLE_SIMPLE_MODELS": {}, "AVAILABLE_CHAT_TEMPLATE_MODELS": {}, "MODEL_ALIASES": {}}
    tables["AVAILABLE_CHAT_TEMPLATE_MODELS"]["llava_vid_kvtp"] = "Theirs"
    monkeypatch.setitem(sys.modules, "lmms_eval.models", SimpleNamespace(**tables))
    assert not plugin._list_model("llava_video_kvtp", "path.Class", ("llava_vid_kvtp",))
    assert tables["AVAILABLE_SIMPLE_MODELS"] == {}
    assert "of its own" in caplog.text


def test_the_callable_never_raises_and_says_what_is_missing(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", None)
    monkeypatch.delattr(models, "registry_v2")
    assert plugin.manifests() == []
    assert "some models among llava_video_kvtp, kvtp_sweep, " in caplog.text


def test_our_tasks_stand_beside_the_stock_tasks(our_tasks, stock_tasks):
    our_tasks("bench/mine.yaml", "mine")
    manager = harness_tasks.TaskManager()
    assert manager.all_tasks == ["mine", "stock_one", "stock_two"]
    assert "stock_one" in manager.list_all_tasks()


def test_a_stock_task_with_our_name_keeps_its_meaning(our_tasks, stock_tasks):
    our_tasks("bench/mine.yaml", "stock_one", "description: ours")
    manager = harness_tasks.TaskManager()
    assert manager.task_index["stock_one"]["yaml_path"] == str(stock_tasks / "stock_one.yaml")


def test_the_stock_files_are_read_once_and_nobody_can_change_what_was_read(our_tasks, stock_tasks, tmp_path_factory):
    first = harness_tasks.TaskManager().task_index
    first["stock_one"]["type"] = "group"
    (stock_tasks / "stock_two.yaml").unlink()
    own = tmp_path_factory.mktemp("own")
    for name in ("own", "stock_one"):
        (own / f"{name}.yaml").write_text(SMALL.format(name=name, more=""))
    second = harness_tasks.TaskManager(include_path=str(own)).task_index
    assert set(second) == {"own", "stock_one", "stock_two"}
    assert second["stock_one"] == {"type": "task", "yaml_path": str(stock_tasks / "stock_one.yaml")}
    assert set(harness_tasks.TaskManager(include_path=[str(own)], include_defaults=False).task_index) == {
        "own",
        "stock_one",
    }


def test_without_the_stock_tasks_ours_are_out_too(our_tasks, stock_tasks):
    our_tasks("bench/mine.yaml", "mine")
    assert harness_tasks.TaskManager(include_defaults=False).all_tasks == []


@pytest.mark.parametrize("content", ["task: [unclosed", "include: /no/such/file.yaml", "!python/name:os.system"])
def test_an_unreadable_file_of_ours_costs_its_folder_only_and_is_reported_once(
    our_tasks, stock_tasks, tmp_path, caplog, content
):
    our_tasks("good/mine.yaml", "mine")
    our_tasks("bad/also_mine.yaml", "also_mine")
    (tmp_path / "bad" / "broken.yaml").write_text(content)
    for _ in range(2):
        assert harness_tasks.TaskManager().all_tasks == ["mine", "stock_one", "stock_two"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"the tasks of lmms_kvtp in {tmp_path / 'bad'} are left out" in caplog.text


def test_base_task_is_a_stock_task_under_our_settings(our_tasks, stock_tasks):
    our_tasks("bench/mine.yaml", "mine", "base_task: stock_one\ngeneration_kwargs:\n  max_new_tokens: 4")
    config = harness_tasks.TaskManager()._get_config("mine")
    assert config["task"] == "mine" and "base_task" not in config
    assert config["generation_kwargs"] == {"max_new_tokens": 4, "temperature": 0}
    assert config["metadata"] == {"version": 2}


def test_base_task_is_read_in_our_files_only(stock_tasks, our_tasks):
    (stock_tasks / "odd.yaml").write_text(SMALL.format(name="odd", more="base_task: stock_one"))
    assert harness_tasks.TaskManager()._get_config("odd")["base_task"] == "stock_one"


def test_the_environment_is_set_for_our_tasks_only(our_tasks, stock_tasks, monkeypatch):
    our_tasks("bench/mine.yaml", "mine")
    monkeypatch.delenv("HF_HOME", raising=False)
    before = dict(os.environ)
    manager = harness_tasks.TaskManager()
    manager._get_config("stock_one")
    assert dict(os.environ) == before
    manager._get_config("mine")
    assert Path(os.environ["HF_HOME"]).name == "huggingface"
    monkeypatch.delenv("HF_HOME")


def test_a_home_that_is_set_stays(our_tasks, stock_tasks, monkeypatch):
    our_tasks("bench/mine.yaml", "mine")
    monkeypatch.setenv("HF_HOME", "/mine")
    harness_tasks.TaskManager()._get_config("mine")
    assert os.environ["HF_HOME"] == "/mine"


def test_an_untested_release_is_mentioned_once_and_only_to_our_users(our_tasks, stock_tasks, monkeypatch, caplog):
    our_tasks("bench/mine.yaml", "mine")
    monkeypatch.setattr(plugin, "version", lambda name: "9.9")
    manager = harness_tasks.TaskManager()
    manager._get_config("stock_one")
    assert not caplog.records
    for _ in range(2):
        manager._get_config("mine")
    assert caplog.text.count("not with 9.9") == 1
    assert caplog.records[0].levelno == logging.WARNING


def test_the_shipped_tasks_are_indexed_and_load():
    manager = harness_tasks.TaskManager(include_path=plugin.task_dirs(), include_defaults=False)
    assert "skvqa_synth" in manager.all_tasks
    for name in manager.all_tasks:
        assert name.startswith("skvqa")
        assert plugin._is_ours(manager.task_index[name]["yaml_path"])


def test_the_ui_lists_our_tasks_beside_its_own(our_tasks, monkeypatch):
    from lmms_eval.tui import discovery

    our_tasks("bench/mine.yaml", "mine")
    monkeypatch.setattr(discovery, "get_lmms_eval_root", lambda: Path("/nowhere"))
    assert discovery.discover_tasks() == [("mine", "mine")]


def test_the_folder_of_the_results_is_known(tmp_path):
    arguments = Namespace(output_path=str(tmp_path), model_args="pretrained=a/b,keep_ratio=0.1")
    assert plugin.run_folder(arguments) == tmp_path / "a__b"
    assert plugin.run_folder(Namespace(output_path=None, model_args="")) is None
    assert plugin.run_folder(None) is None
