import json

import pytest
import torch

from lmms_kvtp.predictor.examples import FrameCountError, labels_of, read_examples, synthetic
from lmms_kvtp.skvqa.stats import Criteria


def index(folder, *entries):
    path = folder / "index.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in entries))
    return path


def test_questions_of_one_video_stand_together(tmp_path):
    entries = [
        {"video": "a.mp4", "question": "In the video, who sings?", "options": ["A. a man"], "spans": [[1, 2.5, 4]]},
        {"video": "b.mp4", "question": "Why?", "spans": []},
        {"video": "a.mp4", "question": "Where is it?", "refined": "Where?", "spans": [[0, 1, 0]]},
    ]
    first, second = read_examples(index(tmp_path, *entries), tmp_path / "videos")
    assert first.source == str(tmp_path / "videos" / "a.mp4")
    assert [question.refined for question in first.questions] == ["Who sings? Choices: man.", "Where?"]
    assert [question.spans for question in first.questions] == [((1.0, 2.5, 4.0),), ((0.0, 1.0, 0.0),)]
    assert second.questions[0].spans == ()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"video": "a.mp4", "question": "Who?"}, 'it has neither "spans" nor "clip_scores"'),
        ({"video": "a.mp4", "question": "Who?", "spans": [[0, 1, 6]]}, r"a score of 0 to 5"),
        ({"video": "a.mp4", "question": "Who?", "spans": [[2, 1, 3]]}, r"a later end"),
        ({"video": "a.mp4", "question": "Who?", "spans": [[2, 1]]}, "not enough values"),
        ([], "it holds a list, wanted an object"),
        ({"question": "Who?", "spans": []}, "it has no 'video'"),
        ({"video": "a.mp4", "question": "Who?", "clip_scores": [1, 2]}, "it has no 'num_frames'"),
        ({"video": "a.mp4", "question": "Who?", "clip_scores": [1, 7], "num_frames": 9}, "clip score 7 is not on the"),
        ({"video": "a.mp4", "question": "Who?", "clip_scores": [1, -1], "num_frames": 9}, "clip score -1 is not on"),
        ({"video": "a.mp4", "question": "Who?", "clip_scores": [], "num_frames": 0}, "0 clip scores do not fit 0 fr"),
        (
            {"video": "a.mp4", "question": "Who?", "clip_scores": [1], "num_frames": 9},
            "do not fit 9 frames in clips of 8",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, entry, reason):
    good = {"video": "a.mp4", "question": "Who?", "spans": []}
    with pytest.raises(ValueError, match=rf"index\.jsonl, line 2: .*{reason}"):
        read_examples(index(tmp_path, good, entry), tmp_path)


@pytest.mark.parametrize("low", [{"spans": [[0, 1, 0.9], [1, 2, 1]]}, {"clip_scores": [1, 0.2], "num_frames": 9}])
def test_scores_of_0_to_1_are_refused_unless_another_question_shows_the_scale(tmp_path, low):
    asked = {"video": "a.mp4", "question": "Who?"}
    nothing, right = {**asked, "spans": []}, {**asked, "spans": [[0, 1, 1.5]]}
    with pytest.raises(ValueError, match=r"index\.jsonl: the largest of all scores is 1, .* 0 to 5: multiply all by 5"):
        read_examples(index(tmp_path, nothing, {**asked, **low}), tmp_path)
    assert len(read_examples(index(tmp_path, {**asked, **low}, right), tmp_path)[0].questions) == 2
    assert len(read_examples(index(tmp_path, nothing), tmp_path)) == 1


def test_the_synthetic_benchmark_gives_questions_with_spans_on_the_papers_scale(tmp_path, monkeypatch):
    monkeypatch.setenv("LMMS_KVTP_HOME", str(tmp_path))
    (example,) = synthetic("train", [3])
    assert example.source.startswith(str(tmp_path)) and len(example.questions) > 4
    assert {score for question in example.questions for _, _, score in question.spans} == {5.0}
    assert all("Choices:" in question.refined for question in example.questions)


def test_clip_scores_of_an_index_become_labels_of_their_frames(tmp_path):
    entry = {"video": "a.mp4", "question": "Who?", "num_frames": 7, "clip_size": 3, "clip_scores": [4, 0, 2.5]}
    plain = {"video": "a.mp4", "question": "Why?", "spans": [[1, 2, 3]]}
    edges = {**entry, "edges": [[0, 3], [3, 6], [6, 7]]}
    (example,) = read_examples(index(tmp_path, entry, plain, edges), tmp_path)
    labels = labels_of(example, torch.arange(7.0))
    assert labels.tolist() == [[4, 4, 4, 0, 0, 0, 2.5], [0, 3, 0, 0, 0, 0, 0], [4, 4, 4, 0, 0, 0, 2.5]]
    assert [question.spans for question in example.questions] == [None, ((1, 2, 3),), None]


def test_scores_of_another_number_of_frames_are_refused(tmp_path):
    entry = {"video": "a.mp4", "question": "Who?", "num_frames": 7, "clip_scores": [4]}
    (example,) = read_examples(index(tmp_path, entry), tmp_path)
    with pytest.raises(
        FrameCountError, match=r"question index\.jsonl:1 has scores of 7 frames, the video gives 6; sample"
    ):
        labels_of(example, torch.arange(6.0))


CHECK = Criteria(beta=2.0, min_frames=64).check_training
LINE = {"video": "a.mp4", "question": "Who?", "clip_scores": [5.0, *[0.0] * 7], "num_frames": 64}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": "evaluation", "dataset": "videomme"}, "line 2: .*data set videomme is for evaluation"),
        ({"split": "training", "sparsity": 1.9}, "sparsity 1.9 is below 2: refused for training; .* skvqa filter"),
        ({"split": "training", "num_frames": 63}, "63 frames are fewer than 64.* --any-lines"),
    ],
)
def test_lines_that_are_not_for_training_are_refused_unless_asked_for(tmp_path, changes, reason):
    path = index(tmp_path, {**LINE, "split": "training", "sparsity": 2.0}, {**LINE, "sparsity": 2.0, **changes})
    with pytest.raises(ValueError, match=reason):
        read_examples(path, tmp_path, check=CHECK)
    [both] = read_examples(path, tmp_path)
    assert len(both.questions) == 2


def test_lines_without_a_split_are_the_users_own(tmp_path):
    short = {**LINE, "clip_scores": [5.0], "num_frames": 8}
    assert len(read_examples(index(tmp_path, short), tmp_path, check=CHECK)) == 1
