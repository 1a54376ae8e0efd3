"""What our wrappers of Qwen2.5-VL, Qwen3-VL and InternVL take beside the harness's own, with all tokens kept.

python benchmarks/stock_wrapper.py CHECKPOINT VIDEO --output benchmarks/results/stock_wrapper_cpu.json

Both answer one question on the same file with the same checkpoint in bfloat16, in turns; answers have to be equal.
Seconds are those that the process had a CPU, which on one thread are wall seconds of an idle machine; medians are
given. With `--device cuda` they are wall seconds. InternVL's own wrapper reads videos by torchcodec, or with
`--reader pyav` by transformers' other reader.
"""

import argparse
import importlib
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from transformers import InternVLVideoProcessor
from transformers.video_utils import load_video

from lmms_kvtp.harness.requests import STOCK
from lmms_kvtp.model_wrappers.baselines import ChatKvtp, InternVLKvtp, Qwen3VLKvtp, Qwen25VLKvtp
from lmms_kvtp.vlms.checkpoint.load import family_of

OURS: dict[str, type[ChatKvtp]] = {"qwen2_5_vl": Qwen25VLKvtp, "qwen3_vl": Qwen3VLKvtp, "internvl": InternVLKvtp}
FULL = {"keep_ratio": 1, "scorer": "uniform", "allocator": "uniform", "pruner": "none"}
QUESTION = "What color is the star?\nA. red\nB. green\nC. blue\nD. yellow\nAnswer with the letter."


def main() -> None:
    """Measure, print, and write a file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint of these families")
    parser.add_argument("video", type=Path, help="a file of at least 32 frames")
    parser.add_argument("--turns", type=int, default=7, help="of each wrapper, after one that does not count")
    parser.add_argument("--new-tokens", type=int, default=16, help="of an answer, at most")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--reader", choices=["torchcodec", "pyav"], default="torchcodec", help="of InternVL's wrapper")
    parser.add_argument("--output", type=Path, help="file with one entry for each family, which is added to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    family, cpu = family_of(arguments.checkpoint), arguments.device == "cpu"
    module, _, name = STOCK[family].partition(".")
    theirs = getattr(importlib.import_module(f"lmms_eval.models.chat.{module}"), name)
    if arguments.reader == "pyav":
        InternVLVideoProcessor.fetch_videos = by_pyav
    common: dict[str, Any] = {"pretrained": str(arguments.checkpoint), "device": arguments.device}
    own = {"torch_dtype": "bfloat16", "journal": "none", "decode_ahead_mib": 0, **FULL}
    wrappers = {"ours": OURS[family](**common, **own), "stock": theirs(**common, device_map=arguments.device)}
    seconds: dict[str, list[float]] = {name: [] for name in wrappers}
    clock = time.process_time if cpu else time.perf_counter
    for turn in range(arguments.turns + 1):
        answers = set()
        for name in list(wrappers)[:: -1 if turn % 2 else 1]:
            begin = clock()
            answers.add(ask(wrappers[name], arguments.video, arguments.new_tokens))
            seconds[name] += [clock() - begin] if turn else []
        assert len(answers) == 1, f"answers differ: {answers}"
    medians = {name: statistics.median(turns) for name, turns in seconds.items()}
    result = {
        "family": family,
        "machine": platform.processor() or platform.machine() if cpu else torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in ("torch", "transformers", "lmms_eval")},
        "turns": arguments.turns,
        **({"reader": arguments.reader} if family == "internvl" else {}),
        "parameters": wrappers["ours"].built.vlm.parameters,
        "seconds": {name: [round(turn, 3) for turn in turns] for name, turns in seconds.items()},
        "medians": {name: round(median, 3) for name, median in medians.items()},
        "ours over stock": round(medians["ours"] / medians["stock"], 3),
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        there = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.is_file() else {}
        arguments.output.write_text(json.dumps({**there, family: result}, indent=2) + "\n", encoding="utf-8")


def by_pyav(own: Any, videos: Any, sample_indices_fn: Any = None) -> Any:
    """Read as transformers does, by its reader that needs no torchcodec."""
    if isinstance(videos, list):
        return list(zip(*[by_pyav(own, video, sample_indices_fn) for video in videos], strict=True))
    return load_video(videos, backend="pyav", sample_indices_fn=sample_indices_fn)


def ask(wrapper: Any, video: Path, new_tokens: int) -> str:
    """Let a wrapper answer as the harness would have it, and return the answer."""
    wrapper.task_dict = {"clip": {"test": [{"video": str(video)}]}}

    def messages(doc: dict[str, str]) -> list[dict[str, Any]]:
        content = [{"type": "video", "url": doc["video"]}, {"type": "text", "text": QUESTION}]
        return [{"role": "user", "content": content}]

    given = (QUESTION, messages, {"max_new_tokens": new_tokens}, 0, "clip", "test")
    told = {"task": "clip", "doc_id": 0, "repeats": 1}
    [made] = wrapper.generate_until([Instance("generate_until", given, 0, told)])
    return str(made.text).strip()


if __name__ == "__main__":
    main()
