"""The harness model on a random checkpoint and real videos, called as the harness calls it."""

import json
import subprocess
import sys
from argparse import Namespace
from shutil import copytree
from types import SimpleNamespace

import pytest
from datasets import Dataset
from lmms_eval.api.instance import Instance
from loguru import logger

from lmms_kvtp.cost.sample import lookup
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.harness.results import CIRCULAR
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.run.answerer import SampleError
from lmms_kvtp.run.journal import read
from lmms_kvtp.run.ranks import send_back
from lmms_kvtp.run.source import of_encoder

TASK = "skvqa_synth_look"
PRUNER = """
from dataclasses import dataclass

from lmms_kvtp.pruners.base import ScorePruner


@dataclass(frozen=True)
class Mine(ScorePruner):
    "{}"

    def score(self, tokens, features):
        return tokens.embeds[..., 0]
"""


@pytest.fixture(scope="module")
def docs(lookalike, tmp_path_factory):
    return lookalike.write_task(tmp_path_factory.mktemp("task"), TASK, videos=3, questions=2)


@pytest.fixture
def build(checkpoint, docs, tmp_path):
    """Build the wrapper, with pruning at random unless the test says otherwise: that needs no image-text model."""

    def make(**settings):
        common = {
            "pretrained": str(checkpoint),
            "journal": str(tmp_path / "journals"),
            "device": "cpu",
            "batch_size": 1,
        }
        random = {"scorer": "uniform", "allocator": "uniform", "pruner": "random", "keep_ratio": 0.4}
        model = LlavaVideoKvtp(**common | random | settings)
        model.task_dict[TASK] = {"test": docs}
        return model

    return make


class Task:
    """As much of a harness task as a request leads to."""

    args = None

    def doc_to_visual(self, doc):
        return [doc["video_path"]]


def instance(doc_id, visual=None, settings=None, prompt=None, **metadata):
    prompt = prompt or f"What is thing {doc_id}?\nA. red\nB. blue"
    arguments = (prompt, settings or {"max_new_tokens": 4}, visual or Task().doc_to_visual, doc_id, TASK, "test")
    about = {"task": TASK, "doc_id": doc_id, "repeats": 1, "version": 1.5, **metadata}
    return Instance("generate_until", arguments, 0, about)


def test_answers_come_in_the_order_of_requests_whatever_the_order_of_work(build, docs):
    model = build()
    together = model.generate_until([instance(i) for i in range(len(docs))])
    alone = [build().generate_until([instance(i)])[0] for i in range(len(docs))]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert len({answer.text for answer in together}) > 2  # the test could not see a wrong order otherwise


def test_questions_on_a_video_are_answered_together_and_share_its_encoding(build, docs):
    model = build()
    model.generate_until([instance(i) for i in range(len(docs))])
    lines = model.session.journal.path.read_text().splitlines()[1:]
    worked = [json.loads(line)["document"].split("/")[1].split("-")[0] for line in lines]
    first_met = list(dict.fromkeys(doc["kvtp_id"].split("/")[1].split("-")[0] for doc in docs))
    assert worked == [video for video in first_met for _ in range(2)]
    costs = [json.loads(line)["cost"] for line in lines]
    assert {cost["questions_on_video"] for cost in costs} == {2}
    assert costs[0]["seconds"]["vision"] == costs[1]["seconds"]["vision"]


def test_costs_reach_the_samples_and_the_task(build, docs):
    [answer] = build().generate_until([instance(1)])
    cost = lookup(docs[1]["kvtp_id"])
    counts = answer.token_counts.to_dict()
    assert cost is not None
    assert counts["tokens_kept"] == cost.tokens_kept == int(0.4 * cost.tokens_before)
    assert counts["input_tokens"] == cost.prompt_tokens == cost.layer_lengths[0]
    assert counts["output_tokens"] == cost.output_tokens <= 4


