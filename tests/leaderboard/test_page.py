"""Markdown, LaTeX, CSV, JSON and the page: what they show, and that no text in them is read as markup."""

import csv
import io
import json
import re

import pytest
from helpers.harness_files import BASE, COST, OURS, PARTS, read_board, samples, write_base, write_pair, write_run
from helpers.tags import Tags
from matplotlib.figure import Figure

from lmms_kvtp.__main__ import main
from lmms_kvtp.leaderboard.page import AXES, Point, draw, pareto, plot, plots, points, to_html
from lmms_kvtp.leaderboard.provenance import reported
from lmms_kvtp.leaderboard.results import plain, to_csv, to_json
from lmms_kvtp.leaderboard.stats import Estimate, shown
from lmms_kvtp.leaderboard.tables import to_latex, to_markdown
from lmms_kvtp.leaderboard.verdicts import judge
from lmms_kvtp.rendering import as_latex

HOSTILE = "</td></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}$x_y$|`"


@pytest.fixture
def board(tmp_path):
    return read_board(write_pair(tmp_path))


@pytest.fixture
def hostile(tmp_path):
    """A hostile string wherever a run has text: kind, question, answer, method, path, commit, task."""
    rows = [{**row, "kind": HOSTILE, "input": HOSTILE, "filtered_resps": [HOSTILE]} for row in samples(OURS)]
    rows[0]["question_id"] = rows[0]["video_id"] = HOSTILE
    parts = {"pruner": {"class": f"evil:{HOSTILE}"}}
    write_run(tmp_path / "run", rows, parts=parts, model=HOSTILE, model_args=HOSTILE, version=HOSTILE)
    (tmp_path / "<img src=x onerror=alert(3)>_results.json").write_text("not json")
    return read_board(tmp_path)


def test_the_latex_table_has_a_block_for_each_ratio(board):
    lines = to_latex(board).splitlines()
    assert lines[1:6] == [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        r"\caption{Accuracy in \%, with standard errors clustered by video"
        " (TOY: an embedded model on synthetic videos).}",
        r"\label{tab:skvqa-synth}",
        r"\begin{tabular}{lrrr}",
    ]
    assert lines[-2:] == [r"\end{tabular}", r"\end{table}"]
    assert r"all tokens & 100.0\% & 83.3 $\pm$ 15.2 & 100.0 $\pm$ 0.0 \\" in lines
    assert lines[lines.index(r"\multicolumn{4}{l}{\textit{asked to keep 25.0\%}} \\") + 1].startswith(
        r"random & 25.0\%"
    )
    assert lines.count(r"\midrule") == 2


def test_latex_reads_every_character_as_itself():
    assert as_latex(r"a_b & 5% \x{y}") == r"a\_b \& 5\% \textbackslash{}x\{y\}"


def test_numbers_in_csv_are_in_full(board):
    full, random = csv.DictReader(io.StringIO(to_csv(board)))
    assert float(random["accuracy"]) == pytest.approx(50)
    assert float(random["difference"]) == pytest.approx(-100 / 3)
    assert (full["difference"], random["tokens_kept"], random["seconds"]) == ("", "25.0", "0.625")
    assert random["commit"] == "0123456789abcdef"
    score = board.rows[1].scores["skvqa_synth"]
    for name in ("accuracy", "difference", "relative"):
        assert float(random[name]) == getattr(score, name).mean
        assert float(random[f"{name}_stderr"]) == getattr(score, name).stderr
    assert (random["keep_ratio"], random["keep_ratio_measured"], random["flops"]) == ("0.25", "0.25", "8000000.0")


def test_questions_that_failed_are_not_those_without_cost(tmp_path):
    rows = samples(OURS, cost=None)
    rows[0]["token_counts"] = [{"error": "gone"}]
    write_run(tmp_path, rows)
    board = read_board(tmp_path)
    [row] = json.loads(to_json(board))["rows"]
    assert (row["failed"], row["without_cost"], row["questions"], row["cost"]) == (1, 5, 6, None)


def test_a_spreadsheet_runs_no_cell(tmp_path):
    parts = {"pruner": {"class": "evil:=cmd()"}}
    write_run(tmp_path, samples(OURS), "=1+1", parts, model="@SUM(1)", commit="+1+cmd")
    [row] = csv.DictReader(io.StringIO(to_csv(read_board(tmp_path))))
    assert (row["method"], row["task"], row["commit"]) == ("'=cmd()", "'=1+1", "'+1+cmd")
    assert row["model"].startswith("'@SUM(1)")


