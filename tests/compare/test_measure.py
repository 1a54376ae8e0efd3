"""What is measured of each method on a video that all of them share."""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.small_videos import write_video

from lmms_kvtp.api import Model
from lmms_kvtp.compare.measure import FULL, FileQuestion, MethodOutcome, measure, outcome_of
from lmms_kvtp.compare.summary import without_lost
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.doctor.exam import divergence
from lmms_kvtp.encode import encode_once
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Answer, prepare
from lmms_kvtp.pruners.random import RandomTokens
from lmms_kvtp.questions import Question
from lmms_kvtp.run.answerer import Lane, unrecorded
from lmms_kvtp.run.journal import Session
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video

FRAMES = FrameOptions(max_frames_num=4)
ALL = "scorer=uniform,allocator=uniform,pruner=none,keep_ratio=1,encoder.device=cpu"


@dataclass(frozen=True)
class SlowAtFirst(RandomTokens):
    """Loads something when it is first called."""

    loaded: list = field(default_factory=list, compare=False)

    def score(self, tokens, features):
        if not self.loaded:
            time.sleep(2)
        self.loaded.append(tokens.key)
        return super().score(tokens, features)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    folder = write_tiny(tmp_path_factory.mktemp("models") / "random")
    return Model(load_llava_video(str(folder), LoadOptions(device="cpu")))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "0.mp4", seconds=4, seed=0)


def measured(model: Model, video: Path, questions: int, **methods: Method) -> list[MethodOutcome]:
    """Outcomes of so many questions on one video, by all tokens and then by `methods`."""
    asked = [FileQuestion(n, video, f"Question {n}?", None) for n in range(1, questions + 1)]
    made = measure(lanes(model, **methods), asked, FRAMES, 2)
    return [outcome for outcome, _ in made]


def lanes(model: Model, on_error: str = "raise", **methods: Method) -> dict[str, Lane]:
    """Lanes of all tokens and of `methods`."""
    run = RunOptions(share_prefix=False, on_error=on_error)
    every = {**methods, FULL: model.method(ALL)}
    sessions = {name: Session(method.describe(), None, None) for name, method in every.items()}
    return {name: replace(unrecorded(model.vlm, every[name], run), session=sessions[name]) for name in every}


def test_what_loads_on_first_use_is_in_no_reported_time(model, video):
    slow = replace(model.method(ALL), pruner=SlowAtFirst(), keep_ratio=0.5)
    made = measured(model, video, 2, slow=slow)
    assert [outcome.method for outcome in made] == [FULL, "slow"] * 2
    assert len(slow.pruner.loaded) == 3
    assert max(outcome.seconds_to_first for outcome in made) < 2


def test_divergence_is_from_all_tokens_on_the_same_question(model, video):
    random = replace(model.method(ALL), pruner=RandomTokens(), keep_ratio=0.3)
    made = measured(model, video, 2, random=random)
    loaded = load_video(video, FRAMES)

    def logits(method: Method, text: str) -> torch.Tensor:
        [encoded] = encode_once(model.vlm, [method], loaded)
        return model.vlm.next_token_logits(prepare(model.vlm, method, [encoded], Question(text)).prompt, ())

    for full, pruned in (made[:2], made[2:]):
        parts = [logits(method, full.asked.question) for method in (model.method(ALL), random)]
        assert (full.kl, full.agrees) == (0.0, True)
        assert pruned.kl == pytest.approx(divergence(*parts), rel=1e-3)
        assert pruned.kl != pytest.approx(divergence(*parts[::-1]), rel=1e-2)


def test_what_layers_drop_is_in_the_divergence(model, video):
    fastv = model.method(f"{ALL},layer_pruning=fastv,layer_pruning.layer=1")
    assert [outcome.kl > 0 for outcome in measured(model, video, 1, fastv=fastv)] == [False, True]


def test_every_method_embeds_the_question_itself(model, video, monkeypatch):
    methods = [replace(model.method("encoder.device=cpu"), pruner=RandomTokens(seed)) for seed in (1, 2)]
    embed, embedded = type(methods[0].encoder).embed_text, []

    def counted(encoder, text):
        embedded.append(text)
        return embed(encoder, text)

    monkeypatch.setattr(type(methods[0].encoder), "embed_text", counted)
    measured(model, video, 1, one=methods[0], two=methods[1])
    assert len(embedded) == 2 * 2  # the warm-up, too


