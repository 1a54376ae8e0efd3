import json

import pytest

from lmms_kvtp.training.predictor.examples import read_index, synthetic


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
    first, second = read_index(index(tmp_path, *entries), tmp_path / "videos")
    assert first.source == str(tmp_path / "videos" / "a.mp4")
    assert [question.refined for question in first.questions] == ["Who sings? Choices: man.", "Where?"]
    assert [question.spans for question in first.questions] == [((1.0, 2.5, 4.0),), ((0.0, 1.0, 0.0),)]
    assert second.questions[0].spans == ()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"video": "a.mp4", "question": "Who?"}, "KeyError 'spans'"),
        ({"video": "a.mp4", "question": "Who?", "spans": [[0, 1, 6]]}, r"a score of 0 to 5"),
        ({"video": "a.mp4", "question": "Who?", "spans": [[2, 1, 3]]}, r"a later end"),
        ({"video": "a.mp4", "question": "Who?", "spans": [[2, 1]]}, "not enough values"),
        ([], "TypeError"),
    ],
)
def test_a_bad_line_is_named(tmp_path, entry, reason):
    good = {"video": "a.mp4", "question": "Who?", "spans": []}
    with pytest.raises(ValueError, match=rf"index\.jsonl, line 2: .*{reason}"):
        read_index(index(tmp_path, good, entry), tmp_path)


def test_the_synthetic_benchmark_gives_questions_with_spans_on_the_papers_scale(tmp_path, monkeypatch):
    monkeypatch.setenv("LMMS_KVTP_HOME", str(tmp_path))
    (example,) = synthetic("train", [3])
    assert example.source.startswith(str(tmp_path)) and len(example.questions) > 4
    assert {score for question in example.questions for _, _, score in question.spans} == {5.0}
    assert all("Choices:" in question.refined for question in example.questions)
