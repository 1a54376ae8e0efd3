"""No output calls a row KVTP whose record has no trained predictor."""

import re
import shutil
from pathlib import Path

import pytest
from helpers.checkpoints import write_tiny
from helpers.harness_files import BASE, OURS, read_board, samples, write_base, write_run
from helpers.small_videos import write_video
from hypothesis import given
from hypothesis import strategies as st

from lmms_kvtp import api
from lmms_kvtp import method as methods
from lmms_kvtp.__main__ import main
from lmms_kvtp.leaderboard.page import to_html
from lmms_kvtp.leaderboard.provenance import label, row_name
from lmms_kvtp.leaderboard.results import to_csv, to_json
from lmms_kvtp.leaderboard.tables import to_latex, to_markdown
from lmms_kvtp.leaderboard.verdicts import judge
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import PRESETS, names_of, settings_of
from lmms_kvtp.scorers.parts.fusion import FusionHead


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("llava"))


def honest(text: str) -> bool:
    """Whether each line that names a row KVTP says that it is untuned."""
    rows = [line for line in text.splitlines() if re.search(r"\bkvtp(?=[+ ,/])", line, re.IGNORECASE)]
    return all("untuned" in line for line in rows)


@given(st.sampled_from(sorted(PRESETS)), *(st.sampled_from(names_of(part)) for part in ("scorer", "allocator")))
def test_a_label_without_a_predictor_in_its_record_says_untuned(preset, scorer, allocator):
    for name in (f"{preset}+random", f"{scorer}/{allocator}+random"):
        record = build_method(settings_of(name, 0.2), KVTP).describe()
        text = label({**record, "predictor": None})
        assert "kvtp" not in text.lower() or "untuned" in text, text
        assert "kvtp" not in name or "untuned" in row_name(name, {**record, "predictor": None})


def test_a_label_with_one_says_what_is_not_the_papers(llava, tmp_path):
    whole = shutil.copytree(llava / "siglip", tmp_path / "whole")
    bare = build_method({"predictor": str(whole), "pruner": "tome"}, KVTP).describe()
    assert label(bare) == "KVTP, no fusion head + ToMe"
    FusionHead().save(Path(whole))
    found = build_method({"predictor": str(whole), "pruner": "tome"}, KVTP).describe()
    assert label(found) == "KVTP + ToMe" and row_name("kvtp+tome", found) == "kvtp+tome"
    beyond = {**found["predictor"], "extensions": ["shared tower", "anchors"]}
    assert label({**found, "predictor": beyond}) == "KVTP with shared tower, anchors (ours) + ToMe"


def test_a_record_of_earlier_code_with_a_predictor_is_not_called_the_papers():
    record = build_method(settings_of("similarity+random", 0.2), KVTP).describe()
    del record["predictor"]
    assert label(record) == "KVTP, untuned + random"
    older = {**record, "scorer": {**record["scorer"], "checkpoint": "mine", "fusion": True}}
    assert label(older) == "KVTP with a predictor of an older version (ours) + random"


def test_every_form_of_a_board_says_it(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "kvtp", samples(OURS), parts=build_method({"pruner": "random"}, KVTP).describe())
    board = read_board(tmp_path)
    assert [row.name for row in board.rows] == ["all tokens", "KVTP, untuned + random"]
    measured, *_ = to_markdown(board, judge(board)).split("## Commands")
    for text in (measured, to_csv(board), to_json(board), to_latex(board)):
        assert "untuned" in text and honest(re.sub(r"[^\n]*lmms-eval[^\n]*", "", text))
    assert "KVTP, untuned + random" in to_html(board, [], judge(board), {})


def test_every_command_that_prints_rows_says_it(llava, tmp_path, capsys, caplog):
    methods.warn.cache_clear()
    video, data = write_video(tmp_path / "a.mp4"), tmp_path / "mine.jsonl"
    data.write_text(f'{{"video": "{video}", "question": "What?"}}\n')
    ours = ["--pretrained", str(llava), "--max-frames", "4"]
    named = ["--methods", "kvtp+random", "--ratios", "0.5", "--max-new-tokens", "2", "--out", str(tmp_path / "c")]
    assert main(["compare", "--data", str(data), *named, *ours]) == 0
    assert main(["visualize", str(video), "What?", "--method", "kvtp+random", "--out", str(tmp_path / "v"), *ours]) == 0
    shown = capsys.readouterr().out
    assert shown.count("KVTP, untuned") >= 2 and honest(shown)
    for page in (tmp_path / "c" / "compare.md", tmp_path / "v" / "index.html", tmp_path / "c" / "index.html"):
        assert "KVTP, untuned" in page.read_text()
    assert sum("no trained predictor" in record.message for record in caplog.records) == 1


def test_the_reproduction_of_a_table_says_it_where_no_predictor_is_given(capsys):
    main(["reproduce", "table4", "--dry-run"])
    without = capsys.readouterr().out
    main(["reproduce", "table4", "--dry-run", "--predictor", "mine"])
    assert "here KVTP, untuned" in without and "here KVTP, untuned" not in capsys.readouterr().out


def test_the_embedded_model_takes_its_own_predictor_and_another_refuses_it(llava):
    assert api.load("tiny", device="cpu").method("pruner=random").predictor.name == "tiny"
    model = api.load(str(llava), device="cpu")
    assert model.method("pruner=random").predictor is None
    with pytest.raises(ValueError, match=r"predictor=tiny was trained on frames as tiny reads them"):
        model.method("pruner=random,predictor=tiny")
