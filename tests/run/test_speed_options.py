"""Options that only make a run faster leave every answer as it is."""

import pytest
from lmms_eval.api.instance import Instance

import lmms_kvtp.video.load as load
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp

TASK = "skvqa_synth_look"
METHODS = {
    "random": {"scorer": "uniform", "allocator": "uniform", "pruner": "random"},
    "kvtp+prumerge": {"scorer": "similarity", "allocator": "softmax", "pruner": "prumerge"},
}
OFF = {"share_prefix": False, "batch_size": 1, "decode_ahead_mib": 0, "num_threads": 1, "preprocess": "exact"}
CACHED = {"frame_cache": "a folder of the test's own"}
ON = {
    "the defaults": {},
    "shared prefixes, videos ahead": {"share_prefix": True, "batch_size": 1, "decode_ahead_mib": 8},
    "batches, videos ahead": {"share_prefix": True, "batch_size": 3, "decode_ahead_mib": 8},
    "batches alone": {**OFF, "batch_size": 2},
    "other chunks": {**OFF, "chunk_size": 5, "vision_batch": 3},
    "decoder threads": {**OFF, "num_threads": 3},
    "frames to a cache": {**OFF, **CACHED},
    "frames from a cache": {**OFF, **CACHED},
    "frames from a cache, videos ahead": {**OFF, **CACHED, "decode_ahead_mib": 8, "decode_ahead_processes": 2},
    "shared prefixes, all at once, videos ahead": {**CACHED, "decode_ahead_mib": 8, "num_threads": 0},
}


@pytest.fixture(scope="module")
def docs(lookalike, tmp_path_factory):
    return lookalike.write_task(tmp_path_factory.mktemp("task"), TASK, videos=3, questions=3)


@pytest.fixture(scope="module")
def run(checkpoint, docs):
    """Answer all questions."""

    def answer(**settings):
        model = LlavaVideoKvtp(
            pretrained=str(checkpoint), journal="none", device="cpu", keep_ratio=0.4, fps=2, **settings
        )
        model.task_dict[TASK] = {"test": docs}
        requests = []
        for i, doc in enumerate(docs):
            path, text = doc["video_path"], doc["question"] + " And so on?" * (i % 4)  # batches are padded
            arguments = (text, {"max_new_tokens": 6}, lambda _, p=path: [p], i, TASK, "test")
            requests.append(Instance("generate_until", arguments, 0, {"task": TASK, "doc_id": i, "repeats": 1}))
        answers = model.generate_until(requests)
        return [made.text for made in answers], [made.token_counts.to_dict() for made in answers]

    return answer


@pytest.fixture(scope="module", params=METHODS)
def method(request, run):
    settings = METHODS[request.param]
    return request.param, settings, *run(**settings, **OFF)


@pytest.mark.parametrize("options", ON)
def test_answers_and_what_is_kept_are_those_of_a_run_without_it(run, method, options, tmp_path, monkeypatch):
    name, settings, alone, single = method
    speed = {**ON[options], **({"frame_cache": str(tmp_path)} if "frame_cache" in ON[options] else {})}
    if "from a cache" in options:
        run(**settings, **OFF, frame_cache=str(tmp_path))
    opened, open_reader = [], load.open_reader
    monkeypatch.setattr(load, "open_reader", lambda *given: opened.append(given) or open_reader(*given))
    texts, counts = run(**settings, **speed)
    assert texts == alone
    assert [c["tokens_kept"] for c in counts] == [c["tokens_kept"] for c in single]
    assert [c["prompt_tokens"] for c in counts] == [c["prompt_tokens"] for c in single]
    assert len(set(alone)) > 5, "the questions do not tell the answers apart"
    used = {
        "ahead": all("waiting" in c["seconds"] for c in counts),
        "reused": any(c["reused_tokens"] for c in counts),
        "decoded here": bool(opened),
    }
    assert used == {
        "ahead": "ahead" in options,
        "reused": options.startswith(("shared", "the defaults")) and name == "random",
        "decoded here": "ahead" not in options and "from a cache" not in options,
    }
    assert bool(list(tmp_path.glob("*.frames"))) == ("frame_cache" in ON[options])
