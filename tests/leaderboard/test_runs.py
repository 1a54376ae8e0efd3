"""Reading what the harness wrote: runs, and score, video and kind in the rows of different tasks."""

import json

import pytest

from lmms_kvtp.leaderboard.runs import KINDS, VIDEOS, SampleFields, first_of, items, read_runs, read_samples, score
from lmms_kvtp.leaderboard.stats import accuracy, difference
from lmms_kvtp.leaderboard.tables import problems, summary

COST = {"tokens_before": 100, "tokens_kept": 25, "seconds": {"prefill": 0.5}, "input_tokens": 40}


def sample(doc: int, score: float, video: str = "v0", kind: str = "color", counts=COST) -> dict:
    return {
        "doc_id": doc,
        "question_id": f"q{doc}",
        "video_id": video,
        "kind": kind,
        "score": score,
        "token_counts": [counts],
    }


def write(folder, rows, stamp="20260101_000000", task="skvqa_synth", **record):
    (folder / "tiny").mkdir(parents=True, exist_ok=True)
    content = {"config": {"stamp": stamp}, **record}
    (folder / "tiny" / f"{stamp}_results.json").write_text(json.dumps(content))
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "tiny" / f"{stamp}_samples_{task}.jsonl").write_text(lines + "\n")
    return folder


def test_records_are_sorted_by_question_and_carry_cost(tmp_path):
    [run] = read_runs(write(tmp_path / "kvtp", [sample(2, 1.0), sample(1, 0.0)]))
    assert (run.name, run.task) == ("kvtp", "skvqa_synth")
    assert [(r.question, r.score, r.cost.tokens_kept) for r in run.answers] == [("q1", 0.0, 25), ("q2", 1.0, 25)]


def test_the_newest_of_two_runs_in_a_folder_counts(tmp_path):
    write(tmp_path, [sample(1, 0.0)], "20260101_000000")
    [run] = read_runs(write(tmp_path, [sample(1, 1.0)], "20260102_000000"))
    assert run.answers[0].score == 1.0
    assert run.config["config"]["stamp"] == "20260102_000000"


def test_the_newest_run_of_each_task_is_read_with_its_own_record(tmp_path):
    write(tmp_path, [sample(1, 1.0)], "20260103_000000", date="20260105_000000")
    write(tmp_path, [sample(1, 0.0)], "20260104_000000", date="20260104_000000")
    write(tmp_path, [sample(1, 0.0)], "20260109_000000", "other", date="20260109_000000")
    other, synth = read_runs(tmp_path)
    assert (synth.answers[0].score, synth.config["date"]) == (1.0, "20260105_000000")
    assert (other.task, other.config["date"]) == ("other", "20260109_000000")


def test_a_failed_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"0 results files, none with samples beside it.*--verbosity DEBUG"):
        read_runs(tmp_path)


def test_a_foreign_line_is_named(tmp_path):
    folder = write(tmp_path, [sample(1, 1.0), {"something": "else"}])
    with pytest.raises(ValueError, match=r"_samples_skvqa_synth.jsonl:2 is not a sample with a score"):
        read_runs(folder)


def test_differences_are_paired_and_clustered_by_video(tmp_path):
    scores = {"a": [1, 1, 0, 0, 1, 0], "b": [1, 0, 0, 0, 0, 0]}
    runs = {
        name: read_runs(write(tmp_path / name, [sample(i, s, f"v{i // 2}") for i, s in enumerate(values)]))[0]
        for name, values in scores.items()
    }
    gap = difference(runs["a"], runs["b"])
    deltas, clusters = [0, 1, 0, 0, 1, 0], [1 - 2 / 3, -2 / 3, 1 - 2 / 3]  # per question; per video, minus its mean
    naive = sum((d - 1 / 3) ** 2 for d in deltas) / 5 / 6
    cross = (sum(c * c for c in clusters) - sum((d - 1 / 3) ** 2 for d in deltas)) / 36
    assert gap.mean == pytest.approx(100 / 3)
    assert gap.stderr == pytest.approx(100 * (naive + cross) ** 0.5)
    assert accuracy(runs["a"]).mean == pytest.approx(50)


