"""Look-alikes of stock tasks: their own functions, prompts and scoring, on small data laid out as theirs is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from helpers.lookalike import write_video
from PIL import Image

VIDEO = "clip.mp4"
TASKS = "lmms_eval.tasks"
LOCAL = """
from PIL import Image


def nothing(doc):
    return []


def pictures(doc):
    return [Image.open(path).convert("RGB") for path in doc["pictures"]]


def paths(doc):
    return [doc["videos"]]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def length(doc, results):
    return {"length": float(len(results[0]))}
"""
OURS = {
    "doc_to_text": "local.text",
    "process_results": "local.length",
    "metric": "length",
    "aggregation": "mean",
    "specific": "{}",
    "generation": "{max_new_tokens: 5}",
}
MVBENCH = {
    "doc_to_visual": f"{TASKS}.mvbench.utils.mvbench_doc_to_visual",
    "doc_to_text": f"{TASKS}.mvbench.utils.mvbench_doc_to_text",
    "process_results": f"{TASKS}.mvbench.utils.mvbench_process_results",
    "metric": "mvbench_accuracy",
    "aggregation": f"!function {TASKS}.mvbench.utils.mvbench_aggregate_results",
    "generation": "{max_new_tokens: 16, temperature: 0, top_p: 1.0, num_beams: 1, do_sample: false}",
}
ACTIVITYNET = {
    **OURS,
    "doc_to_visual": f"{TASKS}.activitynetqa.utils.activitynetqa_doc_to_visual",
    "doc_to_text": f"{TASKS}.activitynetqa.utils.activitynetqa_doc_to_text",
    "specific": '{default: {pre_prompt: "", post_prompt: " Answer the question using a single word or phrase."}}',
    "generation": '{until: ["ASSISTANT:"], image_aspect_ratio: original, max_new_tokens: 6, temperature: 0, '
    "top_p: 1.0, num_beams: 1, do_sample: false}",
}
LONGVIDEO = {
    "doc_to_text": f"{TASKS}.longvideobench.utils.longvideobench_doc_to_text",
    "process_results": f"{TASKS}.longvideobench.utils.longvideobench_process_results",
    "metric": "lvb_acc",
    "aggregation": f"!function {TASKS}.longvideobench.utils.longvideobench_aggregate_results",
    "specific": '{default: {pre_prompt: "", post_prompt: "Answer with the letter.", insert_interleave_subtitles: %s}}',
    "generation": "{max_new_tokens: 8, temperature: 0, do_sample: False}",
}
ALIKE: Mapping[str, Mapping[str, str]] = {
    "mvbench": {**MVBENCH, "specific": '{default: {sub_task: action_sequence, post_prompt: "Only give the best."}}'},
    "mvbench_frames": {
        **MVBENCH,
        "specific": '{default: {sub_task: episodic_reasoning, post_prompt: "Only give the best option."}}',
    },
    "mlvu": {
        "doc_to_visual": f"{TASKS}.mlvu.utils.mlvu_doc_to_visual_dev",
        "doc_to_text": f"{TASKS}.mlvu.utils.mlvu_doc_to_text",
        "process_results": f"{TASKS}.mlvu.utils.mlvu_process_results",
        "metric": "mlvu_percetion_score",
        "aggregation": f"!function {TASKS}.mlvu.utils.mlvu_aggregate_results_dev",
        "specific": '{default: {pre_prompt: "", post_prompt: "\\nOnly give the best option.\\nBest option: ("}}',
        "generation": "{max_new_tokens: 7, temperature: 0, top_p: 1.0, num_beams: 1, do_sample: false}",
    },
    "longvideobench_v": {
        **LONGVIDEO,
        "doc_to_visual": f"{TASKS}.longvideobench.utils.longvideobench_doc_to_visual_v",
        "specific": LONGVIDEO["specific"] % "false",
    },
    "longvideobench_i": {
        **LONGVIDEO,
        "doc_to_visual": f"{TASKS}.longvideobench.utils.longvideobench_doc_to_visual_i",
        "specific": LONGVIDEO["specific"] % "true",
    },
    "perceptiontest": {
        "doc_to_visual": f"{TASKS}.perceptiontest.val.utils.perceptiontest_val_doc_to_visual",
        "doc_to_text": f"{TASKS}.perceptiontest.val.utils.perceptiontest_val_doc_to_text",
        "process_results": f"{TASKS}.perceptiontest.val.utils.perceptiontest_val_process_results_mc",
        "metric": "accuracy",
        "aggregation": f"!function {TASKS}.perceptiontest.val.utils.perceptiontest_val_aggregate_accuracy",
        "specific": '{default: {pre_prompt: "", post_prompt: ""}}',
        "generation": "{max_new_tokens: 5}",
    },
    "activitynetqa": ACTIVITYNET,
    "text_only": {**OURS, "doc_to_visual": "local.nothing"},
    "pictures": {**OURS, "doc_to_visual": "local.pictures"},
    "two_videos": {**OURS, "doc_to_visual": "local.paths"},
}
YAML = """
task: alike_{name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {name}.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function {doc_to_visual}
doc_to_text: !function {doc_to_text}
doc_to_target: answer
process_results: !function {process_results}
generation_kwargs: {generation}
lmms_eval_specific_kwargs: {specific}
metric_list:
  - metric: {metric}
    aggregation: {aggregation}
    higher_is_better: true
metadata:
  version: 1.0
"""


def documents(home: Path) -> dict[str, list[dict[str, Any]]]:
    """Questions of each task, and the files that they are about, below HF_HOME."""
    for seed, folder in enumerate(
        [
            "mvbench_video/star/Charades_segment",
            "mlvu",
            "datasets/longvideobench/videos",
            "perceptiontest_val/videos",
            "activitynetqa/all_test",
            "own",
        ]
    ):
        (home / folder).mkdir(parents=True)
        for number in range(2):
            write_video(home / folder / f"v_{number}.mp4", 10 * seed + number)
    frames = home / "mvbench_video/tvqa/video_fps3_hq_segment/scene"
    _write_pictures(frames, 11)
    (home / "datasets/longvideobench/subtitles").mkdir()
    subtitles = [{"start": "00:00:01", "end": "00:00:03", "line": "hello there"}]
    (home / "datasets/longvideobench/subtitles/s.json").write_text(json.dumps(subtitles))
    choice = {"candidates": ["red", "blue"], "answer": "blue"}
    long = {f"option{n}": option for n, option in enumerate(["red", "green", "N/A", "N/A", "N/A"])} | {
        "duration": 5.5,
        "duration_group": 15,
        "question_category": "E2O",
        "correct_choice": 1,
        "starting_timestamp_for_subtitles": 0,
        "subtitle_path": "s.json",
        "answer": 1,
    }
    pictures = [str(path) for path in sorted(frames.iterdir())]
    numbers = (0, 1, 0)  # two questions on the first video, which the harness gives to one rank, one on the second
    asked = [f"What is thing {n}?" for n in range(3)]
    return {
        "mvbench": [{"video": f"v_{n}.mp4", "question": q, **choice} for n, q in zip(numbers, asked, strict=True)],
        "mvbench_frames": [{"video": "scene", "question": q, **choice} for q in asked],
        "mlvu": [
            {"video_name": f"v_{n}.mp4", "question": q, "answer": "A", "task_type": "needle"}
            for n, q in zip((0, 0, 1), asked, strict=True)
        ],
        "longvideobench_v": [{"id": f"v{n}", "video_path": f"v_{n}.mp4", "question": asked[n], **long} for n in (0, 1)],
        "longvideobench_i": [{"id": f"i{n}", "video_path": f"v_{n}.mp4", "question": asked[n], **long} for n in (0, 1)],
        "perceptiontest": [
            {"video_name": f"v_{n}", "question": q, "options": ["a", "b", "c"], "answer_id": 1}
            for n, q in zip((0, 0, 0), asked, strict=True)
        ],
        "activitynetqa": [
            {"video_name": str(n), "question": q, "answer": "yes", "type": 3}
            for n, q in zip((1, 1), asked, strict=False)
        ],
        "text_only": [{"question": f"How much is {n} and {n + 2}?", "answer": str(n)} for n in range(3)],
        "pictures": [{"pictures": pictures[:count], "question": "What is there?", "answer": ""} for count in (1, 4)],
        "two_videos": [
            {"videos": [str(home / f"own/v_{n}.mp4") for n in order], "question": "Which is longer?", "answer": ""}
            for order in ((0, 1), (1, 0))
        ],
    }


def write_tasks(folder: Path, home: Path) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Write the tasks below `folder` and their data below `home`, which is to be HF_HOME; returns the documents."""
    folder.mkdir(parents=True)
    found = documents(home)
    for name, docs in found.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        (folder / f"alike_{name}.yaml").write_text(YAML.format(name=name, **ALIKE[name]))
    (folder / "local.py").write_text(LOCAL)
    return {f"alike_{name}": docs for name, docs in found.items()}


def _write_pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(count):
        picture = noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number:05d}.jpg")
