"""Which runs stand in a table, and what the table says of them."""

import json
from pathlib import Path

import pytest
from harness_files import COST, PARTS, sample, samples, write_base, write_run

from lmms_kvtp.leaderboard.board import build
from lmms_kvtp.leaderboard.entries import ALLOW
from lmms_kvtp.leaderboard.formats import to_markdown
from lmms_kvtp.leaderboard.gates import read_gates
from lmms_kvtp.leaderboard.judging import judge
from lmms_kvtp.leaderboard.page import to_html
from lmms_kvtp.leaderboard.plots import points
from lmms_kvtp.leaderboard.provenance import command
from lmms_kvtp.leaderboard.records import to_csv

BASE, OURS = [1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 0, 0]
KVTP = {
    "scorer": {"class": "lmms_kvtp.scorers.similarity:Similarity"},
    "allocator": {"class": "lmms_kvtp.allocators.softmax:Softmax", "temperature": 2.0},
    "pruner": {"class": "lmms_kvtp.pruners.prumerge:PruMerge"},
}


def runs(folder: Path, **changes) -> Path:
    write_base(folder / "full", BASE)
    write_run(folder / "random", samples(OURS), **changes)
    return folder


def names(board) -> list[str]:
    return [row.name for row in board.rows]


def test_rows_carry_measured_tokens_costs_and_pairs_against_the_unpruned_model(tmp_path):
    board = build([runs(tmp_path)])
    full, random = board.rows
    cell = random.cells["skvqa_synth"]
    assert names(board) == ["all tokens", "random"]
    assert (full.keep_ratio, random.keep_ratio) == (1.0, 0.25)
    assert cell.accuracy.mean == pytest.approx(50)
    assert cell.difference.mean == pytest.approx(-100 / 3)
    assert random.relative.mean == pytest.approx(60)
    assert (cell.cost.tokens_kept, cell.cost.flops, cell.cost.seconds) == (25, 8_000_000, 0.5 + 0.25 / 2)
    assert full.cells["skvqa_synth"].difference is None
    kinds = {kind: value.mean for kind, value in cell.kinds.items()}
    assert kinds == pytest.approx({"color": 100 / 3, "end": 200 / 3})


def test_the_error_of_a_relative_accuracy_is_that_of_a_ratio(tmp_path):
    [_, random] = build([runs(tmp_path)]).rows
    ratio, base = 0.6, 5 / 6
    parts = [(s - ratio * t) / base for s, t in zip(OURS, BASE, strict=True)]  # mean 0
    own = sum(d * d for d in parts) / 5 / 6
    cross = sum(2 * parts[i] * parts[i + 1] for i in (0, 2, 4)) / 36
    assert random.relative.stderr == pytest.approx(100 * (own + cross) ** 0.5)


def test_the_average_needs_every_task(tmp_path):
    runs(tmp_path / "one")
    write_base(tmp_path / "two" / "full", [1, 1, 0, 1], "other")
    board = build([tmp_path])
    full, random = board.rows
    assert board.tasks == ("other", "skvqa_synth")
    assert full.relative.mean == pytest.approx(100)
    assert random.relative is None
    write_run(tmp_path / "two" / "random", samples([1, 0, 0, 1]), "other")
    [_, random] = build([tmp_path]).rows
    errors = [random.cells[task].relative.stderr for task in ("other", "skvqa_synth")]
    assert random.relative.mean == pytest.approx((60 + 100 * 2 / 3) / 2)
    assert random.relative.stderr == pytest.approx(sum(e * e for e in errors) ** 0.5 / 2)