def test_commands_in_names_are_text_in_latex(tmp_path):
    task, pruner = "t}\\input{x}", {"class": "evil:\\write18{rm}%"}
    board = read_board(write_run(tmp_path, samples(OURS), task.replace("\\", "_"), parts={"pruner": pruner}))
    text = to_latex(board)
    assert r"\textbackslash{}write18\{rm\}\%" in text and r"\label{tab:t-input-x}" in text
    assert r"t\}\_input\{x\}" in text


def test_json_tells_what_was_left_out(board):
    content = json.loads(to_json(board))
    assert [row["method"] for row in content["rows"]] == ["all tokens", "random"]
    assert content["rows"][1]["kinds"]["end"]["mean"] == pytest.approx(200 / 3)


def test_published_rows_are_folded_and_stand_apart(many):
    page = to_html(many, reported(), judge(many), {})
    ours, _, theirs = page.partition("<h2>Reported by papers, not measured here</h2>")
    assert "FlashVID" not in ours and theirs.count('<span class="tag">reported</span>') == len(reported())
    assert theirs.index("<details><summary>") < theirs.index("<table")


def test_published_rows_are_the_papers():
    rows = {(row.model.split(",")[0], row.method, row.source.rpartition(" ")[2]): row for row in reported()}
    best = rows["LLaVA-Video-7B", "KVTP + PruMerge", "2"]
    assert (dict(best.scores), best.relative_flops) == ({"VideoMME": 63.29, "EgoSchema": 54.71, "NExT-QA": 76.76}, 36)
    assert "x36%" in rows["LLaVA-Video-7B", "random", "2"].note
    assert rows["LLaVA-Video-72B", "KVTP + PruMerge", "3"].scores["VideoMME"] == 67.34
    assert all(row.source and (row.keep_ratio is None or 0 < row.keep_ratio <= 1) for row in rows.values())
    open_share = {row.method for row in rows.values() if row.keep_ratio is None}
    assert open_share == {"random", "ToMe", "PruMerge"}


def test_nothing_hostile_becomes_a_tag_on_the_page(hostile, board):
    page = Tags(to_html(hostile, reported(), judge(hostile)))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert HOSTILE in page.text  # shown as it is
    assert "onerror=alert(3)" in page.text


def test_nothing_hostile_leaves_its_cell_in_markdown(hostile):
    table = to_markdown(hostile, judge(hostile)).splitlines()
    line = next(line for line in table if line.startswith("| ") and "img src" in line)
    assert len(re.findall(r"(?<!\\)\|", line)) == 10


def test_the_page_loads_nothing_from_elsewhere(board):
    page = to_html(board, reported(), judge(board))
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?!#)[a-z]+:", page.replace("xlink:href", "href"))
    assert "@import" not in page
    assert "url(http" not in page
    assert "default-src 'none'" in page


def test_the_page_sorts_by_numbers_in_full_and_signs_what_is_gained(tmp_path):
    write_base(tmp_path / "full", OURS)
    write_run(tmp_path / "random", samples(BASE))
    page = to_html(read_board(tmp_path), [], {}, {})
    assert '<td data-value="83.33333333333334">83.3 <span class="se">± 15.2</span></td>' in page
    assert '<td data-value="33.33333333333333">+33.3 <span' in page


def test_a_kind_that_a_run_lacks_leaves_its_place_empty(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "random", [row for row in samples(OURS) if row["kind"] == "end"])
    page = to_html(read_board(tmp_path, allow=["questions"]), [], {}, {})
    assert "<th>color</th><th>end</th>" in page
    assert '<td>random, 25%</td><td data-value="">-</td><td data-value="66.66666666666666">66.7' in page


def test_the_page_has_a_plot_for_each_cost(board):
    page = Tags(to_html(board, reported(), judge(board)))
    assert page.tags.count("figure") == 4  # no peak memory on a CPU
    titles = [f"{name}: " for name in ("all tokens", "random, 25%")]
    assert page.tags.count("title") == 1 + 4 * 2 and all(page.text.count(title) == 4 for title in titles)


