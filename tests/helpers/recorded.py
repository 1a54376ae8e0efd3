"""What must stay as it is while code moves: everything a user types, and the numbers that come of it.

`PYTHONPATH=.:tests python tests/helpers/recorded.py [table]` writes `goldens/recorded/` anew: only to add to it, never
to make a test pass. The table takes two minutes; the rest, seconds.
"""

import argparse
import importlib
import json
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from helpers.skvqa_lookalikes import write_json
from helpers.stub import Stub
from PIL import Image

from lmms_kvtp import load
from lmms_kvtp.__main__ import COMMANDS, main
from lmms_kvtp.embedded import dataset
from lmms_kvtp.harness import requests as decoding
from lmms_kvtp.harness.plugin import MODELS
from lmms_kvtp.leaderboard.provenance import label
from lmms_kvtp.method import PARTS
from lmms_kvtp.presets import PRESETS, settings_of
from lmms_kvtp.resolve import available, resolve
from lmms_kvtp.run import options as model_args
from lmms_kvtp.run.answerer import Answerer, unrecorded
from lmms_kvtp.run.asks import ask_about, read_question
from lmms_kvtp.shipped import tiny_folder
from lmms_kvtp.skvqa_build.store import weights_of
from lmms_kvtp.skvqa_build.videos import video_fingerprint
from lmms_kvtp.tasks.skvqa_synth import utils
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video import FrameOptions
from lmms_kvtp.vlms.load_options import ALIASES

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parents[1] / "goldens" / "recorded"
METHODS = (
    "full",
    "random",
    "prumerge",
    "tome",
    "hard+random",
    "kvtp+random",
    "kvtp+prumerge",
    "vidcom2/vidcom2+vidcom2",
)
"""Rows of the recorded table, at 20 %."""


def typed() -> dict[str, Any]:
    """All that is accepted: components and their fields, model arguments, generation settings, ids, presets, flags."""
    commands = {name: _flags(module) for name, (module, _) in COMMANDS.items()}
    commands["train"]["tiny"] = _flags("benchmarks.embedded_model.__main__")  # to which `train tiny` sends its caller
    return {
        "components": {part: _components(package, base) for part, (package, base) in PARTS.items()},
        "presets": {name: dict(settings) for name, settings in PRESETS.items()},
        "model_args": {name: default for group in model_args.GROUPS for name, default in _typed(group)},
        "renamed": {name: target for name, (_, target) in model_args.RENAMED.items() if name == "video_fps"},
        "only": {name: list(values) for name, (values, _) in model_args.ONLY.items()},
        "without_effect": sorted(model_args.WITHOUT_EFFECT),
        "generation": sorted(decoding.HONOURED),
        "models": {name: list(aliases) for name, (_, aliases) in MODELS.items()},
        "commands": commands,
    }


