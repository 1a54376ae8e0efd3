"""Installed beside stock models and tasks, the plug-in changes nothing of theirs: a run with it against one without."""

import json
import os
import subprocess
import sys

import pytest
from helpers import lookalike

from lmms_kvtp.harness.plugin import CHAT, MODELS

RUN = """
import importlib.metadata, json, os, sys
from importlib.metadata import EntryPoints

with_plugin, folder, out = sys.argv[1] == "with", sys.argv[2], sys.argv[3]
if not with_plugin:
    everything = importlib.metadata.entry_points()
    others = EntryPoints(entry for group in everything.groups for entry in everything.select(group=group)
                         if entry.name != "lmms_kvtp")
    importlib.metadata.entry_points = lambda **only: others.select(**only)
environment = dict(os.environ)

from lmms_eval import evaluator
from lmms_eval.models import AVAILABLE_MODELS
from lmms_eval.models.simple.dummy import Dummy
from lmms_eval.tasks import TaskManager

requests, answer = [], Dummy.generate_until


def generate_until(self, instances):
    for one in instances:
        prompt, settings, visuals, doc_id, task, split = one.args
        document = self.task_dict[task][split][doc_id]
        requests.append([prompt, settings, visuals(document), doc_id, task, split, one.metadata])
    return answer(self, instances)


def named(value):
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, dict):
        return {key: named(item) for key, item in value.items()}
    return [named(item) for item in value] if isinstance(value, list) else value


Dummy.generate_until = generate_until
ours = sorted(name for name in sys.modules if name.startswith("lmms_kvtp."))
manager = TaskManager(include_path=folder, model_name="dummy")
results = evaluator.simple_evaluate(model="dummy", tasks=["stock_like"], task_manager=manager, log_samples=True)
seen = {
    "plugin": "lmms_kvtp.harness.plugin" in ours,
    "ours loaded": ours,
    "models": AVAILABLE_MODELS,
    "index": manager.task_index,
    "configs": {name: named(manager._get_config(name)) for name in ("mme", "videomme", "egoschema_subset")},
    "environment": {key: value for key, value in os.environ.items() if environment.get(key) != value},
    "requests": requests,
    "samples": results["samples"],
    "results": results["results"],
    "versions": results["versions"],
}
json.dump(seen, open(out, "w"), default=str)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("invisible")
    lookalike.write_task(folder / "task", "stock_like", videos=2, questions=2)
    environment = {key: value for key, value in os.environ.items() if key != "HF_HOME"}
    runs = {}
    for kind in ("with", "without"):
        command = [sys.executable, "-P", "-c", RUN, kind, str(folder / "task"), str(folder / f"{kind}.json")]
        home = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / kind), "OMP_NUM_THREADS": "1"}
        with (folder / f"{kind}.log").open("w") as log:
            runs[kind] = subprocess.Popen(command, cwd=folder, env=environment | home, stdout=log, stderr=log)
    for kind, run in runs.items():
        assert run.wait() == 0, (folder / f"{kind}.log").read_text()[-2000:]
    return {kind: json.loads((folder / f"{kind}.json").read_text()) for kind in runs}


def test_the_plugin_was_there_once_and_not_the_other_time(seen):
    assert (seen["with"]["plugin"], seen["without"]["plugin"]) == (True, False)
    ours = set(seen["with"]["models"]) - set(seen["without"]["models"])
    assert "llava_video_kvtp" in ours


@pytest.mark.parametrize("part", ["requests", "samples", "results", "versions", "configs", "environment"])
def test_stock_runs_are_the_same(seen, part):
    assert seen["with"][part] == seen["without"][part]
    assert seen["with"][part] or part == "environment"


@pytest.mark.parametrize("part", ["models", "index"])
def test_only_names_are_added(seen, part):
    assert {name: seen["with"][part][name] for name in seen["without"][part]} == seen["without"][part]
    added = set(seen["with"][part]) - set(seen["without"][part])
    assert added and all(name in MODELS | CHAT or name.startswith("skvqa") for name in added)


def test_a_stock_run_loads_only_the_entry_point_of_ours(seen):
    ours = ["lmms_kvtp.harness", "lmms_kvtp.harness.after_import", "lmms_kvtp.harness.plugin"]
    assert seen["with"]["ours loaded"] == ours