@pytest.mark.parametrize(
    ("facet", "changes"),
    [
        ("tasks", {"task_version": 2.0}),
        ("selection", {"told": {"selection,none": "beta 1.5, at least 64 frames, index 0a1b2c3d4e5f"}}),
        ("frames", {"frames": 32}),
        ("model", {"model": "other"}),
        ("versions", {"harness": "0.7.2"}),
        ("versions", {"version": "0.2.0"}),
        ("dirty", {"dirty": True}),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused_unless_told(tmp_path, facet, changes):
    board = build([runs(tmp_path, **changes)])
    assert names(board) == ["all tokens"]
    assert board.refused == 1
    assert "random, skvqa_synth" in board.left[0].what
    assert facet in board.left[0].why
    assert names(build([tmp_path], allow=[facet])) == ["all tokens", "random"]


def test_how_frames_are_read_makes_no_difference(tmp_path):
    assert names(build([runs(tmp_path, chunk_size=2)])) == ["all tokens", "random"]


def test_runs_of_other_questions_are_refused_and_never_paired(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "random", samples(OURS[:4]))
    board = build([tmp_path])
    assert names(board) == ["all tokens"]
    assert "another set of questions: 4 questions, q0 to q3" in board.left[0].why
    [_, random] = build([tmp_path], allow=["questions"]).rows
    assert random.cells["skvqa_synth"].difference is None
    assert random.relative is None


def test_failed_gates_refuse_a_row_and_missing_ones_are_shown(tmp_path):
    runs(tmp_path)
    record = {"method": {**PARTS, "keep_ratio": 0.5}, "gates": [{"name": "exact budget", "passed": False}]}
    (tmp_path / "gates.json").write_text(json.dumps(record))
    gates = read_gates([tmp_path / "gates.json"])
    board = build([tmp_path], gates)
    assert names(board) == ["all tokens"]
    assert "gates failed: exact budget" in board.left[0].why
    assert [row.gates for row in build([tmp_path], gates, ["gates"]).rows] == ["not run", "failed: exact budget"]


def test_passed_gates_count_and_skipped_ones_do_not(tmp_path):
    gate = [{"name": "a", "passed": True}, {"name": "b", "passed": None}, {"name": "c", "passed": True}]
    (tmp_path / "gates.json").write_text(json.dumps([{"method": PARTS, "gates": gate}]))
    [record] = read_gates([tmp_path / "gates.json"])
    assert record.status == "passed 2"


def test_a_foreign_record_of_gates_is_named(tmp_path):
    (tmp_path / "gates.json").write_text('{"method": {}}')
    with pytest.raises(ValueError, match=r"gates.json is no record of lmms-kvtp doctor: KeyError"):
        read_gates([tmp_path / "gates.json"])


def test_bad_files_are_listed_and_do_not_stop_the_table(tmp_path):
    runs(tmp_path)
    (tmp_path / "notes_results.json").write_text("not json")
    (tmp_path / "list_results.json").write_text("[1]")
    (tmp_path / "foreign_results.json").write_text('{"scores": 3}')
    for place in ("more", "random/journal"):  # the second is a sweep's, whose results lie beside it
        (tmp_path / place).mkdir()
        journal = tmp_path / place / "20260101_000000_journal_rank0.jsonl"
        journal.write_text('{"journal": 1}\n{"key": "a"}\n{"key": "b"}\n')
    write_run(tmp_path / "nan", samples([1, float("nan"), 0]), keep_ratio=0.5)
    write_run(tmp_path / "silent", [], keep_ratio=0.6)
    board = build([tmp_path])
    reasons = {Path(item.what.rpartition(": ")[2]).name: item.why for item in board.left}
    assert names(board) == ["all tokens", "random"]
    assert reasons["notes_results.json"].startswith("not JSON")
    assert reasons["list_results.json"] == "not a results file of the harness: no JSON object"
    assert reasons["foreign_results.json"] == "not a results file of the harness: it lacks config and results"
    assert reasons["20260101_000000_journal_rank0.jsonl"].startswith("interrupted after 2 answers")
    assert any("score nan is not within 0 and 1" in item.why for item in board.left)
    assert any("holds no sample" in item.why for item in board.left)
    assert (board.refused, len(board.left)) == (2, 6)


def test_cached_answers_have_no_cost_and_are_counted(tmp_path):
    write_base(tmp_path / "full", BASE)
    rows = [*samples(OURS[:4]), sample(4, 0.0, "v2", cost=None), sample(5, 0.0, "v2", "end", cost={"error": "gone"})]
    write_run(tmp_path / "random", rows)
    board = build([tmp_path])
    assert board.rows[1].cells["skvqa_synth"].cost.count == 4
    assert board.notes[1:] == (
        "random, skvqa_synth: 1 of 6 questions failed and count as wrong",
        "random, skvqa_synth: 1 of 6 answers carry no cost (cached)",
    )


def test_a_run_of_cached_answers_only_has_no_ratio(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "random", samples(OURS, cost=None))
    [_, random] = build([tmp_path]).rows
    assert random.keep_ratio is None
    assert random.cells["skvqa_synth"].cost is None


def test_the_newer_of_two_equal_runs_counts(tmp_path):
    runs(tmp_path)
    write_run(tmp_path / "random", samples([1] * 6), stamp="20260102_000000")
    board = build([tmp_path])
    assert board.rows[1].cells["skvqa_synth"].accuracy.mean == 100
    assert "superseded by 20260102_000000_results.json" in board.left[0].why
    assert board.refused == 0


def test_two_runs_in_one_sample_file_are_refused(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "random", samples(OURS) + samples(OURS))
    board = build([tmp_path])
    assert "has question 'q0' again" in board.left[0].why


def test_rows_of_one_label_are_told_apart_by_what_differs(tmp_path):
    write_base(tmp_path / "full", BASE)
    for temperature in (1.0, 2.0):
        allocator = {"class": KVTP["allocator"]["class"], "temperature": temperature}
        parts = {**KVTP, "allocator": allocator}
        write_run(tmp_path / str(temperature), samples(OURS), parts=parts)
    assert names(build([tmp_path])) == [
        "all tokens",
        "KVTP + PruMerge (allocator.temperature=1.0)",
        "KVTP + PruMerge (allocator.temperature=2.0)",
    ]


def test_sparsity_is_binned_by_ranges_in_order(tmp_path):
    rows = [sample(i, 1.0, f"v{i}", sparsity=value) for i, value in enumerate([1.2, 1.5, 1.69, 2.4, 9.0])]
    write_run(tmp_path, rows)
    [row] = build([tmp_path]).rows
    counts = {name: value.count for name, value in row.cells["skvqa_synth"].sparsities.items()}
    assert list(counts.items()) == [("0 to 1.5", 1), ("1.5 to 2", 2), ("2 to 3", 1), ("5 and more", 1)]


def test_the_command_repeats_the_run(tmp_path):
    board = build([runs(tmp_path, model_args="pretrained=tiny,pruner=my pkg")])
    [repeat] = board.rows[1].commands
    assert repeat == (
        "lmms-eval --model llava_video_kvtp --model_args 'pretrained=tiny,pruner=my pkg' --tasks skvqa_synth "
        "--log_samples --output_path OUT"
    )


def test_options_that_are_not_defaults_stand_in_the_command():
    arguments = {"tasks": "a,b", "limit": 1.0, "batch_size": 4, "offset": 0, "seed": [1, 2, 3, 4], "device": None}
    config = {"model": "m", "model_args": "x=1", "resolved_cli_args": arguments}
    options = "--batch_size 4 --limit 1 --seed 1,2,3,4 --log_samples --output_path OUT"
    assert command(config) == f"lmms-eval --model m --model_args x=1 --tasks a,b {options}"


def test_a_folder_without_runs_says_why(tmp_path):
    (tmp_path / "foreign_results.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no finished run below .*\n  .*foreign_results.json: not a results"):
        build([tmp_path])
    with pytest.raises(FileNotFoundError, match="no folder"):
        build([tmp_path / "absent"])


def test_where_every_run_is_refused_the_reasons_stand_in_the_message(tmp_path):
    write_run(tmp_path, samples(OURS), dirty=True)
    with pytest.raises(ValueError, match=r"no run is left to show:\n  random.*its tree had changes"):
        build([tmp_path])


def test_stock_models_have_rows_without_cost(tmp_path):
    write_run(tmp_path, samples(OURS, cost=None))
    path = next(tmp_path.rglob("*_results.json"))
    content = json.loads(path.read_text())
    del content["config"]["resolved_cli_args"]["lmms_kvtp"]
    content["config"] |= {"model": "llava_vid", "model_args": "pretrained=x"}
    path.write_text(json.dumps(content))
    [row] = build([tmp_path]).rows
    assert (row.name, row.provenance.commit) == ("llava_vid pretrained=x", "feedbee")


def test_every_name_of_the_command_is_known():
    from lmms_kvtp.commands.leaderboard import FACETS

    assert set(FACETS) == set(ALLOW)


def test_peak_memory_is_the_largest_and_flops_need_every_answer(tmp_path):
    costs = [{**COST, "peak_bytes": 5}, {**COST, "peak_bytes": 9, "flops": {}}]
    write_run(tmp_path, [sample(i, 1.0, f"v{i}", cost=cost) for i, cost in enumerate(costs)])
    [row] = build([tmp_path]).rows
    cost = row.cells["skvqa_synth"].cost
    assert (cost.peak_bytes, cost.flops) == (9, None)


def test_seconds_leave_out_the_warm_up_and_say_that_they_are_of_a_sweep(tmp_path):
    slow = {**COST, "seconds": {"prefill": 50.0}, "cold": True}
    rows = samples(BASE, cost={**COST, "swept": True})
    rows[0] |= {"token_counts": [slow]}
    rows[1] |= {"token_counts": [slow]}
    write_run(tmp_path / "full", rows, parts={"pruner": {"class": "lmms_kvtp.pruners.none:Unpruned"}}, keep_ratio=1.0)
    write_run(tmp_path / "random", samples(OURS))
    board = build([tmp_path])
    full, random = (row.cells["skvqa_synth"].cost for row in board.rows)
    assert full.seconds == pytest.approx(0.5 + 0.25 / 2) and full.count == 6
    assert (full.swept, random.swept) == (True, False)
    assert any("seconds marked shared (all tokens) are of a sweep" in note for note in board.notes)
    axis = "seconds per question"
    assert [point.name for point in points(board.rows, "skvqa_synth", axis)] == ["random, 25%"]
    table = " ".join(to_markdown(board, [], {}).split())
    assert "| 0.62 shared |" in table and "| 0.62 |" in table
    page = to_html(board, [], {})
    assert page.count('title="of a sweep') == 1
    assert ",True," in to_csv(board) and ",False," in to_csv(board)


def test_one_method_at_two_ratios_is_two_rows_everywhere(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "quarter", samples(OURS))
    write_run(tmp_path / "half", samples(BASE, cost={**COST, "tokens_kept": 50}), keep_ratio=0.5)
    board = build([tmp_path])
    judged = judge(board)
    assert [one.name for one in judged["skvqa_synth"]] == ["random, 50%", "random, 25%"]
    page = to_html(board, [], judged)
    for title in ("all tokens", "random, 50%", "random, 25%"):
        assert page.count(f"<tr><td>{title}</td>") == 1 + (title != "all tokens")  # kinds, and the verdicts
    numbers = {point.name: point.number for point in points(board.rows, "skvqa_synth", "TFLOPs per question")}
    assert numbers == {"all tokens": 0, "random, 50%": 1, "random, 25%": 2}
