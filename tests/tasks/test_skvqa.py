"""The evaluation tasks: which documents they ask, their prompts, their scoring."""

import hashlib
import importlib
import random
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from helpers.hub import write_hub
from helpers.skvqa_entries import long_entry
from helpers.skvqa_lookalikes import egoschema_rows, nextqa_rows, videomme_rows
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from lmms_kvtp.__main__ import main
from lmms_kvtp.skvqa import task_index as find
from lmms_kvtp.skvqa.index import IndexFileError, read_entries, to_bytes, write_entries
from lmms_kvtp.skvqa.layouts import LAYOUTS
from lmms_kvtp.skvqa.task_index import NoIndexError
from lmms_kvtp.skvqa_build import prompts
from lmms_kvtp.tasks.skvqa import documents, utils

GOLDENS = Path(__file__).parents[1] / "goldens" / "skvqa_prompts"
ROWS = {"videomme": videomme_rows(3, 2), "egoschema": egoschema_rows(3), "nextqa": nextqa_rows(3, 2)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and videos that are there by name."""
    for variable in ("INDEX", "BETA", "MIN_FRAMES", "MISSING"):
        monkeypatch.delenv(f"LMMS_KVTP_SKVQA_{variable}", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("LMMS_KVTP_HOME", str(tmp_path / "cache"))
    names = [f"videomme/data/-clip_{v}.mp4" for v in range(3)] + [f"egoschema/videos/uuid-{v}.mp4" for v in range(3)]
    for name in [*names, *[f"nextqa/NExTVideo/{4010069381 + v}.mp4" for v in range(3)]]:
        (tmp_path / "hf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hf" / name).touch()
    return tmp_path


def install(home: Path, *peaks: float, dataset: str = "videomme", frames: int = 128) -> None:
    """An index of the first questions in the cache."""
    names = [utils.EVALUATED[dataset](row)[0] for row in ROWS[dataset]]
    entries = [long_entry(name, frames, peak, dataset=dataset) for name, peak in zip(names, peaks, strict=False)]
    write_entries(home / "built.jsonl", entries)
    find.install_index(home / "built.jsonl")


def rows(dataset: str = "videomme") -> Any:
    return datasets.Dataset.from_list(ROWS[dataset])


def test_only_questions_that_meet_the_criteria_are_asked(home: Path) -> None:
    install(home, 5.0, 0.0, 5.0, 0.5)
    found = documents.videomme(rows())
    assert found["question_id"] == ["000-0", "001-0"]
    assert found["kvtp_id"] == ["skvqa_videomme/000-0", "skvqa_videomme/001-0"]
    assert found["refined"] == ["What color is the star? Choices: red, blue."] * 2
    assert all(sparsity > 10 for sparsity in found["sparsity"])
    assert found[0]["question"] == ROWS["videomme"][0]["question"]


def test_beta_and_the_least_frames_are_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(home, 5.0, 0.0, 5.0, 0.5)
    monkeypatch.setenv("LMMS_KVTP_SKVQA_BETA", "1.5")
    assert len(documents.videomme(rows())) == 3
    monkeypatch.setenv("LMMS_KVTP_SKVQA_MIN_FRAMES", "129")
    with pytest.raises(LookupError, match=r"no question of videomme is left at beta 1.5"):
        documents.videomme(rows())
    monkeypatch.setenv("LMMS_KVTP_SKVQA_BETA", "two")
    with pytest.raises(ValueError, match="LMMS_KVTP_SKVQA_BETA='two' is not a number"):
        documents.videomme(rows())


def test_the_full_task_asks_everything_with_or_without_an_index(home: Path) -> None:
    assert documents.videomme_full(rows())["sparsity"] == [None] * 6
    install(home, 5.0, 0.0)
    found = documents.videomme_full(rows())
    assert found["kvtp_id"][0] == "skvqa_videomme_full/000-0"
    assert [sparsity is None for sparsity in found["sparsity"]] == [False, False, True, True, True, True]


def test_spans_reach_the_oracle(home: Path) -> None:
    from lmms_kvtp.run.asks import read_question

    entry = long_entry("uuid-1", 128, 5.0, dataset="egoschema")
    edges = tuple((8.0 * clip, 8.0 * clip + 8) for clip in range(16))
    from dataclasses import replace

    write_entries(home / "egoschema.jsonl", [replace(entry, edges=edges)])
    find.install_index(home)
    [doc] = documents.egoschema(rows("egoschema"))
    question = read_question(utils.egoschema_text(doc), doc, "key")
    assert question.spans is not None
    assert question.spans[:2] == ((0.0, 8.0, 5.0), (8.0, 16.0, 0.0))
    assert question.refined == entry.refined


def test_documents_say_which_encoder_scored_them_for_the_index(home: Path) -> None:
    images = {"captions_hash": "", "prompts": ""}
    models = {"captioner": "none", "refiner": "rule", "scorer": "google/siglip"}
    entries = [
        long_entry("000-0", 128, 5.0),
        long_entry("000-1", 128, 5.0, **images, models=models),
        long_entry("001-0", 128, 5.0, **images, models=models | {"scorer_weights": "f00d"}),
    ]
    write_entries(home / "built.jsonl", entries)
    find.install_index(home / "built.jsonl")
    assert list(documents.videomme(rows())["index_encoder"]) == [None, ["google/siglip", ""], ["google/siglip", "f00d"]]
    assert list(documents.videomme_full(rows())["index_encoder"])[3:] == [None] * 3


@pytest.mark.parametrize("dataset", utils.EVALUATED)
def test_documents_of_each_data_set_are_found_by_their_ids(home: Path, dataset: str) -> None:
    install(home, 5.0, 5.0, dataset=dataset)
    found = getattr(documents, dataset)(rows(dataset))
    assert len(found) == 2
    [path] = getattr(documents, f"{dataset}_video")(found[0])
    assert Path(path).is_file()


def test_without_an_index_the_message_names_the_ways_on(home: Path) -> None:
    with pytest.raises(NoIndexError) as error:
        documents.nextqa(rows("nextqa"))
    for way in ("skvqa import skvqa.json", "--captioner none --scorer siglip", "14 minutes", "skvqa_nextqa_full"):
        assert way in str(error.value)
    for cost in ("16000 captions", "8564 questions", "about 10 hours", "74 million input", "4.5 million output tokens"):
        assert cost in str(error.value)
    assert "186 + 45 dollars at 2.5 and 10 dollars a million" in str(error.value)
    assert "LMMS_KVTP_SKVQA_INDEX" in str(error.value)


def test_a_reason_is_told_once_however_often_the_harness_tries(home: Path) -> None:
    told: list[str] = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="ERROR")
    for _ in range(3):
        with pytest.raises(NoIndexError):
            documents.egoschema(rows("egoschema"))
    logger.remove(sink)
    assert len(told) == 1 and told[0].startswith("no SparseKV-QA index of egoschema")


def test_the_index_may_be_named_as_file_or_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(home, 5.0, 5.0)
    (home / "cache" / "skvqa" / "videomme.jsonl").rename(home / "videomme.jsonl")
    for place in (home / "videomme.jsonl", home):
        monkeypatch.setenv("LMMS_KVTP_SKVQA_INDEX", str(place))
        assert len(documents.videomme(rows())) == 2
    with pytest.raises(NoIndexError, match=r"is a folder without nextqa\.jsonl"):
        documents.nextqa(rows("nextqa"))
    assert len(documents.nextqa_full(rows("nextqa"))) == 6
    monkeypatch.setenv("LMMS_KVTP_SKVQA_INDEX", str(home / "nowhere"))
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        documents.videomme(rows())


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache in HF_HOME, without a network; the library reads its variables when it is imported."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hf" / "hub"))
    monkeypatch.setenv("LMMS_KVTP_SKVQA_INDEX", "somebody/skvqa")
    return home / "hf" / "hub"


def test_the_index_may_be_a_data_set_of_the_hub(home: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = to_bytes([long_entry("000-0", 128, 5.0), long_entry("001-0", 128, 5.0)])
    write_hub(hub, "somebody/skvqa", {"videomme.jsonl": to_bytes([long_entry("002-1", 128, 5.0)])}, "a" * 40, "v1")
    write_hub(hub, "somebody/skvqa", {"videomme.jsonl": newest})
    assert documents.videomme(rows())["question_id"] == ["000-0", "001-0"]
    monkeypatch.setenv("LMMS_KVTP_SKVQA_INDEX", "somebody/skvqa@v1")
    assert documents.videomme(rows())["question_id"] == ["002-1"]
    monkeypatch.setenv("LMMS_KVTP_SKVQA_INDEX", f"somebody/skvqa@{'a' * 40}")
    assert documents.videomme(rows())["question_id"] == ["002-1"]
    with pytest.raises(FileNotFoundError, match=r"the hub has no nextqa\.jsonl of a data set of that name"):
        documents.nextqa(rows("nextqa"))


@pytest.mark.parametrize("setting", ["somebody/skvqa", "somebody/skvqa@v9", "some body/skvqa"])
def test_an_index_of_the_hub_that_is_not_there_is_named(
    hub: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMMS_KVTP_SKVQA_INDEX", setting)
    with pytest.raises(FileNotFoundError, match=rf"{setting} is neither .* the hub has no videomme\.jsonl"):
        documents.videomme(rows())


def test_beta_and_the_index_stand_in_the_results(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert documents.videomme_full(rows())["selection"] == ["all questions, no index"] * 6
    install(home, 5.0, 0.0, 5.0, 0.5)
    [told] = set(documents.videomme(rows())["selection"])
    monkeypatch.setenv("LMMS_KVTP_SKVQA_BETA", "1.5")
    doc = documents.videomme(rows())[0]
    digest = hashlib.sha256((home / "cache" / "skvqa" / "videomme.jsonl").read_bytes()).hexdigest()[:12]
    assert told == f"beta 2, at least 64 frames, index {digest}"
    assert doc["selection"] == f"beta 1.5, at least 64 frames, index {digest}"
    items = [utils.videomme_results(doc, [text])["selection"] for text in "AB"]
    assert utils.common(items) == doc["selection"]
    install(home, 5.0, 0.0, 5.0, 0.6)
    assert digest not in documents.videomme(rows())[0]["selection"]


def test_an_index_of_another_data_set_or_release_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(home, 5.0, 5.0)
    monkeypatch.setenv("LMMS_KVTP_SKVQA_INDEX", str(home / "built.jsonl"))
    with pytest.raises(IndexFileError, match="line 1 is of data set videomme, wanted nextqa"):
        documents.nextqa(rows("nextqa"))
    write_entries(home / "built.jsonl", [long_entry("900-1", 128, 5.0)])
    with pytest.raises(LookupError, match=r"has none of the 6 questions of videomme, such as '000-0'; it has '900-1'"):
        documents.videomme(rows())


def test_an_index_on_a_scale_of_0_to_1_is_refused_until_it_is_scaled_as_the_page_says(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_entries(home / "videomme.jsonl", [long_entry("000-0", 128, 1.0), long_entry("000-1", 128, 0.4)])
    told = r"videomme.jsonl: the largest of all scores is 1, .*multiply all by 5 \(docs/skvqa.md, section 3\)"
    with pytest.raises(ValueError, match=told):
        find.install_index(home / "videomme.jsonl")
    assert main(["skvqa", "validate", str(home / "videomme.jsonl")]) == 1
    assert "2 good lines, 1 bad" in (shown := capsys.readouterr().out) and "multiply all by 5" in shown
    monkeypatch.setenv("LMMS_KVTP_SKVQA_INDEX", str(home))
    with pytest.raises(ValueError, match=told):
        documents.videomme(rows())
    page = (Path(__file__).parents[2] / "docs" / "skvqa.md").read_text()
    monkeypatch.chdir(home)
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    assert [entry.clip_scores[0] for entry in read_entries(home / "videomme.jsonl")] == [5.0, 2.0]
    assert documents.videomme(rows())["question_id"] == ["000-0", "000-1"]


def test_missing_videos_are_all_listed_before_the_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(home, 5.0, 5.0, 5.0, 0.0, 0.0)
    for video in range(3):
        (home / "hf" / "videomme" / "data" / f"-clip_{video}.mp4").unlink()
    with pytest.raises(FileNotFoundError) as error:
        documents.videomme(rows())
    assert "2 of 2 videos are not below" in str(error.value)
    assert "\n  -clip_0\n  -clip_1\n" in str(error.value)  # nobody asks for the third
    monkeypatch.setenv("LMMS_KVTP_SKVQA_MISSING", "ignore")
    assert len(documents.videomme(rows())) == 3


@pytest.mark.parametrize("dataset", utils.EVALUATED)
def test_the_whole_prompt_is_that_of_the_golden(dataset: str, home: Path) -> None:
    golden = (GOLDENS / f"{dataset}.txt").read_text().removesuffix("\n")
    assert getattr(utils, f"{dataset}_text")(ROWS[dataset][0]) == golden


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("caption", "9a767b275f3117a0"),
        ("refine", "79deaab5456c6161"),
        ("score", "1079dc2b30c04961"),
        ("score_one", "762281b3d99408c4"),
        ("repair", "0a2eb3efa9f3a1fa"),
    ],
)
def test_released_prompts_of_the_construction_do_not_change(name: str, digest: str) -> None:
    file = Path(prompts.__file__).parent / "v1" / f"{name}.txt"
    assert hashlib.sha256(file.read_bytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("dataset", "text", "score", "unparsable", "stock"),
    [
        ("videomme", "A", 1, 0, 1),
        ("videomme", "The best answer is (A).", 1, 0, 1),
        ("videomme", "B", 0, 0, 0),
        ("videomme", "none of these", 0, 1, 0),
        ("videomme", "All of them are blue", 0, 1, 1),  # stock reads the first word's first letter
        ("egoschema", "A.", 1, 0, 1),
        ("egoschema", "(C)", 0, 0, 0),
        ("egoschema", "\\boxed{A}", 1, 0, 0),
        ("egoschema", "C is at work", 0, 1, 0),
        ("egoschema", "i am not sure", 0, 1, 0),
        ("egoschema", "", 0, 1, 0),
        ("nextqa", "A. tickled", 1, 0, 1),
        ("nextqa", "the baby laughed as it was tickled", 1, 0, 1),
        ("nextqa", "tickled", 1, 0, 0),
    ],
)
def test_answers_are_scored_by_one_parser_beside_stock_and_the_unreadable_is_wrong(
    dataset: str, text: str, score: int, unparsable: int, stock: int, home: Path
) -> None:
    row = getattr(utils, f"{dataset}_results")({**ROWS[dataset][0], "sparsity": 2.5}, [text])
    assert row["score"] == row["skvqa_acc"]["score"] == score
    assert row["unparsable"]["score"] == unparsable
    assert row["stock_acc"]["score"] == stock
    assert row["acc_sparsity_2_to_3"]["score"] == score
    assert [row[f"acc_sparsity_{name}"] for name in ("under_2", "3_to_5", "5_up")] == [None] * 3
    assert row["skvqa_acc"]["video_id"] == row["video_id"]


@pytest.mark.parametrize(
    ("sparsity", "name"),
    [
        (0.0, "under_2"),
        (1.99, "under_2"),
        (2.0, "2_to_3"),
        (3.0, "3_to_5"),
        (4.99, "3_to_5"),
        (5.0, "5_up"),
        (99.0, "5_up"),
    ],
)
def test_a_range_of_sparsity_holds_its_lower_end(sparsity: float, name: str, home: Path) -> None:
    row = utils.videomme_results({**ROWS["videomme"][0], "sparsity": sparsity}, ["A"])
    assert [bin_ for _, _, bin_ in utils.BINS if row[f"acc_sparsity_{bin_}"] is not None] == [name]


WORDS = [
    "A",
    "(B)",
    "c",
    "D.",
    "E,",
    "the",
    "answer",
    "is",
    "tickled",
    "Funny dog",
    "...",
    "BE",
    "mother",
    "I",
    "music?",
]


@given(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join))
def test_no_letter_is_ever_drawn_and_none_that_stock_reads_is_lost(text: str) -> None:
    class DrawnError(Exception):
        pass

    def drawn(_: object) -> None:
        raise DrawnError

    from lmms_eval.tasks.egoschema import utils as egoschema
    from lmms_eval.tasks.nextqa import utils as nextqa

    doc = {**ROWS["nextqa"][0], "option": ["tickled", "funny dog", "music", "fell", "mother"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "choice", drawn)
        for stock, choose in ((nextqa, utils.nextqa_choice), (egoschema, utils.egoschema_choice)):
            options, letters = stock.get_multi_choice_info(doc)
            try:
                read = stock.parse_multi_choice_response(text, letters, options)
                expected = read if isinstance(read, str) else read[0]
            except DrawnError:
                expected = None
            assert choose(doc, text) == expected


def test_every_function_that_a_task_file_names_is_there() -> None:
    tasks = Path(utils.__file__).parents[1]
    files = [path for path in tasks.rglob("*") if path.suffix == ".yaml" or path.name.startswith("_default")]
    named = {name for path in files for name in re.findall(r"!function (\S+)", path.read_text())}
    assert len(named) > 20
    for module, _, name in (function.rpartition(".") for function in named):
        assert callable(getattr(importlib.import_module(module), name))


def test_every_data_set_with_a_task_is_one_that_can_be_built() -> None:
    assert set(utils.EVALUATED) <= set(LAYOUTS)
    assert list(utils.EVALUATED) == ["videomme", "egoschema", "nextqa"]