def store_keys(folder: Path, endpoint: str) -> dict[str, Any]:
    """Key and step of every finished call of a small build, one video of 60 uncompressed frames and two questions, and
    what stands in keys for weights and for a file.

    Args:
        folder: for its files.
        endpoint: address of the stub server.
    """
    frames = folder / "tvqa" / "video_fps3_hq_segment" / "video_0"
    frames.mkdir(parents=True)
    for number in range(60):
        shade = Image.new("RGB", (8, 6), (number, 255 - number, 40 * (number // 12)))
        shade.save(frames / f"{number + 1:05}.bmp")
    rows = [
        {
            "video": "video_0",
            "question": f"What is shown at sign {number}?",
            "candidates": ["a star", "a square", "a city"],
            "answer": "a star",
            "start": 0,
            "end": 20,
        }
        for number in range(2)
    ]
    asked = write_json(folder / "json" / "episodic_reasoning.json", rows)
    command = ["skvqa", "build", "--dataset", "mvbench", "--annotations", asked, "--videos", folder, "--out", folder]
    for part in ("captioner", "scorer", "refiner"):
        command += [f"--{part}", "endpoint:good"]
    assert main([*map(str, command), "--endpoint", endpoint, "--timeout", "20"]) == 0
    with closing(sqlite3.connect(folder / "calls.sqlite")) as connection:
        calls = [list(row) for row in connection.execute("SELECT key, step FROM answers ORDER BY 2, 1")]
    file = folder / "file.mp4"
    file.write_bytes(bytes(range(251)) * 1000)
    return {"calls": calls, "weights": weights_of(tiny_folder() / "siglip"), "file": video_fingerprint(file)}


def labels() -> dict[str, str]:
    """What each stored row of the leaderboard is called, read from its settings."""
    stored = sorted((ROOT / "leaderboard" / "results").glob("*.json"))
    return {path.name: label(json.loads(path.read_text())["settings"]) for path in stored}


def table(methods: Mapping[str, str] | tuple[str, ...], folder: Path, limit: int | None = None) -> dict[str, Any]:
    """The embedded quick table with answers, token counts and operations, by method and document.

    Args:
        methods: short names.
        folder: for the harness's files.
        limit: only the first so many questions.
    """
    more = ["--limit", str(limit)] if limit else []
    assert main(["sweep", "--methods", ",".join(methods), "--out", str(folder), *more]) == 0
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*/journal/*.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        found[path.parts[-3]] = {line["document"]: _plain(line) for line in lines}
    return found


def answers(method: str, videos: int) -> dict[str, Any]:
    """Make the entries of `table` for the questions on the first videos, without the harness."""
    template = yaml.safe_load((Path(utils.__file__).parent / "_default_template").read_text().replace("!function", ""))
    prompts = template["lmms_eval_specific_kwargs"]["default"]
    options = decoding.read_options(template["generation_kwargs"], GenerationOptions())
    task, model = "skvqa_synth_quick", load("tiny", device="cpu")
    asks = {}
    for doc in dataset.build("test", videos):
        name = f"{task}/{doc['question_id']}"
        question = read_question(utils.doc_to_text(doc, prompts), doc, name)
        asks[f"{task}:{name}"] = ask_about(utils.doc_to_visual(doc), question, options)
    lane = unrecorded(model.vlm, model.method(settings_of(method, 0.2)))
    made = Answerer([lane], FrameOptions()).answer_all(asks)
    return {key: _plain({"text": answer.text, "cost": answer.cost.to_dict()}) for _, key, answer in made}


def _plain(line: Mapping[str, Any]) -> list[Any]:
    cost = line["cost"]
    flops = {stage: count for stage, count in sorted(cost["flops"].items()) if count}
    return [line["text"], cost["tokens_kept"], cost["prompt_tokens"], cost["output_tokens"], sum(flops.values())]


def _components(package: str, base: type[Any]) -> dict[str, Any]:
    return {name: _defaults(resolve(package, name, base)) for name in available(package)}


def _typed(group: str) -> list[tuple[str, str]]:
    """As `_defaults`, under the names that `--model_args` takes."""
    spelled = {name: alias for alias, name in ALIASES.items()}
    if group == "frames":
        spelled["backend"] = "video_decode_backend"
    return [(spelled.get(name, name), default) for name, default in _defaults(model_args.GROUPS[group]).items()]


def _defaults(cls: type[Any]) -> dict[str, str]:
    """Fields with their defaults, as one types them."""
    return {f.name: as_typed(f.default) for f in fields(cls)} if is_dataclass(cls) else {}


def as_typed(value: Any) -> str:
    """A default as it is written in `--model_args`."""
    return ":".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _flags(module: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    importlib.import_module(module).add_arguments(parser)
    return _of_parser(parser)


def _of_parser(parser: argparse.ArgumentParser) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {name: _of_parser(child) for name, child in action.choices.items()}
        elif not isinstance(action, argparse._HelpAction):
            name = " ".join(action.option_strings) or action.dest
            found[name] = [str(choice) for choice in action.choices] if action.choices else str(action.default)
    return found


def write(name: str, content: Any) -> None:
    """One of the recorded files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def record() -> None:
    """Write all of them."""
    write("typed.json", typed())
    write("labels.json", labels())
    with tempfile.TemporaryDirectory() as scratch:
        stub = Stub(Path(scratch) / "log.jsonl", 0.0)
        write("store_keys.json", store_keys(Path(scratch) / "build", stub.url))
        stub.stop()
        if "table" in sys.argv[1:]:
            write("table.json", table(METHODS, Path(scratch) / "sweep"))


if __name__ == "__main__":
    record()