def test_runs_on_different_questions_are_not_compared(tmp_path):
    [a] = read_runs(write(tmp_path / "a", [sample(1, 1.0)]))
    [b] = read_runs(write(tmp_path / "b", [sample(2, 1.0)]))
    with pytest.raises(ValueError, match="did not answer the same questions"):
        difference(a, b)


def test_the_summary_shows_measured_tokens_and_names_what_is_missing(tmp_path):
    cold = {**COST, "seconds": {"prefill": 50.0}, "cold": True}
    [full] = read_runs(write(tmp_path / "full", [sample(1, 1.0, counts=cold), sample(2, 1.0, "v1", "end")]))
    broken = [sample(1, 0.0, counts={"error": "gone"}), sample(2, 1.0, "v1", "end", counts=None)]
    [other] = read_runs(write(tmp_path / "other", broken))
    lines = summary([full, other]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][-2:] == ["color", "end"]
    assert cells[2][:6] == ["full", "25", "25.0%", "100.0 ± 0.0", "-", "0.50"]
    assert cells[3][:4] == ["other", "-", "-", "50.0 ± 50.0"]
    assert cells[3][4].startswith("-50.0 ± ") and cells[3][5:] == ["-", "0", "100"]
    assert problems([full, other]) == [
        "other: 1 of 2 questions could not be answered, counted wrong",
        "other: 1 of 2 answers came from a cache, without cost",
    ]


def test_a_task_names_its_own_cluster_before_the_usual_ones(tmp_path):
    rows = [{**sample(1, 1.0, "the usual"), "clip": "its own"}]
    write(tmp_path, rows)
    [path] = tmp_path.rglob("*_samples_*.jsonl")
    run = read_samples(path, "a", "skvqa_synth", {"configs": {"skvqa_synth": {"cluster_key": "clip"}}})
    assert run.answers[0].video == "its own"


VIDEOMME = {
    "doc_id": 3,
    "videomme_perception_score": {"question_id": "601-1", "pred_answer": "b", "answer": "B ", "task_category": "OCR"},
    "videoID": "ignored",
}


def test_the_score_at_the_top_counts_before_any_item():
    assert score({"score": 0.25, "acc": {"score": 1.0}}, SampleFields(("acc",))) == 0.25


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ({"score": 1.0}, 1.0),
        ({"pred_answer": "B", "answer": "b"}, 1.0),
        ({"pred": "1", "ground_truth": 2}, 0.0),
        ({"parsed_pred": "B", "answer": "B"}, 1.0),
        (True, 1.0),
        (0.5, 0.5),
    ],
)
def test_a_metric_gives_the_score_where_the_row_has_none(item, value):
    assert score({"metric": item}, SampleFields(("absent", "metric"))) == value


def test_the_first_metric_with_a_score_counts():
    assert score({"one": {"score": 1.0}, "two": {"score": 0.0}}, SampleFields(("one", "two"))) == 1.0


def test_video_mme_rows_are_read_without_any_task_settings():
    fields = SampleFields.of({})
    places = [VIDEOMME, *items(VIDEOMME, fields)]
    assert score(VIDEOMME, fields) == 1.0
    assert first_of(places, ("question_id",)) == "601-1"
    assert first_of(places, KINDS) == "OCR"
    assert first_of(places, VIDEOS) == "ignored"


def test_the_task_names_its_own_keys():
    fields = SampleFields.of({"score_key": "points", "cluster_key": "clip", "metric_list": [{"metric": "m"}]})
    assert score({"points": 0.75, "score": 0.0}, fields) == 0.75
    assert (fields.metrics, fields.cluster_key) == (("m",), "clip")


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5])
def test_a_score_that_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match=r"is not within 0 and 1"):
        score({"score": value}, SampleFields())


def test_a_row_without_score_names_what_was_looked_for():
    with pytest.raises(KeyError, match="looked for score and for items of acc, f1"):
        score({"acc": {"text": "A"}}, SampleFields(("acc", "f1")))