def test_padding_is_neither_answered_nor_counted(build):
    model = build()
    answers = model.generate_until([instance(0), instance(0, __padding_only__=True)])
    assert (answers[1].text, answers[1].token_counts) == ("", None)
    assert len(read(model.session.journal.path).answers) == 1


def test_tasks_without_a_length_get_the_wrappers_own(build):
    [answer] = build(max_new_tokens=2).generate_until([instance(0, settings={"until": []})])
    assert answer.token_counts.output_tokens <= 2


def test_decoding_settings_are_honoured(build):
    model = build()
    [whole] = model.generate_until([instance(0, settings={"max_new_tokens": 9})])
    stop = whole.text[len(whole.text) // 2]
    [cut] = model.generate_until([instance(0, settings={"max_new_tokens": 9, "until": stop})])
    [beams] = model.generate_until([instance(0, settings={"max_new_tokens": 9, "num_beams": 3})])
    assert cut.text == whole.text.split(stop)[0].strip()
    assert beams.text != whole.text


def test_repeated_samples_differ_and_a_second_run_repeats_them(build):
    settings = {"max_new_tokens": 6, "temperature": 1.0}
    first = [a.text for a in build().generate_until([instance(0, settings=settings)] * 3)]
    again = [a.text for a in build().generate_until([instance(0, settings=settings)] * 3)]
    other = [a.text for a in build(seed=9).generate_until([instance(0, settings=settings)] * 3)]
    assert len(set(first)) == 3
    assert first == again != other


def test_the_harnesss_flag_for_chat_templates_is_refused_with_the_reason(build):
    model = build()
    for ask in (lambda: model.apply_chat_template([]), lambda: model.chat_template):
        with pytest.raises(NotImplementedError, match="--apply_chat_template: the model's own template is always"):
            ask()


def test_a_question_of_text_alone_is_answered(build):
    [answer] = build().generate_until([instance(0, visual=lambda doc: None)])
    assert answer.token_counts.to_dict()["tokens_before"] == 0
    assert answer.text


def test_an_unreadable_video_ends_the_run_and_names_all(build, docs, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    model = build()
    with pytest.raises(SampleError, match=rf"{docs[1]['kvtp_id']} of task {TASK} on .*bad\.mp4: VideoError"):
        model.generate_until([instance(0), instance(1, visual=lambda doc: [str(tmp_path / "bad.mp4")])])
    assert len(read(model.session.journal.path).answers) == 1  # the first answer is kept


def test_an_interrupted_run_keeps_its_answers_and_says_how_to_go_on(build, docs):
    def interrupted(doc):
        if visits:
            raise KeyboardInterrupt
        visits.append(doc)
        return [doc["video_path"]]

    visits, said = [], []
    sink = logger.add(said.append, format="{message}")
    model = build()
    other = next(i for i, doc in enumerate(docs) if doc["video_path"] != docs[0]["video_path"])
    with pytest.raises(KeyboardInterrupt):
        model.generate_until([instance(0), instance(other, visual=interrupted)])
    assert len(read(model.session.journal.path).answers) == 1
    logger.remove(sink)
    assert f"go on with resume={model.session.journal.path}" in "".join(said)


def test_or_its_sample_is_skipped_visibly_and_the_others_are_answered(build, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    requests = [instance(0), instance(1, visual=lambda doc: [str(tmp_path / "bad.mp4")]), instance(2)]
    model = build(on_error="skip")
    first, skipped, last = model.generate_until(requests)
    assert first.text and last.text
    assert skipped.text == ""
    assert list(skipped.token_counts.to_dict()) == ["error"]
    assert "VideoError" in skipped.token_counts.to_dict()["error"]
    assert len(model.session.failures) == 1


def test_a_missing_video_is_found_before_any_work(build, tmp_path):
    model = build()
    with pytest.raises(FileNotFoundError, match="1 of 2 videos are not there"):
        model.generate_until([instance(0), instance(1, visual=lambda doc: ["/none/gone.mp4"])])
    assert not read(model.session.journal.path).answers


def test_a_prompt_that_is_too_long_is_an_error_or_has_fewer_frames(build):
    long = instance(0, prompt="word " * 1330, settings={"max_new_tokens": 1})  # leaves about 80 positions for vision
    whole = {"pruner": "none", "keep_ratio": 1}
    with pytest.raises(SampleError, match=r"PromptTooLongError.*the model's limit is 4096"):
        build(**whole).generate_until([long])
    [answer] = build(**whole, too_long="fewer_frames").generate_until([long])
    counts = answer.token_counts.to_dict()
    assert 4000 < counts["input_tokens"] <= 4096
    assert 0 < counts["tokens_kept"] < 75


def test_answers_are_resumed_only_where_nothing_changed(build):
    requests = [instance(i) for i in range(3)]
    first = build()
    answers = first.generate_until(requests[:2])
    second = build(resume=str(first.session.journal.path))
    resumed = second.generate_until(requests)
    assert second.session.resumed == 2
    assert [a.text for a in resumed[:2]] == [a.text for a in answers]
    assert resumed[0].token_counts.to_dict() == answers[0].token_counts.to_dict()
    assert len(read(second.session.journal.path).answers) == 3  # a third run can resume from the second alone
    changed = build(resume=str(first.session.journal.path), keep_ratio=0.5)
    changed.generate_until(requests)
    assert changed.session.resumed == 0
    assert changed.session.earlier.difference(changed.built.setup) == ["method"]


def test_an_edited_component_never_gets_yesterdays_answers(build, tmp_path, monkeypatch):
    (tmp_path / "kvtp_test_pruner.py").write_text(PRUNER.format("as it was"))
    monkeypatch.syspath_prepend(tmp_path)
    first = build(pruner="kvtp_test_pruner:Mine")
    first.generate_until([instance(0)])
    (tmp_path / "kvtp_test_pruner.py").write_text(PRUNER.format("edited"))
    second = build(pruner="kvtp_test_pruner:Mine", resume=str(first.session.journal.path))
    second.generate_until([instance(0)])
    assert second.session.resumed == 0
    assert second.session.earlier.difference(second.built.setup) == ["source"]


def test_conversations_select_tokens_anew_for_each_turn(build, docs):
    seen = []

    def next_turn(doc, previous_output, round_idx, previous_round_info):
        seen.append((list(previous_output), round_idx, previous_round_info))
        visuals = None if round_idx == 2 else [doc["video_path"]]
        return visuals, f"And then? {round_idx}", round_idx == 3, tuple(previous_output), {"round": round_idx}

    arguments = ("What?", {"max_new_tokens": 3}, Task().doc_to_visual, next_turn, 0, TASK, "test")
    request = Instance("generate_until_multi_round", arguments, 0, {"task": TASK, "doc_id": 0, "repeats": 1})
    [conversation] = build().generate_until_multi_round([request])
    turns = conversation.token_counts.to_dict()["rounds"]
    assert isinstance(conversation.text, list) and len(conversation.text) == 3
    assert [entry[1:] for entry in seen] == [(1, None), (2, {"round": 1}), (3, {"round": 2})]
    assert [entry[0] for entry in seen] == [conversation.text[:n] for n in (1, 2, 3)]
    assert [turn["tokens_kept"] > 0 for turn in turns] == [True, True, False]


def test_a_conversation_that_fails_is_told_to_all_ranks(build, monkeypatch):
    told = []

    def listened(answers, failure):
        told.append((len(answers), failure))
        return send_back(answers, failure)  # that it ends all ranks is tested with two of them in test_exchange.py

    def next_turn(doc, previous_output, round_idx, previous_round_info):
        return ["/no/such.mp4"], "And then?", False, previous_output, None

    monkeypatch.setattr("lmms_kvtp.model_wrappers.llava_video.send_back", listened)
    arguments = ("What?", {"max_new_tokens": 1}, Task().doc_to_visual, next_turn, 0, TASK, "test")
    request = Instance("generate_until_multi_round", arguments, 0, {"task": TASK, "doc_id": 0, "repeats": 1})
    with pytest.raises(SampleError, match=r"no/such\.mp4") as caught:
        build().generate_until_multi_round([request])
    assert told == [(0, caught.value)]


def test_log_likelihoods_are_refused_with_the_reason(build):
    with pytest.raises(NotImplementedError, match=r"some_ll asks for log-likelihoods.*every score would be wrong"):
        build().loglikelihood([SimpleNamespace(task_name="some_ll")])


def test_the_effective_method_and_versions_go_into_the_results(build, tmp_path):
    task = Task()
    task.args = Namespace(output_path=str(tmp_path / "out"), model_args="pretrained=some/model", timezone="UTC")
    model = build(journal="auto", seed=7)
    model.generate_until([instance(0, visual=task.doc_to_visual)])
    told = task.args.lmms_kvtp
    assert told["method"]["pruner"]["class"] == "lmms_kvtp.pruners.random:RandomTokens"
    assert told["method"]["pruner"]["seed"] == told["seed"] == 7
    assert {"torch", "transformers", "lmms_eval", "lmms_kvtp"} <= set(told["versions"])
    assert {"av", "pillow", "torch"} <= {maker.split()[0] for maker in told["decoders"]}
    assert (told["toy"], told["failed"], told["resumed"]) == (False, 0, 0)
    assert json.loads(json.dumps(told)) == told
    assert [path.parent.name for path in (tmp_path / "out").rglob("*_journal_rank0.jsonl")] == ["some__model"]


def test_an_index_of_the_methods_own_encoder_is_noted_in_the_results(build, docs, checkpoint, tmp_path):
    copied = copytree(checkpoint / "siglip", tmp_path / "another name")
    own = str(checkpoint / "siglip"), of_encoder(Siglip(str(copied)))
    model = build(scorer="similarity", allocator="softmax")
    task = Task()
    task.args = Namespace(output_path=None)
    for encoders, notes in (([None, own], {TASK: CIRCULAR}), ([None, ("other", "123")], {}), ([None, None], {})):
        column = [encoders[i > 0] for i in range(len(docs))]
        model.task_dict[TASK] = {"test": Dataset.from_list(docs).add_column("index_encoder", column)}
        model.generate_until([instance(0, visual=task.doc_to_visual)])
        assert task.args.lmms_kvtp["notes"] == notes


def test_the_toy_is_refused_on_other_tasks(build, monkeypatch):
    model = build()
    monkeypatch.setattr(model.built.vlm, "toy", True)
    [answer] = model.generate_until([instance(0)])
    assert answer.token_counts.to_dict()["toy"] is True
    foreign = instance(0)
    foreign.task_name = "videomme"
    with pytest.raises(ValueError, match=r"toy made for skvqa_synth; on videomme .*allow_toy=true"):
        model.generate_until([foreign])
    allowed = build(allow_toy=True)
    monkeypatch.setattr(allowed.built.vlm, "toy", True)
    assert allowed.generate_until([foreign])[0].token_counts.to_dict()["toy"] is True


@pytest.mark.parametrize("settings", [{"prunner": "tome"}, {"pruner.sead": 3}, {"pruner": "tomee"}])
def test_typos_are_found_before_the_model_loads(build, settings):
    with pytest.raises(LookupError, match="did you mean"):
        build(pretrained="/no/such/folder", **settings)


def test_a_rank_leaves_its_group_before_its_process_ends(checkpoint, tmp_path):
    code = f"""
import atexit
import torch.distributed as dist
atexit.register(lambda: print("in a group:", dist.is_initialized()))  # runs behind what is registered later
dist.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=0, world_size=1)
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
LlavaVideoKvtp(pretrained={str(checkpoint)!r}, device="cpu", journal="none", pruner="random", scorer="uniform")
print("in a group:", dist.is_initialized())
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    told = [line for line in run.stdout.splitlines() if line.startswith("in a group:")]
    assert told == ["in a group: True", "in a group: False"], run.stderr
