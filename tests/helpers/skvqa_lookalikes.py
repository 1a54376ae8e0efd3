"""Small look-alikes of the seven data sets, in the layouts in which they are distributed, with real mp4 files."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

SECONDS = 20
"""Of a look-alike video, at two frames a second."""


def write_video(path: Path, seed: int, seconds: int = SECONDS) -> Path:
    """Scenes of noise that change every few seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        image = np.zeros((64, 96, 3), np.uint8)
        for index in range(2 * seconds):
            if index % 8 == 0:
                image = noise.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_frames(folder: Path, seed: int, seconds: int = SECONDS) -> Path:
    """A folder of images, three a second, as MVBench keeps episodes: numbered from 1, five digits."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    for index in range(3 * seconds):
        if index % 12 == 0:
            image = Image.fromarray(noise.integers(0, 255, (64, 96, 3), dtype=np.uint8))
        image.save(folder / f"{index + 1:05}.jpg")
    return folder


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def videomme_rows(videos: int, questions: int) -> list[dict[str, Any]]:
    return [
        {
            "video_id": f"{video:03}",
            "duration": "long",
            "domain": "Knowledge",
            "sub_category": "Astronomy",
            "url": "https://example.org",
            "videoID": f"-clip_{video}",
            "question_id": f"{video:03}-{question}",
            "task_type": "OCR Problems",
            "question": f"What is shown at sign {question} of clip {video}?",
            "options": ["A. A red star.", "B. A blue square.", "C. A city.", "D. Snow."],
            "answer": "ABCD"[question % 4],
        }
        for video in range(videos)
        for question in range(questions)
    ]


def egoschema_rows(videos: int) -> list[dict[str, Any]]:
    options = ["A. C cooks.", "B. C paints.", "C. C reads.", "D. C sews.", "E. C plays."]
    return [
        {
            "question_idx": str(video),
            "question": "What does C do overall?",
            "video_idx": f"uuid-{video}",
            "option": options,
            "answer": str(video % 5),
        }
        for video in range(videos)
    ]


def nextqa_rows(videos: int, questions: int) -> list[dict[str, Any]]:
    return [
        {
            "video": 4010069381 + video,
            "frame_count": 40,
            "width": 96,
            "height": 64,
            "question": f"why did the baby laugh for the {question}th time",
            "answer": (video + question) % 5,
            "qid": question,
            "type": "CW",
            **{f"a{index}": word for index, word in enumerate(["tickled", "funny dog", "music", "fell", "mother"])},
        }
        for video in range(videos)
        for question in range(questions)
    ]


def write_dataset(folder: Path, dataset: str, videos: int = 2, seconds: int = SECONDS) -> tuple[Path, Path]:
    """Write annotations and videos; returns where they are."""
    annotations, root, names = WRITERS[dataset](folder, videos)
    for seed, name in enumerate(names):
        (write_video if Path(name).suffix else write_frames)(root / name, seed, seconds)
    return annotations, root


def _videomme(folder: Path, videos: int) -> tuple[Path, Path, list[str]]:
    file = write_parquet(folder / "videomme" / "test-00000-of-00001.parquet", videomme_rows(videos, 2))
    return file, folder / "hf" / "videomme", [f"data/-clip_{video}.mp4" for video in range(videos)]


def _egoschema(folder: Path, videos: int) -> tuple[Path, Path, list[str]]:
    file = write_parquet(folder / "Subset" / "test-00000-of-00001.parquet", egoschema_rows(videos))
    return file, folder / "hf" / "egoschema", [f"videos/uuid-{video}.mp4" for video in range(videos)]


def _nextqa(folder: Path, videos: int) -> tuple[Path, Path, list[str]]:
    rows, file = nextqa_rows(videos, 2), folder / "test.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file, folder / "hf" / "nextqa", [f"NExTVideo/1{v}/{4010069381 + v}.mp4" for v in range(videos)]


def _activitynetqa(folder: Path, videos: int) -> tuple[Path, Path, list[str]]:
    asked = [
        {
            "video_name": f"1QIUV7WYKX{video}",
            "question": "does the athlete jump",
            "question_id": f"v_{video}_1",
        }
        for video in range(videos)
    ]
    answers = [{"answer": "yes", "type": 3, "question_id": row["question_id"]} for row in asked]
    write_json(folder / "anet" / "test_q.json", asked)
    write_json(folder / "anet" / "test_a.json", answers)
    return folder / "anet", folder / "hf" / "activitynetqa", [f"all_test/v_1QIUV7WYKX{v}.mp4" for v in range(videos)]


def _perceptiontest(folder: Path, videos: int) -> tuple[Path, Path, list[str]]:
    content = {
        f"video_{video}": {
            "metadata": {"split": "valid", "video_id": f"video_{video}", "frame_rate": 2.0, "num_frames": 40},
            "mc_question": [
                {
                    "id": question,
                    "question": "Is the camera moving or static?",
                    "options": ["moving", "static or shaking", "I don't know"],
                    "answer_id": 1,
                    "area": "physics",
                    "reasoning": "descriptive",
                    "tag": ["motion"],
                }
                for question in (4, 7)
            ],
        }
        for video in range(videos)
    }
    file = write_json(folder / "all_valid.json", content)
    return file, folder / "hf" / "perceptiontest", [f"videos/video_{video}.mp4" for video in range(videos)]


def _videochatgpt(folder: Path, videos: int) -> tuple[Path, Path, list[str]]:
    generic = [{"video_name": f"v_{v}", "question": "What happens?", "answer": "A race."} for v in range(videos)]
    twice = [
        {"video_name": f"v_{v}", "question_1": "Who wins?", "question_2": "Who is first?", "answer": "Red."}
        for v in range(videos)
    ]
    for name, rows in (("Generic", generic), ("Consistency", twice)):
        write_parquet(folder / "vcg" / name / "test-00000-of-00001.parquet", rows)
    return folder / "vcg", folder / "hf" / "videochatgpt", [f"Test_Videos/v_{video}.mp4" for video in range(videos)]


def _mvbench(folder: Path, videos: int) -> tuple[Path, Path, list[str]]:
    for task in ("action_count", "moving_count", "episodic_reasoning"):
        ending = "" if task == "episodic_reasoning" else ".mp4"
        rows = [
            {"video": f"video_{v}{ending}", "question": "How many?", "candidates": ["3", "4", "2"], "answer": "3"}
            for v in range(videos)
        ]
        write_json(folder / "json" / f"{task}.json", rows)
    names = [
        f"{part}/video_{v}.mp4" for part in ("perception/videos", "clevrer/video_validation") for v in range(videos)
    ] + [f"tvqa/video_fps3_hq_segment/video_{v}" for v in range(videos)]
    return folder / "json", folder / "hf" / "mvbench_video", names


WRITERS = {
    "videomme": _videomme,
    "egoschema": _egoschema,
    "nextqa": _nextqa,
    "activitynetqa": _activitynetqa,
    "perceptiontest": _perceptiontest,
    "videochatgpt": _videochatgpt,
    "mvbench": _mvbench,
}


def write_harness_cache(home: Path, seconds: int = SECONDS, videos: int = 2) -> None:
    """What the harness leaves in HF_HOME after downloading the three evaluation sets: documents and videos."""
    documents = {
        ("lmms-eval___video-mme", "video-mme", "default"): videomme_rows(videos, 2),
        ("lmms-eval___egoschema", "egoschema", "Subset"): egoschema_rows(videos),
        ("lmms-eval___n_ex_tqa", "n_ex_tqa", "MC"): nextqa_rows(videos, 2),
    }
    for (folder, name, config), rows in documents.items():
        place = home / "datasets" / folder / config / "0.0.0" / "0123456789abcdef"
        place.mkdir(parents=True)
        table = pa.Table.from_pylist(rows)
        file = str(place / f"{name}-test.arrow")
        with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        split = {"name": "test", "num_bytes": 1, "num_examples": len(rows), "dataset_name": name}
        info = {"builder_name": "parquet", "dataset_name": name, "config_name": config, "splits": {"test": split}}
        write_json(place / "dataset_info.json", {**info, "version": "0.0.0"})
    for video in range(videos):
        write_video(home / "videomme" / "data" / f"-clip_{video}.mp4", video, seconds)
        write_video(home / "egoschema" / "videos" / f"uuid-{video}.mp4", video, seconds)
        write_video(home / "nextqa" / "NExTVideo" / f"{4010069381 + video}.mp4", video, seconds)
