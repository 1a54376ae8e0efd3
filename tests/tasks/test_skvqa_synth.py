"""The harness tasks: prompts do not depend on the model, and scores, kinds and costs reach the results."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmms_kvtp.embedded import VERSION, dataset
from lmms_kvtp.embedded.questions import KINDS, ask
from lmms_kvtp.embedded.script import write_script
from lmms_kvtp.tasks.skvqa_synth import utils

TASKS = Path(utils.__file__).parents[1]
PROMPT = (
    "What color is the cross?\nA. green\nB. red\nC. white\nD. yellow\n"
    "Answer with the option's letter from the given choices directly."
)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two quick videos in an own cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("LMMS_KVTP_HOME", str(folder))
        patch.setattr(dataset, "QUICK_VIDEOS", 2)
        yield folder


@pytest.fixture(scope="module")
def manager() -> Any:
    from lmms_eval.tasks import TaskManager

    return TaskManager("ERROR", include_path=str(TASKS), include_defaults=False)


def load(manager: Any, model: str) -> Any:
    from lmms_eval.tasks import get_task_dict

    manager.model_name = model
    return get_task_dict(["skvqa_synth_quick"], manager)["skvqa_synth_quick"]


def test_all_tasks_are_found(manager: Any) -> None:
    assert {"skvqa_synth", "skvqa_synth_quick", "skvqa_synth_sealed"} <= set(manager.all_tasks)


def test_the_sealed_task_asks_about_its_own_videos(manager: Any) -> None:
    from lmms_eval.tasks import get_task_dict

    docs = get_task_dict(["skvqa_synth_sealed"], manager)["skvqa_synth_sealed"].test_docs()
    assert len(docs) == 420 and {doc["split"] for doc in docs} == {"sealed"}


@pytest.mark.parametrize("model", ["llava_video_kvtp", "llava_vid_kvtp", "llava_vid", "qwen3_vl", "anything"])
def test_the_prompt_is_the_same_for_every_model(manager: Any, model: str) -> None:
    task = load(manager, model)
    task.model_name = model
    task._prepare_model_specific_config()
    doc = task.test_docs()[0]
    assert task.doc_to_text(doc) == PROMPT
    settings = {"max_new_tokens": 4, "temperature": 0, "do_sample": False, "num_beams": 1, "until": ["\n\n"]}
    assert task.config.generation_kwargs == settings


def test_documents_carry_what_wrapper_and_oracle_need(manager: Any, home: Path) -> None:
    documents = list(load(manager, "any").test_docs())
    assert len(documents) == 2 * dataset.QUESTIONS_PER_VIDEO
    for doc in documents:
        assert doc["kvtp_id"] == f"skvqa_synth_quick/{doc['question_id']}"
        assert utils.doc_to_visual(doc) == [str(home / f"synth-v{VERSION}" / f"{doc['video_id']}.mp4")]
        same = next(
            q
            for q in ask(write_script(doc["seed"], "test"))
            if q.text == doc["question"] and sorted(q.options) == sorted(doc["options"])
        )
        assert [tuple(span) for span in doc["spans"]] == [(*span, 5.0) for span in same.spans]
        assert same.answer_text == doc["options"]["ABCD".index(doc["answer"])]


def test_the_version_of_the_task_is_that_of_the_data(manager: Any) -> None:
    assert load(manager, "any").config.metadata["version"] == VERSION


def test_every_shipped_kind_has_its_metric() -> None:
    template = (TASKS / "skvqa_synth" / "_default_template").read_text()
    listed = {line.split("acc_")[1] for line in template.splitlines() if line.startswith("  - metric: acc_")}
    assert listed == set(dataset.SHIPPED_KINDS) <= set(KINDS)


DOC: dict[str, Any] = {
    "question_id": "test-00000-where",
    "video_id": "test-00000",
    "kvtp_id": "skvqa_synth/test-00000-where",
    "kind": "where",
    "options": ["lava", "city", "snow", "night"],
    "answer": "C",
}


@pytest.mark.parametrize(
    ("text", "score", "unparsable"),
    [("C", 1, 0), ("c.", 1, 0), ("snow", 1, 0), ("B", 0, 0), ("city", 0, 0), ("on the moon", 0, 1), ("", 0, 1)],
)
def test_letters_and_texts_are_scored_and_the_unreadable_is_wrong(text: str, score: int, unparsable: int) -> None:
    row = utils.process_results(DOC, [text])
    assert row["score"] == row["skvqa_acc"]["score"] == row["acc_where"]["score"] == score
    assert row["unparsable"]["score"] == unparsable
    assert [row[f"acc_{kind}"] for kind in dataset.SHIPPED_KINDS if kind != "where"] == [None] * 4
    assert (row["question_id"], row["video_id"], row["kind"]) == ("test-00000-where", "test-00000", "where")


def test_costs_of_our_wrapper_reach_the_row() -> None:
    from lmms_kvtp.cost.sample import SampleCost, record

    assert utils.process_results(DOC, ["C"])["vision_tokens_kept"] is None
    cost = SampleCost(num_frames=7, tokens_before=252, tokens_kept=63, seconds={"prefill": 0.5, "generate": 0.25})
    record(DOC["kvtp_id"] + "!", cost)
    row = utils.process_results(DOC | {"kvtp_id": DOC["kvtp_id"] + "!"}, ["C"])
    assert (row["vision_tokens_kept"], row["keep_ratio_actual"], row["seconds"]) == (63.0, 0.25, 0.75)


def test_aggregates_skip_what_does_not_apply() -> None:
    assert utils.percent([{"score": 1.0}, None, {"score": 0.0}, {"score": 1.0}]) == pytest.approx(200 / 3)
    assert utils.average([None, 3.0, 5.0]) == 4.0
    assert utils.percent([None]) == utils.average([]) == "N/A"


def test_the_harness_runs_the_task_from_end_to_end(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate

    class KnowsHalf(lmms):  # type: ignore[misc]
        """Answers rightly by letter, then by text, then not at all."""

        is_simple = True
        device = torch.device("cpu")

        def generate_until(self, requests: list[Any]) -> list[str]:
            answers = []
            for index, request in enumerate(requests):
                _, _, to_visual, doc_id, task, split = request.args
                doc = self.task_dict[task][split][doc_id]
                assert Path(to_visual(doc)[0]).stat().st_size > 10_000
                answers.append([doc["answer"], doc["options"]["ABCD".index(doc["answer"])], "?"][index % 3])
            return answers

        def loglikelihood(self, requests: list[Any]) -> list[Any]:
            raise NotImplementedError

        def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
            raise NotImplementedError

    out = simple_evaluate(model=KnowsHalf(), tasks=["skvqa_synth_quick"], task_manager=manager, log_samples=True)
    results = out["results"]["skvqa_synth_quick"]
    assert results["skvqa_acc,none"] == 75.0
    assert results["unparsable,none"] == 25.0
    points = np.array([100 * sample["score"] for sample in out["samples"]["skvqa_synth_quick"]])
    assert results["skvqa_acc_stderr_clt,none"] == pytest.approx(points.std(ddof=1) / len(points) ** 0.5)
    assert results["skvqa_acc_stderr_clustered,none"] > 1, "in percent, as the value is"
    sample = out["samples"]["skvqa_synth_quick"][4]
    assert sample["score"] == 1.0
    assert sample["skvqa_acc"]["question_id"] == sample["question_id"]
    json.dumps(results)


def test_a_cache_that_cannot_be_written_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMMS_KVTP_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="set LMMS_KVTP_HOME to a writable folder"):
        utils.doc_to_visual({"split": "test", "seed": 0})


def test_loading_the_task_makes_no_video(manager: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMMS_KVTP_HOME", str(tmp_path / "home"))
    load(manager, "any")
    assert not (tmp_path / "home").exists()
