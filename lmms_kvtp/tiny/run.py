"""The whole recipe: every stage in order, each kept on disk when it ends, so that a killed run goes on where it was."""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, SiglipModel

from lmms_kvtp import __version__
from lmms_kvtp.embedded import VERSION
from lmms_kvtp.embedded.questions import ask, words
from lmms_kvtp.embedded.script import write_script
from lmms_kvtp.tiny.evaluate import evaluate
from lmms_kvtp.tiny.export import WORK, export_llava, export_siglip, write_manifest
from lmms_kvtp.tiny.footage import load_bank, load_footage
from lmms_kvtp.tiny.language import PREFIX, SUFFIX
from lmms_kvtp.tiny.lessons import all_phrases
from lmms_kvtp.tiny.loop import Log
from lmms_kvtp.tiny.stage_align import AlignStage, train_align
from lmms_kvtp.tiny.stage_soft import SOFT_STAGES, SoftStage, train_soft
from lmms_kvtp.tiny.stage_tower import TowerStage, train_tower
from lmms_kvtp.tiny.stage_video import VIDEO_STAGES, VideoStage, train_video
from lmms_kvtp.tiny.student import Geometry, Student
from lmms_kvtp.tiny.tokenizer import language_tokenizer, text_tokenizer


class Stages:
    """The finished stages of one run, in a folder."""

    def __init__(self, folder: Path, stamp: dict[str, Any], log: Log) -> None:
        """Claim `folder` for the run that `stamp` describes.

        Raises:
            ValueError: it holds another run.
        """
        self.folder, self.stamp, self.log = folder, stamp, log
        note = folder / "run.json"
        folder.mkdir(parents=True, exist_ok=True)
        if note.exists() and (held := json.loads(note.read_text(encoding="utf-8"))) != stamp:
            differing = [key for key in stamp if held.get(key) != stamp[key]]
            raise ValueError(
                f"{folder} holds stages of a run with another {' and '.join(differing)}; "
                "give another --out, or delete that folder"
            )
        note.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")

    def run(self, name: str, model: nn.Module, lesson: Callable[[], None]) -> None:
        """Bring `model` to the end of a stage: from disk, or by `lesson`, whose result is then kept."""
        path = self.folder / f"{name}.pt"
        if path.exists():
            kept = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(kept["model"])
            self.log.lines += kept["log"]
            return
        begun = len(self.log.lines)
        lesson()
        part = path.with_suffix(".part")
        torch.save({"model": model.state_dict(), "log": self.log.lines[begun:]}, part)
        os.replace(part, path)


def fingerprint(model: nn.Module) -> str:
    """A short hash of all weights."""
    digest = hashlib.sha256()
    for name, part in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(part.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def code_version() -> str:
    """The git commit of a source checkout, else the version of the package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return __version__
    described = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return f"{__version__} at {described.stdout.strip()}" if described.returncode == 0 else __version__


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, beside the seed."""

    geometry: Geometry = field(default_factory=Geometry)
    num_videos: int = 400
    tower: TowerStage = field(default_factory=TowerStage)
    soft: dict[str, SoftStage] = field(default_factory=lambda: dict(SOFT_STAGES))
    align: AlignStage = field(default_factory=AlignStage)
    video: dict[str, VideoStage] = field(default_factory=lambda: dict(VIDEO_STAGES))
    held_out: int = 50
    """Videos of the val split in the final evaluation."""


def train(seed: int, out: Path, device: torch.device, recipe: Recipe | None = None) -> dict[str, Any]:
    """Train a tiny model and write it to `out`; stages that `out/work` holds already are not done again.

    Args:
        seed: of weights and of all draws; the videos are the same for every seed.
        out: becomes the checkpoint folder.
        device: to train on.
        recipe: sizes and settings.

    Returns:
        The training log, as in `training_log.json`.

    Raises:
        ValueError: `out/work` holds another run.
    """
    recipe, start, busy = recipe or Recipe(), time.time(), time.process_time()
    geometry = recipe.geometry
    work = out / WORK
    log = Log(work / "log.jsonl")
    stages = Stages(work, {"seed": seed, "data": VERSION, "recipe": json.loads(json.dumps(asdict(recipe)))}, log)
    footage = load_footage(work / "footage", recipe.num_videos, geometry.side)
    letters, captions = make_tokenizers(geometry)

    torch.manual_seed(seed)
    siglip = SiglipModel(geometry.siglip(len(captions), captions.eos_token_id)).to(device)  # type: ignore[arg-type]
    stages.run(
        "tower", siglip, lambda: train_tower(siglip, footage, captions, geometry, recipe.tower, seed, device, log)
    )
    siglip.requires_grad_(False).eval()
    torch.manual_seed(seed)
    student = Student(geometry, letters).to(device)
    bank = load_bank(work, footage, siglip.vision_model, device, log, fingerprint(siglip))
    lessons: dict[str, Callable[[], None]] = {
        **{n: partial(train_soft, student, letters, n, s, seed, device, log) for n, s in recipe.soft.items()},
        "align": lambda: train_align(student, letters, footage, bank, recipe.align, seed, device, log),
        **{
            n: partial(train_video, student, letters, footage, bank, n, s, seed, device, log)
            for n, s in recipe.video.items()
        },
    }
    for name, lesson in lessons.items():
        stages.run(name, student, lesson)

    round_to_half(student)
    round_to_half(siglip)
    export_llava(out, student, siglip, letters, geometry)
    export_siglip(out / "siglip", siglip, captions, geometry)
    accuracy = evaluate(student, siglip, letters, range(recipe.held_out), "val", device, log)
    report = {
        **stages.stamp,
        "code": code_version(),
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "seconds_of_this_run": round(time.time() - start),
        "cpu_seconds_of_this_run": round(time.process_time() - busy),
        "accuracy_on_val": accuracy,
        "log": log.lines,
    }
    (out / "training_log.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_manifest(out)
    return report


def make_tokenizers(geometry: Geometry) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Of the language model, and of the text tower."""
    prompts = [question.prompt for seed in range(40) for question in ask(write_script(seed, "train"))]
    letters = language_tokenizer([PREFIX, SUFFIX, *prompts, *(f" {word}" for word in (*words(), *words()))])
    captions = text_tokenizer([phrase.text for phrase in all_phrases()], geometry.text_positions)
    return letters, captions


def round_to_half(model: torch.nn.Module) -> None:
    """Round weights to the float16 values that are shipped."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
