import json

import pytest
from helpers.skvqa_lookalikes import write_dataset, write_json

from lmms_kvtp.__main__ import main
from lmms_kvtp.skvqa.index import read_entries
from lmms_kvtp.skvqa.layouts import SourceQuestion
from lmms_kvtp.skvqa_build.release import ReleaseError, match_items, read_release, read_segments

PATH = "/home/somebody/hf_data/videomme/data/clip_1.mp4"
QUESTIONS = [
    SourceQuestion("1-1", "clip_1", "data/clip_1", "What is it?", ("A. A star.", "B. A square.")),
    SourceQuestion("1-2", "clip_1", "data/clip_1", "What is it?", ("A. A cat.", "B. A dog.")),
]


def prompt(number):
    asked = QUESTIONS[number]
    return f"Select the best answer.\n{asked.question}\n" + "\n".join(asked.options) + "\nThe best answer is:"


def captions(frames, size=8):
    return {f"[{first}, {min(first + size, frames) - 1}]": f"clip {first}" for first in range(0, frames, size)}


def released(tmp_path, items):
    return write_json(tmp_path / "skvqa.json", items)


def test_items_as_text_and_as_list_are_read(tmp_path):
    value = (captions(20), "{[8, 15]: 4, [16,19]:1}", "What? Choices: star, square.")
    found, problems = read_release(
        released(tmp_path, {str((PATH, prompt(0))): str(value), str((PATH, prompt(1))): list(value)})
    )
    assert problems == []
    assert [item.frame_scores for item in found] == [(0.0,) * 8 + (4.0,) * 8 + (1.0,) * 4] * 2
    entries = match_items("videomme", found, QUESTIONS, {}).entries
    assert [entry.question_id for entry in entries] == ["1-1", "1-2"]
    assert (entries[0].clip_size, entries[0].clip_scores, entries[0].num_frames) == (8, (0.0, 4.0, 1.0), 20)
    assert entries[0].refined == "What? Choices: star, square."
    assert entries[0].spans is None
    assert entries[0].captions_hash


def test_segments_that_are_no_clips_of_8_are_kept_frame_by_frame(tmp_path):
    value = (captions(12, 6), "{[0,2]: 3}", "What?")
    found, _ = read_release(released(tmp_path, {str((PATH, prompt(0))): str(value)}))
    [entry] = match_items("videomme", found, QUESTIONS, {}).entries
    assert (entry.clip_size, entry.clip_scores) == (1, (3.0,) * 3 + (0.0,) * 9)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("{[0, 7]: 3, [8,15]:5}", [(0, 7, 3.0), (8, 15, 5.0)]),
        ("[24,29]: 4", [(24, 29, 4.0)]),
        ("{'[0, 7]': 2.5}", [(0, 7, 2.5)]),
    ],
)
def test_segments_are_read(text, segments):
    assert read_segments(text) == segments


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no scores"),
        ("The clip [0,7]: 3 fits", "not of the form"),
        ("{[0,7]: 6}", "a score above 5"),
        ("{[7,0]: 3}", "wrong order"),
        ("{[0,7]: 3, [7,9]: 1}", "overlap at frame 7"),
        ("__import__('os').system('true')", "not of the form"),
    ],
)
def test_other_scores_are_refused(text, message):
    with pytest.raises(ReleaseError, match=message):
        read_segments(text)


def test_damaged_items_are_problems_and_the_others_are_kept(tmp_path):
    good = [captions(20), "{[0, 7]: 3}", "What?"]
    items = {
        str((PATH, prompt(0))): good,
        "__import__('os').remove('x')": good,
        str((PATH,)): good,
        str((PATH, "b")): "open('/etc/passwd')",
        str((PATH, "c")): good[:2],
        str((PATH, "d")): [{"0-7": "x"}, "{[0, 7]: 3}", "What?"],
        str((PATH, "e")): [captions(20), "{[0, 7]: 3}", ""],
        "(" * 900: good,
    }
    found, problems = read_release(released(tmp_path, items))
    assert len(found) == 1
    for number, message in enumerate(
        ["no Python literal", "not a tuple of 2", "no Python literal", "captions, scores", "wanted frames", "refined"]
    ):
        assert message in problems[number]
        assert f"item {number + 2} " in problems[number]
    assert len(problems) == 7


def test_a_file_that_is_no_release_is_refused(tmp_path):
    with pytest.raises(ReleaseError, match="wanted a dict"):
        read_release(released(tmp_path, [1]))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ReleaseError, match="is not JSON"):
        read_release(tmp_path / "broken.json")


def test_items_of_other_videos_and_prompts_are_counted(tmp_path):
    value = [captions(20), "{[0, 7]: 3}", "What?"]
    keys = [(PATH, prompt(0)), ("/x/other.mp4", "?"), (PATH, "Why?"), ("/elsewhere/clip_1.mp4", prompt(0))]
    found, _ = read_release(released(tmp_path, {str(key): value for key in keys}))
    imported = match_items("videomme", found, QUESTIONS, {})
    assert (len(imported.entries), imported.foreign) == (1, 1)
    assert "0 questions fit the prompt" in imported.problems[0]
    assert "question 1-1 occurs again" in imported.problems[1]


def test_the_command_imports_with_seconds_from_the_videos(tmp_path, capsys):
    annotations, videos = write_dataset(tmp_path / "data", "egoschema", videos=2)
    text = "What does C do overall?\nA. C cooks.\nB. C paints.\nC. C reads.\nD. C sews.\nE. C plays.\n"
    items = {
        str((f"/x/egoschema/videos/uuid-{video}.mp4", text)): [captions(frames), "{[8, 15]: 5}", "What?"]
        for video, frames in [(0, 20), (1, 24)]
    }
    command = ["skvqa", "import", released(tmp_path, items), "--dataset", "egoschema", "--annotations", annotations]
    command += ["--videos", videos, "--out", tmp_path]
    assert main([str(part) for part in command]) == 1
    [entry] = read_entries(tmp_path / "egoschema.jsonl")
    assert entry.spans == ((0.0, 8.0, 0.0), (8.0, 16.0, 5.0), (16.0, 20.0, 0.0))
    assert (entry.duration, entry.video) == (20.0, "videos/uuid-0.mp4")
    assert "1 problems" in capsys.readouterr().out  # the second has other frames in the release
    stray = {**json.loads((tmp_path / "egoschema.jsonl").read_text()), "num_frames": 24}
    (tmp_path / "egoschema.jsonl").write_text(json.dumps(stray))
    assert main(["skvqa", "validate", str(tmp_path)]) == 1
