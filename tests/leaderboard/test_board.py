"""What a table says of the runs that stand in it."""

import json

import pytest
from helpers.harness_files import ALL, BASE, COST, OURS, read_board, sample, samples, write_base, write_pair, write_run

from lmms_kvtp.leaderboard.page import points, to_html
from lmms_kvtp.leaderboard.provenance import command
from lmms_kvtp.leaderboard.results import row_json, to_csv
from lmms_kvtp.leaderboard.tables import to_markdown
from lmms_kvtp.leaderboard.verdicts import judge

KVTP = {
    "scorer": {"class": "lmms_kvtp.scorers.similarity:Similarity"},
    "allocator": {"class": "lmms_kvtp.allocators.softmax:Softmax", "temperature": 2.0},
    "pruner": {"class": "lmms_kvtp.pruners.prumerge:PruMerge"},
}


def names(board) -> list[str]:
    return [row.name for row in board.rows]


def test_rows_carry_measured_tokens_costs_and_pairs_against_the_unpruned_model(tmp_path):
    board = read_board(write_pair(tmp_path))
    full, random = board.rows
    score = random.scores["skvqa_synth"]
    assert names(board) == ["all tokens", "random"]
    assert (full.keep_ratio, random.keep_ratio) == (1.0, 0.25)
    assert score.accuracy.mean == pytest.approx(50)
    assert score.difference.mean == pytest.approx(-100 / 3)
    assert random.relative.mean == pytest.approx(60)
    assert (score.cost.tokens_kept, score.cost.flops, score.cost.seconds) == (25, 8_000_000, 0.5 + 0.25 / 2)
    assert full.scores["skvqa_synth"].difference is None
    kinds = {kind: value.mean for kind, value in score.kinds.items()}
    assert kinds == pytest.approx({"color": 100 / 3, "end": 200 / 3})


def test_the_error_of_a_relative_accuracy_is_that_of_a_ratio(tmp_path):
    [_, random] = read_board(write_pair(tmp_path)).rows
    ratio, base = 0.6, 5 / 6
    parts = [(s - ratio * t) / base for s, t in zip(OURS, BASE, strict=True)]  # mean 0
    own = sum(d * d for d in parts) / 5 / 6
    cross = sum(2 * parts[i] * parts[i + 1] for i in (0, 2, 4)) / 36
    assert random.relative.stderr == pytest.approx(100 * (own + cross) ** 0.5)


def test_the_average_needs_every_task(tmp_path):
    write_pair(tmp_path / "one")
    write_base(tmp_path / "two" / "full", [1, 1, 0, 1], "other")
    board = read_board(tmp_path)
    full, random = board.rows
    assert board.tasks == ("other", "skvqa_synth")
    assert full.relative.mean == pytest.approx(100)
    assert random.relative is None
    write_run(tmp_path / "two" / "random", samples([1, 0, 0, 1]), "other")
    [_, random] = read_board(tmp_path).rows
    errors = [random.scores[task].relative.stderr for task in ("other", "skvqa_synth")]
    assert random.relative.mean == pytest.approx((60 + 100 * 2 / 3) / 2)
    assert random.relative.stderr == pytest.approx(sum(e * e for e in errors) ** 0.5 / 2)
    assert random.relative.count == 6 + 4


def test_a_row_over_tasks_counts_questions_and_names_every_command(tmp_path):
    write_run(tmp_path / "one", samples(OURS))
    cost = {
        **COST,
        "tokens_before": 200,
        "tokens_kept": 150,
        "flops": {"prefill": 4_000_000},
        "seconds": {"prefill": 2.0},
    }
    write_run(tmp_path / "two", samples([1, 0, 0, 1], cost=cost), "other")
    board = read_board(tmp_path)
    [row] = board.rows
    assert row.keep_ratio == pytest.approx((6 * 25 + 4 * 150) / (6 * 100 + 4 * 200))
    assert [line.split("--tasks ")[1].split()[0] for line in row.commands] == ["other", "skvqa_synth"]
    assert "| 6e-06  | 1.31 " in to_markdown(board, {})  # means of 4 and 8 million operations, of 2 and 0.625 s
    assert any("no row is the unpruned model" in note for note in board.notes)


