"""Scorers that need no chat, what they are given, and the store that keeps their answers."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.checkpoints import write_tiny
from hypothesis import given
from hypothesis import strategies as st

from lmms_kvtp.skvqa.entry import clip_rates
from lmms_kvtp.skvqa_build.ask import ask_all
from lmms_kvtp.skvqa_build.chat import ChatRequest
from lmms_kvtp.skvqa_build.local import LocalModel
from lmms_kvtp.skvqa_build.scorers import MAX_CAPTION, ChatScorer, OneByOne, Scoreable, below_best, scoring_prompt
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.skvqa_build.videos import Clips
from lmms_kvtp.video.sampling import FrameOptions


def counted(folder: str) -> OneByOne:
    """A scorer of known scores."""
    return OneByOne("counted", folder, lambda question: (1.0, 2.0), needs_captions=False)


def clips(num_frames=12):
    times = tuple(float(second) for second in range(num_frames))
    return Clips(Path("v.mp4"), "key", num_frames, 12.5, times, FrameOptions(), 8)


@given(st.lists(st.floats(-4, 0), min_size=1, max_size=9), st.floats(-50, 50))
def test_rates_of_similarities_are_those_of_their_logits(logits, shift):
    scores = below_best([logit + shift for logit in logits])
    frames = 8 * len(logits)
    assert max(scores) == 5.0
    assert clip_rates(scores, frames) == pytest.approx(clip_rates(logits, frames), rel=1e-4)


def test_logits_far_below_the_best_have_score_0():
    assert below_best([3.0, -7.0, 2.0]) == (5.0, 0.0, 4.0)


def test_a_clip_lasts_to_the_first_frame_of_the_next_and_the_last_one_to_the_end():
    assert clips().edges == ((0.0, 8.0), (8.0, 12.5))
    assert clips().bounds == [(0, 7), (8, 11)]


def test_a_runaway_caption_is_cut_and_braces_stay_characters():
    text = scoring_prompt(Scoreable("q", "Why {x}?", clips(), ("long " * 2000, "{y} \u4e00")))
    assert "8-11: {y} \u4e00\n" in text
    assert "<question>Why {x}?</question>" in text
    assert len(text) < MAX_CAPTION + 1500
    assert text.count("...") == 1


@pytest.mark.parametrize("room", [511, -1])
def test_a_prompt_beyond_the_models_context_fails_with_length_limit_and_the_way_out(tmp_path, room):
    model = LocalModel(str(write_tiny(tmp_path / "model", siglip=False)))
    asked = Scoreable("q1", "Why?", clips(120), ("long " * 50,) * 15)
    model.vlm.limit = 100_000
    length = model.vlm.assemble([], scoring_prompt(asked)).length
    model.vlm.limit = length + room
    found = ChatScorer(model).score([asked], Store(tmp_path / "calls.sqlite"))
    [lost] = found.failures
    assert (lost.step, lost.subject, found.answers) == ("score", "q1", {})
    assert f"the prompt has {length} positions and its answer up to 512, the limit of" in lost.reason
    assert lost.reason.endswith(f" is {length + room}; --one-by-one scores one caption at a time")


def test_text_similarity_ranks_captions_by_the_model(tmp_path):
    """A bag of words without training: captions that share words with the question are nearer to it."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    from lmms_kvtp.skvqa_build.scorers import text_similarity

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "star", "blue", "car", "where", "is", "the"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = BertModel(config)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight, std=1.0)
    model.save_pretrained(tmp_path)
    scorer = text_similarity(str(tmp_path))
    asked = Scoreable("q1", "where is the red star", clips(), ("blue car", "the red star"))
    store = Store(tmp_path / "calls.sqlite")
    first = scorer.score([asked], store)
    assert first.answers["q1"][1] == 5.0 > first.answers["q1"][0] >= 0.0
    assert text_similarity(str(tmp_path)).score([asked], store) == first
    assert store.usage()[0].calls == 1


def test_other_weights_at_the_same_path_are_another_model(tmp_path):
    folder = write_tiny(tmp_path / "model")
    known = LocalModel(str(folder)).identity
    assert LocalModel(str(folder)).identity == known
    [weights, config] = [folder / "model.safetensors", folder / "config.json"]
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    changes = {weights: bytes(content), config: config.read_bytes() + b"\n"}
    for path, changed in changes.items():
        before = path.read_bytes()
        path.write_bytes(changed)
        assert LocalModel(str(folder)).identity != known
        path.write_bytes(before)
    assert LocalModel(str(folder)).identity == known
    config.rename(folder / "renamed.json")
    assert LocalModel(str(folder)).identity != known
    assert LocalModel("someone/a-model").identity == "someone/a-model "
    assert len(LocalModel("tiny").identity) > 60


def test_finished_calls_of_other_weights_are_not_taken(tmp_path):
    store, requests = Store(tmp_path / "calls.sqlite"), [ChatRequest("refine", "Why?", "q", max_new_tokens=2)]
    for seed in (0, 1, 0):
        folder = write_tiny(tmp_path / "model", seed=seed)
        assert ask_all(LocalModel(str(folder)), store, requests, lambda _, text: text).failures == ()
    assert [used.calls for used in store.usage()] == [2]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_neither_are_scores_of_other_weights(tmp_path, name):
    path, store = tmp_path / "m" / name, Store(tmp_path / "calls.sqlite")
    path.parent.mkdir()
    for content in ("one", "two", "one"):
        path.write_text(content)
        counted(str(path.parent)).score([Scoreable("q1", "Why?", clips())], store)
    assert [used.calls for used in store.usage()] == [2]


def test_the_first_of_two_equal_calls_stays(tmp_path):
    store = Store(tmp_path / "a" / "calls.sqlite")
    store.put("k", "one", "score", "m", 3, 4)
    store.put("k", "two", "score", "m", 30, 40)
    assert store.get("k") == "one"
    assert store.get("other") is None
    assert [(used.calls, used.input_tokens, used.output_tokens) for used in store.usage()] == [(1, 3, 4)]


FILL = """
import pathlib, resource, signal, sys
from lmms_kvtp.skvqa_build.store import Store, StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
store = Store(pathlib.Path(sys.argv[1]))
try:
    for number in range(100):
        store.put(str(number), "x" * 5_000, "caption")
except StoreError as error:
    print(number, error)
"""


def test_a_full_disk_is_explained_and_earlier_calls_are_kept(tmp_path):
    path = tmp_path / "calls.sqlite"
    run = subprocess.run([sys.executable, "-P", "-c", FILL, str(path)], capture_output=True, text=True, check=True)
    number, _, message = run.stdout.partition(" ")
    assert "cannot use the store" in message
    assert "free some space there" in message
    assert 3 < int(number) < 15
    assert [Store(path).get(str(kept)) for kept in range(int(number))] == ["x" * 5000] * int(number)


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "calls.sqlite").write_text("no database, and long enough to be looked at" * 100)
    with pytest.raises(OSError, match=r"cannot use the store .*calls.sqlite: file is not a database"):
        Store(tmp_path / "calls.sqlite")
