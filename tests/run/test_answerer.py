"""Batches and shared prefills through the harness model: the same answers, and failures that stay with their sample."""

import io
import json
import logging
import re

import pytest
import torch
from lmms_eval.api.instance import Instance
from loguru import logger

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.harness.results import report
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.answerer import SampleError

TASK = "skvqa_synth_look"
RANDOM = {"scorer": "uniform", "allocator": "uniform", "pruner": "random", "keep_ratio": 0.4, "device": "cpu"}


@pytest.fixture(scope="module")
def docs(lookalike, tmp_path_factory):
    return lookalike.write_task(tmp_path_factory.mktemp("task"), TASK, videos=2, questions=3)


@pytest.fixture
def run(checkpoint, docs, tmp_path):
    """Answer all questions; `visuals` replaces the videos of some."""

    def answer(visuals=None, lengths=(), **settings):
        model = LlavaVideoKvtp(pretrained=str(checkpoint), journal=str(tmp_path / "journals"), **RANDOM | settings)
        model.task_dict[TASK] = {"test": docs}
        answer.vlm = model.built.vlm  # which the next run takes, too
        requests = []
        for i, doc in enumerate(docs):
            paths = [(visuals or {}).get(i, doc["video_path"])]
            options = {"max_new_tokens": lengths[i] if lengths else 4}
            arguments = (f"What is thing {i}, {'and so on ' * i}?", options, lambda _, p=paths: p, i, TASK, "test")
            requests.append(Instance("generate_until", arguments, 0, {"task": TASK, "doc_id": i, "repeats": 1}))
        try:
            answers = model.generate_until(requests)
        finally:
            lines = model.session.journal.path.read_text().splitlines()[1:]
            answer.journal = [json.loads(line)["document"] for line in lines]
        return [made.text for made in answers], [made.token_counts.to_dict() for made in answers]

    return answer


def test_batches_give_the_answers_of_single_questions(run):
    alone, single = run(share_prefix=False)
    for size in (2, 4, 50):
        texts, counts = run(batch_size=size)
        assert texts == alone
        assert [c["prompt_tokens"] for c in counts] == [c["prompt_tokens"] for c in single]
        assert {c["questions_on_video"] for c in counts} == {3}
        assert {c["reused_tokens"] for c in counts} == {0}
    assert len(set(alone)) > 3


def test_requests_of_other_lengths_are_other_batches(run):
    lengths = (1, 4, 1, 4, 4, 2)
    alone, single = run(lengths=lengths)
    texts, counts = run(batch_size=6, lengths=lengths)
    assert texts == alone
    assert [c["output_tokens"] for c in counts] == [c["output_tokens"] for c in single]


def test_questions_on_a_video_share_its_prefill_unless_told_otherwise(run):
    alone, single = run(share_prefix=False)
    texts, counts = run()
    assert texts == alone
    assert {c["reused_tokens"] for c in single} == {0}
    assert sorted(c["reused_tokens"] > 0 for c in counts) == [False] * 2 + [True] * 4  # two videos
    for shared, whole in zip(counts, single, strict=True):
        assert shared["layer_lengths"][0] + shared["reused_tokens"] == whole["layer_lengths"][0]
        assert (shared["flops"]["prefill"] < 0.5 * whole["flops"]["prefill"]) == (shared["reused_tokens"] > 0)


def test_later_questions_add_no_vision_and_no_encoder_operations(run):
    _, counts = run()
    seconds = {tuple(c["seconds"][stage] for stage in ("decode", "vision")) for c in counts}
    assert len(seconds) == 2  # measured once for each video
    assert len({c["flops"]["vision"] for c in counts}) == 1


def test_a_sample_that_fails_takes_nobody_of_its_batch_along(run, docs, tmp_path, caplog):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    whole, _ = run()
    with caplog.at_level(logging.WARNING):
        texts, counts = run({2: str(tmp_path / "bad.mp4")}, batch_size=3, on_error="skip")
    assert texts[2] == "" and "VideoError" in counts[2]["error"]
    assert [text for i, text in enumerate(texts) if i != 2] == [text for i, text in enumerate(whole) if i != 2]
    assert "answered one by one" in caplog.text
    assert len(run.journal) == len(docs)


def test_a_batch_for_which_memory_is_too_small_is_halved_and_that_is_said_once(run, caplog):
    alone, _ = run(share_prefix=False)
    sizes = []

    def limited(module, given):
        sizes.append(len(given[0]))
        if len(given[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.")

    hook = run.vlm.layers[0].register_forward_pre_hook(limited)
    with hook, caplog.at_level(logging.WARNING):
        texts, counts = run(batch_size=6)
    assert texts == alone and [c["smaller_batch"] for c in counts] == [True] * 6
    assert [size for size in sizes if size > 2] == [6, 3]  # and no batch of 3 again
    [said] = [r.getMessage() for r in caplog.records if "memory" in r.getMessage()]
    assert "batches of 6 questions are halved: out of memory: reading 6 x" in said and "wanted 2.00 GiB more" in said
    shown = io.StringIO()
    handler = logger.add(shown)
    report([Answer("", SampleCost.from_dict(each)) for each in counts], [], toy=False)
    logger.remove(handler)
    assert re.search(r"answers_in_smaller_batches\D+6", shown.getvalue())


def test_a_run_without_a_clock_gives_the_same_answers_without_seconds(run):
    texts, counts = run()
    timeless, uncounted = run(timing="off")
    assert timeless == texts and [c["seconds"] for c in uncounted] == [{}] * 6
    assert all(c["seconds"]["prefill"] > 0 for c in counts)
    assert [c["flops"] for c in uncounted] == [c["flops"] for c in counts]


def test_answers_before_the_failure_are_kept(run, docs, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    last = len(docs) - 1
    with pytest.raises(SampleError, match=r"bad\.mp4"):
        run({last: str(tmp_path / "bad.mp4")}, batch_size=6)
    assert len(run.journal) == last


@pytest.mark.parametrize("size", [1, 4])
def test_answers_on_the_first_video_of_a_process_are_its_warm_up(run, docs, size):
    _, counts = run(batch_size=size)
    cold = {doc["video_path"] for doc, cost in zip(docs, counts, strict=True) if cost["cold"]}
    assert len(cold) == 1
    assert [cost["cold"] for cost in counts] == [doc["video_path"] in cold for doc in docs]