def test_every_row_is_judged_against_all_tokens(board):
    judged = judge(board)
    [one] = judged["skvqa_synth"]
    assert (one.name, one.flips.gained, one.flips.lost) == ("random, 25%", 0, 2)
    assert one.words in Tags(to_html(board, [], judged, {})).text
    assert one.words in to_markdown(board, judged)


def test_without_all_tokens_or_with_too_many_rows_nothing_is_judged(tmp_path, monkeypatch):
    write_run(tmp_path / "random", samples(OURS))
    assert judge(read_board(tmp_path)) == {}
    write_base(tmp_path / "full", BASE)
    monkeypatch.setattr("lmms_kvtp.leaderboard.verdicts.MOST", 0)
    assert judge(read_board(tmp_path)) == {}


def test_a_run_without_cost_has_no_plot_and_says_so(tmp_path):
    write_run(tmp_path, samples(OURS, cost=None))
    page = Tags(to_html(read_board(tmp_path), [], {}))
    assert "figure" not in page.tags
    assert "no cost" in page.text


def test_the_front_holds_what_nothing_beats():
    places = [(3, 50.0), (1, 40.0), (2, 40.0), (2, 45.0), (5, 50.0), (2, 45.0), (2, 42.0)]
    dots = [Point(str(i), float(x), y, 0.0) for i, (x, y) in enumerate(places)]
    assert [point.name for point in pareto(dots)] == ["1", "3", "5", "0"]


