"""Entries for tests."""

from typing import Any

from lmms_kvtp.skvqa.entry import Entry, make_entry


def entry(question_id: str = "001-1", dataset: str = "videomme", **changes: Any) -> Entry:
    """A question on 20 frames in three clips, the second of which matters."""
    values: dict[str, Any] = {
        "question_id": question_id,
        "video_id": "clip_1",
        "video": "data/clip_1.mp4",
        "question": "What color is the star?",
        "options": ("A. red", "B. blue"),
        "refined": "What color is the star? Choices: red, blue.",
        "num_frames": 20,
        "duration": 21.5,
        "edges": ((0.0, 8.0), (8.0, 16.0), (16.0, 21.5)),
        "clip_scores": (0.0, 4.0, 1.0),
        "captions_hash": "c0ffee",
        "models": {"captioner": "tiny", "refiner": "rule", "scorer": "tiny"},
        "prompts": "v1",
    }
    return make_entry(dataset=dataset, **{**values, **changes})


def long_entry(question_id: str, frames: int, peak: float, **changes: Any) -> Entry:
    """A question whose first clip has the score `peak` and all others 0; its seconds are unknown."""
    clips = -(-frames // 8)
    scores = (peak, *[0.0] * (clips - 1))
    return entry(question_id, num_frames=frames, clip_scores=scores, edges=(), duration=float(frames), **changes)