@pytest.mark.parametrize("changes", [{"model": "other"}, {"frames": 32}, {"seed": 1}])
def test_runs_of_one_method_but_other_settings_are_no_row_over_tasks(tmp_path, changes):
    write_run(tmp_path / "one", samples(OURS))
    write_run(tmp_path / "two", samples(OURS), "other", **changes)
    assert sorted(list(row.scores) for row in read_board(tmp_path).rows) == [["other"], ["skvqa_synth"]]


@pytest.mark.parametrize("name", ["gen_kwargs", "num_fewshot"])
def test_a_method_that_decodes_otherwise_is_a_row_of_its_own(tmp_path, name):
    write_run(tmp_path / "one", samples(OURS))
    write_run(tmp_path / "two", samples(BASE))
    path = next((tmp_path / "two").rglob("*_results.json"))
    content = json.loads(path.read_text())
    content["config"]["resolved_cli_args"][name] = 3
    path.write_text(json.dumps(content))
    assert names(read_board(tmp_path)) == [f"random ({name}=3)", f"random ({name}=default)"]


def test_a_breakdown_is_clustered_by_video_too(tmp_path):
    rows = [sample(i, float(score), f"v{i // 2}", sparsity=1.2) for i, score in enumerate(OURS)]
    write_run(tmp_path, rows)
    [row] = read_board(tmp_path).rows
    score = row.scores["skvqa_synth"]
    assert (score.kinds, score.sparsities) == ({"color": score.accuracy}, {"0 to 1.5": score.accuracy})


def test_pruning_between_layers_is_no_baseline(tmp_path):
    write_base(tmp_path / "full", BASE)
    layers = {"layer_pruning": {"class": "lmms_kvtp.layer_pruning.fastv:FastV"}}
    write_run(tmp_path / "fastv", samples(OURS), parts=ALL | layers, keep_ratio=1.0)
    fastv, full = read_board(tmp_path).rows
    assert (fastv.name, full.name) == ("FastV", "all tokens")
    assert fastv.scores["skvqa_synth"].difference.mean == pytest.approx(-100 / 3)
    assert full.scores["skvqa_synth"].difference is None


def test_cached_answers_have_no_cost_and_are_counted(tmp_path):
    write_base(tmp_path / "full", BASE)
    rows = [*samples(OURS[:4]), sample(4, 0.0, "v2", cost=None), sample(5, 0.0, "v2", "end", cost={"error": "gone"})]
    write_run(tmp_path / "random", rows)
    board = read_board(tmp_path)
    assert board.rows[1].scores["skvqa_synth"].cost.count == 4
    assert board.notes[1:] == (
        "random, skvqa_synth: 1 of 6 questions could not be answered, counted wrong",
        "random, skvqa_synth: 1 of 6 answers came from a cache, without cost",
    )


def test_a_row_on_an_index_of_its_own_encoder_is_called_circular(tmp_path):
    note = "circular: the index was made by the encoder that this row scores with"
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "random", samples(OURS), notes={"skvqa_synth": note, "other": "of no row here"})
    board, told = read_board(tmp_path), f"random, skvqa_synth: {note}"
    assert board.notes[1:] == (told,)
    assert told in to_markdown(board, {}) and told in to_html(board, [], {}, {})
    assert [row_json(row, row.scores["skvqa_synth"])["note"] for row in board.rows] == ["", note]


@pytest.mark.parametrize("toy", [True, False])
def test_a_toy_is_called_one(tmp_path, toy):
    write_base(tmp_path, BASE, toy=toy)
    assert [note.partition(":")[0] for note in read_board(tmp_path).notes] == ["TOY"] * toy


def test_a_run_of_cached_answers_only_has_no_ratio(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "random", samples(OURS, cost=None))
    [_, random] = read_board(tmp_path).rows
    assert random.keep_ratio is None
    assert random.scores["skvqa_synth"].cost is None


def test_rows_of_one_label_are_told_apart_by_what_differs(tmp_path):
    write_base(tmp_path / "full", BASE)
    for temperature in (1.0, 2.0):
        allocator = {"class": KVTP["allocator"]["class"], "temperature": temperature}
        parts = {**KVTP, "allocator": allocator}
        write_run(tmp_path / str(temperature), samples(OURS), parts=parts)
    assert names(read_board(tmp_path)) == [
        "all tokens",
        "KVTP, untuned + PruMerge (allocator.temperature=1.0)",
        "KVTP, untuned + PruMerge (allocator.temperature=2.0)",
    ]


