"""`lmms-kvtp check` on a small task in the harness's own form, with real files."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import huggingface_hub
import lmms_eval.api.task as harness_tasks
import pytest
import torch
from helpers import lookalike, skvqa_lookalikes

from lmms_kvtp.__main__ import main
from lmms_kvtp.forecast.forecast import forecast
from lmms_kvtp.forecast.machine import hours, memory
from lmms_kvtp.forecast.models import find_spec
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import method_settings
from lmms_kvtp.shipped import tiny_folder


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Three videos with two questions each; the last video is missing."""
    docs = lookalike.write_task(tmp_path / "lookalike_check", "lookalike_check", videos=3, questions=2)
    gone = Path(docs[0]["video_path"]).parent / "clip2.mp4"
    os.remove(gone)
    monkeypatch.chdir(tmp_path / "lookalike_check")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    import lmms_kvtp.harness.preflight as preflight

    manager = preflight.TaskManager
    monkeypatch.setattr(preflight, "TaskManager", lambda **given: manager(**given, include_defaults=False))
    return gone


@pytest.mark.filterwarnings("default")  # the harness and its data sets library warn of their own affairs
def test_missing_videos_are_listed_and_memory_and_hours_are_told(task, tmp_path, capsys):
    listed = tmp_path / "missing.txt"
    arguments = [
        "--tasks",
        "lookalike_check",
        "--include_path",
        str(tmp_path),
        "--model_args",
        "pretrained=tiny,device=cpu,max_frames_num=8",
    ]
    assert main(["check", *arguments, "--missing", str(listed)]) == 1
    shown = capsys.readouterr().out
    assert f"missing: {task}" in shown
    assert listed.read_text() == f"{task}\n"
    row = next(line for line in shown.splitlines() if line.startswith("| lookalike_check"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["lookalike_check", "6", "2", "1"]
    assert "memory: about" in shown and "hours at the most" in shown


def cost_of(method: str, model: str = "llava-video-7b", frames: int = 128):
    spec = find_spec(model)
    return spec, forecast(spec, build_method(method_settings(method), KVTP), frames).cost


def test_weights_of_the_released_sizes_are_as_large_as_their_files():
    assert find_spec("llava-video-7b").parameters * 2 == pytest.approx(16e9, rel=0.03)
    assert find_spec("llava-video-72b").parameters * 2 == pytest.approx(146e9, rel=0.02)


def test_caches_are_those_of_grouped_queries():
    spec, cost = cost_of("full")
    needed = memory(spec, spec.pool(), cost, element=2)
    assert needed.cache == 2 * 28 * 4 * 128 * (cost.prompt_tokens + cost.output_tokens) * 2
    assert needed.total > needed.weights + needed.cache


def test_pruning_saves_memory_and_time():
    (spec, full), (_, pruned) = cost_of("full"), cost_of("random")
    assert memory(spec, spec.pool(), pruned, 2).cache < 0.25 * memory(spec, spec.pool(), full, 2).cache
    assert hours(pruned, 10, 100, 1e14, 1.0) < hours(full, 10, 100, 1e14, 1.0)


def test_videos_are_paid_once_and_questions_each_time():
    _, cost = cost_of("random")
    one, two = hours(cost, 10, 10, 1e14, 3.0), hours(cost, 10, 20, 1e14, 3.0)
    own = cost.flops["prefill"] + cost.flops["generate"]
    assert two - one == pytest.approx(10 * own / 0.4e14 / 3600)


def test_a_matrix_rate_is_measured():
    from lmms_kvtp.forecast.machine import matrix_rate

    assert matrix_rate(torch.device("cpu"), torch.float32, seconds=0.01) > 1e7


def test_the_embedded_model_comes_with_its_own_encoder():
    spec = find_spec("tiny")
    assert spec.default_encoder.endswith("siglip") and spec.parameters < 1e7


def problems_of(capsys, tasks: str, *more: str) -> list[str]:
    """What `check` finds wrong; it ends with status 1."""
    given = ["--model_args", "pretrained=tiny,device=cpu,max_frames_num=8", *more]
    assert main(["check", "--tasks", tasks, *given]) == 1
    lines = capsys.readouterr().out.splitlines()
    return [line.removeprefix("problem: ") for line in lines if line.startswith(("problem: ", "missing: "))]


@pytest.mark.filterwarnings("default")
def test_an_unknown_task_is_named_with_near_ones(task, tmp_path, capsys):
    near = "no task named 'lookalike_chek'; did you mean lookalike_check?"
    assert problems_of(capsys, "lookalike_chek,xyz", "--include_path", str(tmp_path)) == [
        near,
        "no task named 'xyz'; `lmms-eval tasks` lists them",
    ]
    with pytest.raises(SystemExit):
        main(["check", "--tasks", ", ", "--model_args", "pretrained=tiny"])
    assert "tasks ', ' name no task" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check", "--tasks", "lookalike_check", "--model_args", "pretrained=tiny", "--include_path", "nowhere"])
    assert "--include_path nowhere is no folder" in capsys.readouterr().err


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No hub, no index, and a home of data sets below `hf`."""
    monkeypatch.delenv("LMMS_KVTP_SKVQA_INDEX", raising=False)
    monkeypatch.setenv("LMMS_KVTP_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf" / "datasets")
    monkeypatch.setattr(harness_tasks, "_resolve_hf_datasets_cache_dir", lambda: str(tmp_path / "hf" / "datasets"))


WAY = "connect to the hub, log in (`hf auth login`), or copy it below HF_HOME"


@pytest.mark.filterwarnings("default")
def test_every_problem_of_every_task_is_one_line_and_sound_tasks_are_measured(task, tmp_path, capsys):
    [yaml] = Path.cwd().glob("*.yaml")
    for name, line in (("broken", "nobody.there"), ("exits", "local.leave"), ("gone", None)):
        text = yaml.read_text().replace("lookalike_check", f"lookalike_{name}")
        changed = f"{text}process_docs: !function {line}\n" if line else text.replace("docs.jsonl", "gone.jsonl")
        (Path.cwd() / f"{name}.yaml").write_text(changed)
    (Path.cwd() / "local.py").write_text("def leave(rows):\n    raise SystemExit('no such\\nvideo')\n")
    (tmp_path / "all.yaml").write_text("group: all_of_them\ntask: [lookalike_gone, lookalike_check, lookalike_exits]\n")
    told = problems_of(capsys, "lookalike_broken,all_of_them,lookalike_gone,nosuch", "--include_path", str(tmp_path))
    assert len(told) == 5
    assert told[0].startswith("lookalike_broken: ") and "nobody" in told[0]
    assert told[1].startswith("lookalike_gone: data set json is not to be had: ") and told[1].endswith(WAY)
    assert "gone.jsonl" in told[1]
    assert told[2].startswith("lookalike_exits: the task does not load: SystemExit: no such; ")
    assert told[2:] == [
        told[2],
        "no task named 'nosuch'; `lmms-eval tasks` lists them",
        f"missing: {task}",
    ]
    task.write_bytes((task.parent / "clip1.mp4").read_bytes())
    assert problems_of(capsys, "lookalike_check,nosuch", "--include_path", str(tmp_path)) == told[3:4]


@pytest.mark.filterwarnings("default")
def test_without_index_nothing_is_downloaded_and_what_else_is_missing_is_told(offline, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(harness_tasks, "snapshot_download", lambda **_: pytest.fail("it was downloaded"))
    told = problems_of(capsys, "skvqa_nextqa,skvqa")
    assert told[0].startswith("the hub cannot be reached")
    for name, lines in zip(("nextqa", "videomme", "egoschema"), (told[1:4], told[4:7], told[7:]), strict=True):
        index, data, videos = lines
        assert index.startswith(f"skvqa_{name}: no SparseKV-QA index of {name}: ")
        assert index.endswith(f"(docs/skvqa.md), and skvqa_{name}_full needs none")
        assert data.startswith(f"skvqa_{name}: data set lmms-eval/") and data.endswith(f"not on this machine; {WAY}")
        assert videos.startswith(f"skvqa_{name}: no videos: {tmp_path / 'hf' / name} is not there; ")


@pytest.mark.filterwarnings("default")
def test_missing_videos_of_our_tasks_are_listed_like_others(offline, tmp_path, capsys, monkeypatch):
    skvqa_lookalikes.write_harness_cache(tmp_path / "hf", seconds=2, videos=2)
    gone = tmp_path / "hf" / "egoschema" / "videos" / "uuid-1.mp4"
    gone.unlink()
    monkeypatch.setenv("LMMS_KVTP_SKVQA_MISSING", "error")
    assert problems_of(capsys, "skvqa_egoschema_full") == [f"missing: {gone}"]
    assert os.environ["LMMS_KVTP_SKVQA_MISSING"] == "error"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_args", "pretrained=tiny,pruner=prunmerge"], "did you mean prumerge"),
        (["--model_args", "pretrained=tiny", "--limit", "0"], "0 is no whole number of at least 1"),
        (["--model_args", "pretrained=tiny", "--limit=-3"], "-3 is no whole number of at least 1"),
        (["--model_args", "pretrained"], "not of the form name=value"),
    ],
)
def test_wrong_settings_are_refused_before_tasks_are_looked_for(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["check", "--tasks", "no such task", *arguments])
    assert message in capsys.readouterr().err


def test_the_tasks_of_this_package_are_known():
    """In a process of its own: here the harness's models, and the plug-ins with them, may have been imported before."""
    code = "import lmms_kvtp.harness.preflight, lmms_eval.tasks; print(lmms_eval.tasks._lmms_kvtp)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


def test_a_checkpoint_without_weights_is_no_checkpoint(tmp_path, capsys):
    for file in tiny_folder().glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(SystemExit) as stopped:
        main(["check", "--tasks", "skvqa_synth", "--model_args", f"pretrained={tmp_path}"])
    assert stopped.value.code == 2
    assert "has neither model.safetensors.index.json nor model.safetensors" in capsys.readouterr().err