def test_questions_on_one_video_share_its_vision(model, video, monkeypatch):
    look, frames = type(model.vlm).look, []

    def counted(vlm, seen, spec):
        frames.append(len(seen.times))
        return look(vlm, seen, spec)

    monkeypatch.setattr(type(model.vlm), "look", counted)
    measured(model, video, 4)
    assert sum(frames) == 2 * FRAMES.max_frames_num  # the warm-up, too


def test_the_first_token_waits_for_no_other():
    cost = SampleCost(seconds={"vision": 6.0, "prefill": 1.0, "generate": 4.0}, questions_on_video=3)
    asked = FileQuestion(1, Path("a.mp4"), "?", None)
    outcome = outcome_of(asked, "m", Answer("a", cost), 0.0, "a")
    assert (outcome.seconds_to_first, outcome.seconds) == (3.0, 7.0)


def test_a_divergence_that_is_no_number_is_not_told():
    asked = FileQuestion(1, Path("a.mp4"), "?", None)
    found = [outcome_of(asked, "m", Answer("a", SampleCost()), kl, "a").kl for kl in (float("nan"), float("inf"), 0.5)]
    assert found == [None, None, 0.5]


def test_what_fails_is_told_where_errors_are_skipped_and_the_others_are_answered(model, video, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    asked = [FileQuestion(n, path, "What?", None) for n, path in enumerate((tmp_path / "broken.mp4", video), start=1)]
    random = replace(model.method(ALL), pruner=RandomTokens(), keep_ratio=0.3)
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        list(measure(lanes(model, random=random), asked, FRAMES, 2))
    made = list(measure(lanes(model, "skip", random=random), asked, FRAMES, 2))
    assert [(outcome.asked.line, outcome.error is None, kept is None) for outcome, kept in made] == [
        (1, False, True),
        (1, False, True),
        (2, True, False),
        (2, True, False),
    ]
    assert not made[0][0].agrees and made[0][0].kl is None and "broken.mp4" in made[0][0].error


@dataclass(frozen=True)
class FailsOnTheSecond(RandomTokens):
    """Refuses the second prompt that it makes."""

    made: list = field(default_factory=list, compare=False)

    def score(self, tokens, features):
        self.made.append(tokens.key)
        if len(self.made) == 3:  # the first one is the warm-up
            raise ValueError("cannot prune this one")
        return super().score(tokens, features)


def test_what_one_method_fails_on_is_counted_against_it(model, video):
    fails = replace(model.method(ALL), pruner=FailsOnTheSecond(), keep_ratio=0.3)
    asked = [FileQuestion(n, video, f"Question {n}?", None) for n in (1, 2, 3)]
    made = [outcome for outcome, _ in measure(lanes(model, "skip", fails=fails), asked, FRAMES, 2)]
    assert [(one.method, one.asked.line) for one in made if one.error] == [("fails", 2)]
    left, notes = without_lost(made)
    assert len(left) == 6
    assert notes == ["1 answers failed and count as ones that differ: fails, line 2: ValueError: cannot prune this one"]


def test_a_question_with_all_of_its_outcomes_is_not_asked_again(model, video):
    random = replace(model.method(ALL), pruner=RandomTokens(), keep_ratio=0.3)
    asked = [FileQuestion(n, video, f"Question {n}?", None) for n in (1, 2)]
    first = [outcome for outcome, _ in measure(lanes(model, random=random), asked, FRAMES, 2)]
    rows = [MethodOutcome.from_row(json.loads(json.dumps(outcome.to_row()))) for outcome in first]
    assert rows == first
    known = {outcome.key: outcome for outcome in rows if (outcome.asked.line, outcome.method) != (2, "random")}
    again = list(measure(lanes(model, other=random), asked, FRAMES, 2, known))
    assert [outcome.method for outcome, _ in again] == [FULL, "other"] * 2
    assert [kept is None for _, kept in again] == [True, True, False, False]
    assert again[0][0].seconds == first[0].seconds and again[3][0].kl == pytest.approx(first[3].kl)
    longer = list(measure(lanes(model, other=random), asked[:1], FRAMES, 3, known))
    assert [kept is None for _, kept in longer] == [False, False]


def test_the_oracle_reads_the_spans_of_the_file(model, video):
    asked = [FileQuestion(1, video, "When?", None, ((0.0, 1.0, 5.0),))]
    oracle = model.method("scorer=oracle,allocator=hard,pruner=random,keep_ratio=0.25,encoder.device=cpu")
    [_, (_, kept)] = list(measure(lanes(model, oracle=oracle), asked, FRAMES, 2))
    assert kept.packed.counts().tolist()[0] == max(kept.packed.counts().tolist())
