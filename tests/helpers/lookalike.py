"""A small benchmark in the form of the harness: real mp4 files, a YAML, its functions and its documents."""

import json
import random
from pathlib import Path
from typing import Any

import av
import numpy as np

FRAMES, WIDTH, HEIGHT = 12, 96, 64

UTILS = """
def doc_to_visual(doc):
    return [doc["video_path"]]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    options = [f"{letter}. {option}" for letter, option in zip("ABCD", doc["options"])]
    return "\\n".join([doc["question"], *options, "Answer with the option's letter."])


def process_results(doc, results):
    from lmms_kvtp.cost.sample import lookup

    cost = lookup(doc["kvtp_id"])
    return {
        "score": float(len(results[0])),
        "question_id": doc["kvtp_id"],
        "kept": float(cost.tokens_kept) if cost else -1.0,
    }
"""

YAML = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: docs.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 3
metric_list:
  - metric: score
    aggregation: mean
    higher_is_better: true
  - metric: kept
    aggregation: mean
    higher_is_better: false
metadata:
  version: 1.5
"""


def write_video(path: Path, seed: int = 0, frames: int = FRAMES) -> Path:
    """Noise in H.264, two frames a second."""
    noise = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(frames):
            image = noise.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_task(folder: Path, name: str, videos: int, questions: int) -> list[dict[str, Any]]:
    """Write a task whose documents are shuffled, so that questions on one video do not stand together."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [write_video(folder / f"clip{video}.mp4", video) for video in range(videos)]
    docs = [
        {
            "kvtp_id": f"{name}/{video}-{question}",
            "video_path": str(path),
            "question": f"What is thing {question} of clip {video}?",
            "options": ["red", "green", "blue"],
            "answer": "A",
            "spans": [[0.0, 1.5, 1.0]],
        }
        for video, path in enumerate(paths)
        for question in range(questions)
    ]
    random.Random(0).shuffle(docs)
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (folder / "utils.py").write_text(UTILS)
    (folder / f"{name}.yaml").write_text(YAML.format(name=name))
    return docs