def test_plots_show_measured_costs(board, many):
    share, alone, four, seconds = (points(board.rows, "skvqa_synth", axis) for axis in list(AXES)[:4])
    assert [(p.name, p.x, round(p.y, 1)) for p in share] == [("all tokens", 100.0, 83.3), ("random, 25%", 25.0, 50.0)]
    assert [p.x for p in alone] == [8e-6, 8e-6]
    assert [p.x for p in four] == [pytest.approx((8 - 3 * 3 / 4) * 1e-6)] * 2
    assert [p.x for p in seconds] == [0.625, 0.625]
    assert {(p.name, p.x) for p in points(many.rows, "skvqa_synth", "peak memory (GiB)")} == {
        (f"{name}, {ratio}%", size) for name, size in (("random", 1), ("Grid", 2), ("ToMe", 3)) for ratio in (25, 50)
    }
    assert [p.error for p in share] == [row.scores["skvqa_synth"].accuracy.stderr for row in board.rows]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Three methods at two ratios each, of one cost, and all tokens: marks that would hide each other."""
    folder = tmp_path_factory.mktemp("many")
    write_base(folder / "full", BASE, toy=False)
    for place, pruner in enumerate(("random:RandomTokens", "grid:Grid", "tome:ToMe")):
        for ratio in (0.25, 0.5):
            cost = {**COST, "tokens_kept": 100 * ratio, "peak_bytes": 2**30 * (place + 1), "keep_ratio": ratio}
            rows = samples([1] * (place + 2) + [0] * (4 - place), cost=cost)
            parts = {"pruner": {"class": f"lmms_kvtp.pruners.{pruner}"}}
            write_run(folder / f"{place}{ratio}", rows, parts=parts, keep_ratio=ratio, toy=False)
    return read_board(folder)


@pytest.mark.parametrize("axis", AXES)
def test_every_mark_stands_at_the_values_of_its_row(many, axis):
    shown = points(many.rows, "skvqa_synth", axis)
    axes = Figure().subplots()
    plot(axes, shown, axis)
    marks = {(bars.get_label(), *bars.lines[0].get_xydata()[0]) for bars in axes.containers}
    value = AXES[axis]
    wanted = {
        (title, value(score.cost), score.accuracy.mean)
        for title, score in ((row.title, row.scores["skvqa_synth"]) for row in many.rows)
        if value(score.cost) is not None
    }
    assert marks == wanted and len(axes.containers) == len(shown)
    rows = {(point.x, point.y): point for point in shown}
    for line in [line for line in axes.lines if len(line.get_xdata()) > 2]:  # the front, or a method through its ratios
        assert all(tuple(place) in rows for place in line.get_xydata())


@pytest.mark.parametrize(("x", "apart"), [([8e-6] * 3, True), ([1.0, 1.004, 2.0], True), ([1.0, 1.5, 2.0], False)])
def test_marks_of_one_cost_stand_beside_each_other_by_less_than_half_a_mark(x, apart):
    shown = [Point(f"p{number}", value, 50.0, 2.0) for number, value in enumerate(x)]
    figure = Figure()
    axes = figure.subplots()
    plot(axes, shown, "seconds")
    figure.draw_without_rendering()
    moved = []
    for bars, point in zip(axes.containers, shown, strict=True):
        mark, *caps = [one for one in bars.get_children() if hasattr(one, "get_xydata")]
        assert mark.get_xydata().tolist() == [[point.x, point.y]]
        drawn, true = (one.transform((point.x, point.y)) for one in (mark.get_transform(), axes.transData))
        moved.append((drawn - true)[0] * 72 / figure.dpi)
        assert (drawn - true)[1] == 0 and abs(moved[-1]) < mark.get_markersize() / 2
        for part in (*caps, bars.lines[2][0]):  # its bar stands where it stands
            assert (part.get_transform() - mark.get_transform()).is_affine
            assert part.get_transform().transform((point.x, point.y)).tolist() == drawn.tolist()
    assert (len({round(one, 6) for one in moved[:2]}) == 2) == apart
    low, high = axes.get_xlim()
    assert low <= min(x) and max(x) <= high and high - low < 2 * (max(x) - min(x) or high)


def test_a_method_is_a_line_of_one_color_with_its_band_and_all_tokens_are_a_level(many):
    axis = next(iter(AXES))
    shown = points(many.rows, "skvqa_synth", axis)
    axes = Figure().subplots()
    plot(axes, shown, axis)
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    joined = {tuple(map(tuple, line.get_xydata())): line.get_color() for line in lines if line.get_marker() == "None"}
    for method in ("random", "Grid", "ToMe"):
        own = sorted((point.x, point.y) for point in shown if point.method == method)
        colors = {
            bars.lines[0].get_color() for bars, p in zip(axes.containers, shown, strict=True) if p.method == method
        }
        assert colors == {joined[tuple(own)]}
    [level] = [line for line in axes.lines if line.get_linestyle() == "--"]
    base = next(point for point in shown if point.unpruned)
    assert list(level.get_ydata()) == [base.y, base.y]
    [band] = axes.patches
    heights = band.get_patch_transform().transform(band.get_path().vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((base.y - base.error, base.y + base.error))
    random = sorted((p for p in shown if p.method == "random"), key=lambda p: p.x)
    bands = [one for one in axes.collections if "FillBetween" in type(one).__name__]
    corners = {tuple(round(float(v), 6) for v in place) for one in bands for place in one.get_paths()[0].vertices}
    assert {(round(p.x, 6), round(p.y + sign * p.error, 6)) for p in random for sign in (-1, 1)} <= corners


def test_shapes_are_those_of_ratios(many):
    axis = next(iter(AXES))
    shown = points(many.rows, "skvqa_synth", axis)
    axes = Figure().subplots()
    plot(axes, shown, axis)
    shapes = {(point.x, bars.lines[0].get_marker()) for bars, point in zip(axes.containers, shown, strict=True)}
    assert len(shapes) == len({share for share, _ in shapes}) == len({shape for _, shape in shapes}) == 3


def test_a_method_has_one_color_in_all_plots(many):
    colors = {(p.method, p.color) for axis in AXES for p in points(many.rows, "skvqa_synth", axis)}
    assert len(colors) == len({method for method, _ in colors}) == len({color for _, color in colors}) == 4


def test_a_toy_has_no_front_and_no_winner(board, many):
    toy, real = to_html(board, reported(), judge(board)), to_html(many, reported(), judge(many))
    assert "Pareto front" in real and "Pareto front" not in toy
    assert "regression board" in toy and "Reported by papers" not in toy
    assert "<details><summary>" in real.partition("Reported by papers")[2]
    assert "<th data-fixed>skvqa_synth</th>" in toy and "<th>skvqa_synth</th>" in real


def test_axes_reach_to_rows_that_others_beat():
    drawn, _ = draw([Point("good", 1.0, 80.0, 0.0), Point("bad", 1.0, 40.0, 1.0)], "seconds", "task")
    assert ">40<" in drawn


def test_the_same_plot_is_the_same_file():
    dots = [Point("a<b>", 1.0, 50.0, 2.0), Point("$c_d$", 2.0, 60.0, 0.0)]
    drawn, printed = draw(dots, "seconds", "task")
    assert (drawn, printed) == draw(dots, "seconds", "task")
    assert drawn.startswith("<svg") and printed.startswith(b"%PDF")
    assert "<g><title>a&lt;b&gt;: 50.0 ± 2.0 % at 1</title>" in drawn
    assert "$c_d$" in drawn


def test_the_pointer_is_shown_the_row_of_the_mark_that_is_under_it():
    drawn, _ = draw([Point("a", 1.0, 50.0, 2.0), Point("b", 2.0, 60.0, 1.0)], "seconds", "task")
    [a, b] = re.findall(r'<g><title>(.): .*?</title>.*?<use [^>]*x="([\d.]+)" y="([\d.]+)"', drawn, re.DOTALL)
    assert a[0] == "a" and b[0] == "b" and "<title>b: 60.0 ± 1.0 % at 2</title>" in drawn
    assert float(a[1]) < float(b[1]) and float(a[2]) > float(b[2])  # SVG counts y downwards


def test_a_bar_reaches_one_standard_error_to_either_side():
    axes = Figure().subplots()
    plot(axes, [Point("x", 1.0, 50.0, 5.0)], "seconds")
    [[segment]] = [lines.get_segments() for lines in axes.containers[0].lines[2]]
    assert segment.tolist() == [[1.0, 45.0], [1.0, 55.0]]


def test_what_is_not_known_is_a_dash():
    assert shown(None) == "-"
    assert shown(Estimate(float("nan"), float("nan"), 0)) == "-"
    assert shown(Estimate(50.0, float("nan"), 1)) == "50.0 ± -"


def test_the_command_writes_all_pages_and_fails_on_refused_runs(tmp_path, capsys):
    write_base(tmp_path / "runs" / "full", BASE)
    command = ["leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "| all tokens |" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "out").iterdir()}
    pages = {"index.html", "samples.html", "samples.js", "plots"}
    assert written == pages | {f"leaderboard.{kind}" for kind in ("md", "tex", "csv", "json")}
    assert {path.name for path in (tmp_path / "out" / "plots").iterdir()} == {
        "skvqa_synth_vision_tokens_kept.pdf",
        *(f"skvqa_synth_tflops_{how}.pdf" for how in ("1_question_a_video", "a_question_4_on_a_video")),
        "skvqa_synth_seconds_per_question.pdf",
    }
    for axis, (_, pdf) in plots(read_board(tmp_path / "runs"))["skvqa_synth"].items():
        assert (tmp_path / "out" / "plots" / f"skvqa_synth_{plain(axis)}.pdf").read_bytes() == pdf
    write_run(tmp_path / "runs" / "random", samples(OURS), dirty=True, version="0.2.0")
    assert main(command) == 1
    assert main([*command, "--allow", "versions"]) == 0
    assert "| 0123456789 + changes |" in capsys.readouterr().out


def test_runs_on_a_disk_that_cannot_be_written_are_read_and_left_as_they_are(tmp_path):
    runs = write_pair(tmp_path / "runs")
    folders = [runs, *(path for path in runs.rglob("*") if path.is_dir())]
    before = {path: path.is_file() and path.read_bytes() for path in runs.rglob("*")}
    for folder in folders:
        folder.chmod(0o555)
    assert main(["leaderboard", str(runs), "--out", str(tmp_path / "out")]) == 0
    for folder in folders:
        folder.chmod(0o755)
    assert {path: path.is_file() and path.read_bytes() for path in runs.rglob("*")} == before


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    write_base(tmp_path / "runs", BASE)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemExit):
        main(["leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert str(tmp_path / "out") in capsys.readouterr().err


@pytest.mark.parametrize("given", [True, False])
def test_gates_are_found_among_the_runs_and_where_they_are_said_to_be(tmp_path, capsys, given):
    write_pair(tmp_path / "runs")
    record = tmp_path / ("elsewhere.json" if given else "runs/random_gates.json")
    record.write_text(json.dumps({"method": PARTS, "gates": [{"name": "order", "passed": False}]}))
    command = ["leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main([*command, *(["--gates", str(record)] if given else [])]) == 1
    assert "gates failed: order" in capsys.readouterr().out


def test_a_long_name_is_cut_in_the_legend():
    drawn, _ = draw([Point("x" * 300, 1.0, 50.0, 2.0)], "seconds", "task")
    assert "x" * 35 + "…" in drawn and "x" * 36 not in drawn.replace(f"<title>{'x' * 300}", "")