def test_sparsity_is_binned_by_ranges_in_order(tmp_path):
    rows = [sample(i, 1.0, f"v{i}", sparsity=value) for i, value in enumerate([1.2, 1.5, 1.69, 2.4, 9.0])]
    write_run(tmp_path, rows)
    [row] = read_board(tmp_path).rows
    counts = {name: value.count for name, value in row.scores["skvqa_synth"].sparsities.items()}
    assert list(counts.items()) == [("0 to 1.5", 1), ("1.5 to 2", 2), ("2 to 3", 1), ("5 and more", 1)]


def test_the_command_repeats_the_run(tmp_path):
    places = "journal=none,resume=/home/me/runs/journal,frame_cache=/scratch"
    board = read_board(write_pair(tmp_path, model_args=f"pretrained=tiny,{places},pruner=my pkg"))
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


def test_stock_models_have_rows_without_cost(tmp_path):
    write_run(tmp_path, samples(OURS, cost=None))
    path = next(tmp_path.rglob("*_results.json"))
    content = json.loads(path.read_text())
    del content["config"]["resolved_cli_args"]["lmms_kvtp"]
    content["config"] |= {"model": "llava_vid", "model_args": "pretrained=x"}
    path.write_text(json.dumps(content))
    [row] = read_board(tmp_path).rows
    assert (row.name, row.provenance.commit) == ("llava_vid pretrained=x", "feedbee")


def test_peak_memory_is_the_largest_and_flops_need_every_answer(tmp_path):
    costs = [{**COST, "peak_bytes": 5}, {**COST, "peak_bytes": 9, "flops": {}}]
    write_run(tmp_path, [sample(i, 1.0, f"v{i}", cost=cost) for i, cost in enumerate(costs)])
    [row] = read_board(tmp_path).rows
    cost = row.scores["skvqa_synth"].cost
    assert (cost.peak_bytes, cost.flops) == (9, None)


def test_seconds_leave_out_the_warm_up_and_say_that_they_are_of_a_sweep(tmp_path):
    slow = {**COST, "seconds": {"prefill": 50.0}, "cold": True}
    rows = samples(BASE, cost={**COST, "swept": True})
    rows[0] |= {"token_counts": [slow]}
    rows[1] |= {"token_counts": [slow]}
    write_run(tmp_path / "full", rows, parts={"pruner": {"class": "lmms_kvtp.pruners.none:Unpruned"}}, keep_ratio=1.0)
    write_run(tmp_path / "random", samples(OURS))
    board = read_board(tmp_path)
    full, random = (row.scores["skvqa_synth"].cost for row in board.rows)
    assert full.seconds == pytest.approx(0.5 + 0.25 / 2) and full.count == 6
    assert (full.swept, random.swept) == (True, False)
    assert any("seconds marked shared (all tokens) are of a sweep" in note for note in board.notes)
    axis = "seconds per question"
    assert [point.name for point in points(board.rows, "skvqa_synth", axis)] == ["random, 25%"]
    table = " ".join(to_markdown(board, {}).split())
    assert "| 0.62 shared |" in table and "| 0.62 |" in table
    page = to_html(board, [], {}, {})
    assert page.count('title="of a sweep') == 1
    assert ",True," in to_csv(board) and ",False," in to_csv(board)


def test_one_method_at_two_ratios_is_two_rows_everywhere(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "quarter", samples(OURS))
    write_run(tmp_path / "half", samples(BASE, cost={**COST, "tokens_kept": 50}), keep_ratio=0.5)
    board = read_board(tmp_path)
    judged = judge(board)
    assert [one.name for one in judged["skvqa_synth"]] == ["random, 50%", "random, 25%"]
    page = to_html(board, [], judged, {})
    for title in ("all tokens", "random, 50%", "random, 25%"):
        assert page.count(f"<tr><td>{title}</td>") == 1 + (title != "all tokens")  # kinds, and the verdicts
    methods = {point.name: point.method for point in points(board.rows, "skvqa_synth", "TFLOPs, 1 question a video")}
    assert methods == {"all tokens": "all tokens", "random, 50%": "random", "random, 25%": "random"}
