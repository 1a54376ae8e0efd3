"""Stored results: their schema, and what counts as worse."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
from helpers.harness_files import read_board, samples, write_base, write_run

from lmms_kvtp.__main__ import main
from lmms_kvtp.leaderboard.page import to_html
from lmms_kvtp.leaderboard.results import bands, write_results
from lmms_kvtp.run.source import of_weights
from lmms_kvtp.shipped import tiny_folder

FOLDER = Path(__file__).parents[2] / "leaderboard"
SCHEMA = json.loads((FOLDER / "schema.json").read_text())
BASE, OURS = [1, 1, 1, 1, 1, 0, 1, 1], [1, 1, 0, 1, 0, 0, 1, 0]


SHIPPED = of_weights(tiny_folder())[:12]
STORED = sorted((FOLDER / "results").glob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_every_stored_result_keeps_to_the_schema_and_is_of_committed_code(path):
    result = json.loads(path.read_text())
    jsonschema.validate(result, SCHEMA)
    assert result["commit"] and result["dirty"] is False and not result["gates"].startswith("failed")
    assert result["model"] == f"tiny {SHIPPED} float32", "another model made it than the one that is shipped"
    assert not re.search(r'["=, ]/[a-z]', path.read_text()), "it names a folder of the machine that made it"


def test_all_tokens_and_nine_methods_are_stored():
    results = [json.loads(path.read_text()) for path in STORED]
    assert {(result["keep_ratio"], result["questions"]) for result in results} == {(1.0, 100), (0.2, 100)}
    assert len({result["method"] for result in results}) >= 10


def stored(tmp_path, scores, **changes) -> Path:
    write_base(tmp_path / "runs" / "full", BASE)
    write_run(tmp_path / "runs" / "random", samples(scores, **changes))
    write_results(read_board(tmp_path / "runs"), tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize("cost", [None, {"tokens_kept": 5, "tokens_before": 9}])
def test_what_is_written_keeps_to_the_schema(tmp_path, cost):
    folder = stored(tmp_path, OURS, cost=cost)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["skvqa_synth__all_tokens__1.json", "skvqa_synth__random__0.25.json"]
    for path in folder.iterdir():
        jsonschema.validate(json.loads(path.read_text()), SCHEMA)


def test_rows_whose_names_begin_alike_have_files_of_their_own(tmp_path):
    start = "lmms_kvtp.pruners.random:" + "R" * 90
    for end in ("a", "b", "é"):
        write_run(tmp_path / f"runs_{end}", samples(OURS), parts={"pruner": {"class": start + end}})
    for number in (1, -1):
        parts = {"pruner": {"class": "a:Mine", "layer": number}}
        write_run(tmp_path / f"runs_{number}", samples(OURS), parts=parts)
    write_results(read_board(tmp_path), tmp_path / "results")
    files = list((tmp_path / "results").iterdir())
    assert len({json.loads(file.read_text())["method"] for file in files}) == len(files) == 5
    assert max(len(file.name) for file in files) < 200


def test_the_schema_refuses_a_row_without_command():
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"method": "x"}, SCHEMA)


def worse(board, folder: Path) -> list[str]:
    return [band.fall for band in bands(board, folder).values() if band.fall]


def test_a_fall_beyond_the_noise_is_a_regression(tmp_path, capsys):
    folder = stored(tmp_path, BASE)
    assert worse(read_board(tmp_path / "runs"), folder) == []
    write_run(tmp_path / "runs" / "random", samples([0] * 8))
    [line] = worse(read_board(tmp_path / "runs"), folder)
    assert line == "random, skvqa_synth: 0.0 % now, 64.1 to 100.0 in skvqa_synth__random__0.25.json"
    command = ["leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--against", str(folder)]
    assert main(command) == 1
    assert f"! {line}" in capsys.readouterr().out
    assert main([*command, "--results", str(folder)]) == 1, "compared with what was stored before"
    assert json.loads((folder / "skvqa_synth__random__0.25.json").read_text())["accuracy"]["mean"] == 0
    assert main(command) == 0


def test_a_rise_is_no_regression(tmp_path):
    folder = stored(tmp_path, [0] * 8)
    write_run(tmp_path / "runs" / "random", samples(BASE))
    assert worse(read_board(tmp_path / "runs"), folder) == []


def test_a_fall_within_the_noise_and_other_questions_are_none(tmp_path):
    folder = stored(tmp_path, OURS)
    write_run(tmp_path / "runs" / "random", samples([1, 1, 0, 0, 0, 0, 1, 0]))
    assert worse(read_board(tmp_path / "runs"), folder) == []
    write_run(tmp_path / "runs" / "random", samples([0] * 6))
    assert worse(read_board(tmp_path / "runs", allow=["questions"]), folder) == []


ONE_ROW = '{"model": "m", "questions": 6, "accuracy": {"mean": %s, "stderr": %s}}'


@pytest.mark.parametrize("text", ["{}", "[" * 5000, ONE_ROW % ('"x"', 1), ONE_ROW % (1, '"x"')])
def test_a_damaged_result_is_named(tmp_path, text):
    folder = stored(tmp_path, OURS)
    (folder / "skvqa_synth__random__0.25.json").write_text(text)
    with pytest.raises(ValueError, match=r"random__0.25.json is no stored result: (Key|Value)Error\("):
        worse(read_board(tmp_path / "runs"), folder)


def test_a_band_is_two_errors_to_either_side_of_what_is_stored(tmp_path):
    folder, board = stored(tmp_path, OURS), read_board(tmp_path / "runs")
    found = bands(board, folder)
    score = board.rows[1].scores["skvqa_synth"].accuracy
    low, high = max(0, score.mean - 2 * score.stderr), min(100, score.mean + 2 * score.stderr)
    assert found["random, 25%", "skvqa_synth"].text == f"{low:.1f} to {high:.1f}"
    assert f">{low:.1f} to {high:.1f}</span>" in to_html(board, [], {}, {}, bands=found)


def test_a_result_of_another_model_is_refused(tmp_path):
    folder = stored(tmp_path, OURS)
    path = folder / "skvqa_synth__random__0.25.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "tiny 0000"}))
    with pytest.raises(
        ValueError, match=r"0.25.json is of the model tiny 0000, and the row of tiny abcdef.*renew it with"
    ):
        bands(read_board(tmp_path / "runs"), folder)


def test_uncommitted_changes_are_not_stored(tmp_path):
    write_run(tmp_path, samples(OURS), dirty=True)
    with pytest.raises(ValueError, match="random, 25% is of uncommitted changes, so nobody could repeat it"):
        write_results(read_board(tmp_path), tmp_path / "results")
