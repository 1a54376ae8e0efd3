"""The commands that `reproduce` prints are commands that run, and its figures are the paper's."""

import json
import shlex
from pathlib import Path

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.harness.plugin import MODELS
from lmms_kvtp.leaderboard.provenance import paper_rows
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.model_wrappers import baselines
from lmms_kvtp.reproduce.plan import HARNESS_TASKS, TARGETS, Places, beside, plan
from lmms_kvtp.run.options import parse_arguments
from lmms_kvtp.settings import pairs

ROOT = Path(__file__).parents[2]


def words(command: str) -> dict[str, str]:
    """Options of a harness command."""
    found = shlex.split(command)
    found = found[1:] if "=" in found[0] else found
    assert found[0] == "lmms-eval"
    rest = [word for word in found[1:] if word != "--log_samples"]
    return dict(zip(rest[::2], rest[1::2], strict=True))


@pytest.mark.parametrize("target", TARGETS)
def test_every_harness_command_has_a_model_id_and_arguments_that_parse(target):
    for step in plan(target, Places()).steps:
        if not step.folder:
            assert step.command.startswith("lmms-kvtp ")
            continue
        given = words(step.command)
        arguments = parse_arguments(pairs(given["--model_args"]))
        class_name = MODELS[given["--model"]][0].rpartition(".")[2]
        defaults = getattr(getattr(baselines, class_name), "defaults", {})
        method = build_method({**defaults, **arguments.method}, {**KVTP, **defaults})
        assert arguments.frames.max_frames_num == 128 and arguments.load.mm_spatial_pool_mode == "average"
        assert method.keep_ratio in (0.2, 1.0)
        for task in given["--tasks"].split(","):
            assert (ROOT / "tasks" / "skvqa" / f"{task}.yaml").is_file()


def test_folders_of_a_target_differ():
    for target in TARGETS:
        folders = [step.folder for step in plan(target, Places()).steps if step.folder]
        assert len(folders) == len(set(folders))


@pytest.mark.parametrize(("table", "best"), [(2, (63.29, 54.71, 76.76)), (3, (67.34, 64.12, 81.21))])
def test_the_figures_are_the_papers(table, best):
    rows = paper_rows(table)
    assert len(rows) == 9
    assert {row.method: tuple(row.scores.values()) for row in rows}["KVTP + PruMerge"] == best
    assert all(tuple(row.scores) == tuple(HARNESS_TASKS) for row in rows)
    differ = {row.method: row.note for row in rows if row.page_flops is not None}
    assert set(differ) == {"random", "ToMe", "PruMerge"}  # where table and project page disagree
    told = {row.method: f"the project page has FLOPs x{row.page_flops:g}% and" for row in rows if row.page_flops}
    assert all(told[name] in note for name, note in differ.items())


def test_table_four_is_in_the_order_of_the_other_tables():
    [gpt, _, kvtp] = plan("table4", Places()).steps
    assert gpt.expected == {"VideoMME": 62.83, "EgoSchema": 53.33, "NExT-QA": 75.96}
    assert kvtp.expected == plan("table2", Places()).steps[-1].expected


def test_the_predictor_reaches_the_rows_of_kvtp_alone():
    steps = plan("table2", Places(predictor="my/predictor")).steps
    assert [step.name for step in steps if "my/predictor" in step.command] == [
        "KVTP + random",
        "KVTP + ToMe",
        "KVTP + PruMerge",
    ]


def test_a_dry_run_prints_commands_and_figures(capsys):
    assert main(["reproduce", "table2", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("lmms-eval --model") == 9 and "63.29" in shown and "re-trained" in shown


def test_finished_runs_stand_beside_the_paper(tmp_path):
    chosen = plan("table2", Places(out=str(tmp_path)))
    folder = Path(chosen.steps[-1].folder) / "model"
    folder.mkdir(parents=True)
    (folder / "20260101_000000_results.json").write_text(json.dumps({"configs": {}}))
    counts = {"tokens_before": 100, "tokens_kept": 20}
    scored = [{"score": 0.0, "stock_acc": {"score": float(i < 3)}, "token_counts": [counts]} for i in range(4)]
    rows = [{"doc_id": i, "question_id": f"q{i}", "video_id": f"v{i}", **row} for i, row in enumerate(scored)]
    name = f"20260101_000000_samples_{HARNESS_TASKS['VideoMME']}.jsonl"
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = beside(chosen).splitlines()
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells[:4] == ["KVTP + PruMerge", "63.29", "75.0 ± 25.0", "+11.7"]
    assert cells[4:6] == ["54.71", "not run"] and cells[-1] == "20.0%"
    assert lines[2].count("not run") == len(HARNESS_TASKS)
