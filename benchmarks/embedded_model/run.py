"""The whole training: all stages in order, each kept on disk so that a killed run goes on, and a final evaluation."""

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, SiglipImageProcessor, SiglipModel, SiglipVisionConfig

from benchmarks.embedded_model.footage import film, load_bank, load_footage, tower_features
from benchmarks.embedded_model.language import PREFIX, SUFFIX, answer_logits, language_tokenizer, pack, text_tokenizer
from benchmarks.embedded_model.lessons import all_phrases, right_letters
from benchmarks.embedded_model.loop import Log
from benchmarks.embedded_model.save import save_original
from benchmarks.embedded_model.stage_soft import SOFT_STAGES, SoftStage, train_soft
from benchmarks.embedded_model.stage_tower import TowerStage, train_tower
from benchmarks.embedded_model.stage_video import VIDEO_STAGES, AlignStage, VideoStage, train_align, train_video
from benchmarks.embedded_model.student import Classroom, Geometry, Student
from lmms_kvtp import __version__
from lmms_kvtp.embedded import VERSION
from lmms_kvtp.embedded.questions import ask, words
from lmms_kvtp.embedded.script import SIZE, write_script
from lmms_kvtp.encoders.parts.text_side import save_tokenizer
from lmms_kvtp.files import write_json
from lmms_kvtp.run.source import tree
from lmms_kvtp.shipped import write_manifest

WORK = "work"
"""Folder of the stages' results, beside the checkpoint."""
FIELDS = Path(__file__).parent / "config.json"
"""Fields of the model's config.json that released checkpoints lack or set otherwise."""


@dataclass(frozen=True)
class TrainingPlan:
    """Everything beside the seed that decides the result."""

    geometry: Geometry = field(default_factory=Geometry)
    num_videos: int = 400
    tower: TowerStage = field(default_factory=TowerStage)
    soft: dict[str, SoftStage] = field(default_factory=lambda: dict(SOFT_STAGES))
    align: AlignStage = field(default_factory=AlignStage)
    video: dict[str, VideoStage] = field(default_factory=lambda: dict(VIDEO_STAGES))
    held_out: int = 50
    """Number of videos of the val split in the final evaluation."""


def train(seed: int, out: Path, device: torch.device, plan: TrainingPlan | None = None) -> dict[str, Any]:
    """Train a tiny model and write it to `out`; stages that `out/work` holds already are not done again.

    The seed draws weights and everything else but the videos, which are the same for every seed. Returns the log, as in
    `training_log.json`. ValueError where `out/work` holds another run.
    """
    plan, start, busy = plan or TrainingPlan(), time.perf_counter(), time.process_time()
    geometry = plan.geometry
    work = out / WORK
    log = Log(work / "log.jsonl")
    stages = Stages(work, {"seed": seed, "data": VERSION, "recipe": json.loads(json.dumps(asdict(plan)))}, log)
    footage = load_footage(work / "footage", plan.num_videos, geometry.side)
    letters, captions = make_tokenizers(geometry)

    torch.manual_seed(seed)
    siglip = SiglipModel(geometry.siglip(len(captions))).to(device)  # type: ignore[arg-type]
    stages.run("tower", siglip, lambda: train_tower(siglip, footage, captions, geometry, plan.tower, seed, device, log))
    siglip.requires_grad_(False).eval()
    torch.manual_seed(seed)
    student = Student(geometry, letters).to(device)
    bank = load_bank(work, footage, siglip.vision_model, device, log, _digest(siglip))
    room = Classroom(student, letters, footage, bank, seed, device, log)
    lessons: dict[str, Callable[[], None]] = {
        **{name: partial(train_soft, room, name, stage) for name, stage in plan.soft.items()},
        "align": partial(train_align, room, plan.align),
        **{name: partial(train_video, room, name, stage) for name, stage in plan.video.items()},
    }
    for name, lesson in lessons.items():
        stages.run(name, student, lesson)

    round_to_half(student)
    round_to_half(siglip)
    export_llava(out, student, siglip, letters)
    export_siglip(out / "siglip", siglip, captions, geometry)
    accuracy = evaluate(room, siglip, range(plan.held_out), "val")
    report = {
        **stages.stamp,
        "code": f"{__version__} at {tree().get('commit', 'an unknown commit')}",
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "seconds_of_this_run": round(time.perf_counter() - start),
        "cpu_seconds_of_this_run": round(time.process_time() - busy),
        "accuracy_on_val": accuracy,
        "log": log.lines,
    }
    write_json(out / "training_log.json", report)
    write_manifest(out, leave_out=WORK)
    return report


class Stages:
    """The finished stages of one run, in a folder."""

    def __init__(self, folder: Path, stamp: dict[str, Any], log: Log) -> None:
        """Claim `folder` for the run that `stamp` describes; ValueError where it holds another run."""
        self.folder, self.stamp, self.log = folder, stamp, log
        note = folder / "run.json"
        folder.mkdir(parents=True, exist_ok=True)
        if note.exists() and (held := json.loads(note.read_text(encoding="utf-8"))) != stamp:
            differing = [key for key in stamp if held.get(key) != stamp[key]]
            raise ValueError(
                f"{folder} holds stages of a run with another {' and '.join(differing)}; "
                "give another --out, or delete that folder"
            )
        write_json(note, stamp)

    def run(self, name: str, model: nn.Module, lesson: Callable[[], None]) -> None:
        """Bring `model` to the end of a stage: read it from disk, or run `lesson` and keep its result."""
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


def make_tokenizers(geometry: Geometry) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Train the tokenizers of the language model and of the text tower."""
    prompts = [question.prompt for seed in range(40) for question in ask(write_script(seed, "train"))]
    letters = language_tokenizer([PREFIX, SUFFIX, *prompts, *(f" {word}" for word in (*words(), *words()))])
    captions = text_tokenizer([phrase.text for phrase in all_phrases()], geometry.text_positions)
    return letters, captions


def round_to_half(model: nn.Module) -> None:
    """Round weights to the float16 values that are shipped."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()


def export_llava(folder: Path, student: Student, siglip: SiglipModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the trained model in LLaVA-Video's original layout, in float16."""
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    save_original(
        folder,
        llm=student.llm,
        tower=siglip.vision_model,
        vision=cast(SiglipVisionConfig, siglip.config.vision_config),
        projector=student.projector,
        newline=student.newline.detach(),
        tokenizer=tokenizer,
        fields=json.loads(FIELDS.read_text(encoding="utf-8")),
        generation={"eos_token_id": [eos, pad], "pad_token_id": pad, "do_sample": False},
        dtype=torch.float16,
    )


def export_siglip(folder: Path, siglip: SiglipModel, tokenizer: PreTrainedTokenizerFast, geometry: Geometry) -> None:
    """Write the image-text model as Hugging Face's `AutoModel` reads it, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    deepcopy(siglip).half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    size = dict.fromkeys(("height", "width"), geometry.image_size)
    SiglipImageProcessor(size=size, resample=3).save_pretrained(folder)
    save_tokenizer(folder, tokenizer)


def _digest(model: nn.Module) -> str:
    """Hash all weights."""
    digest = hashlib.sha256()
    for name, part in sorted(model.state_dict().items()):
        digest.update(name.encode() + part.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


KEPT = 0.2
VIEWS = ("full", "random", "blind")
"""How the language model may see a video: all tokens, a random share of them, or none."""


@torch.no_grad()
def evaluate(room: Classroom, siglip: SiglipModel, videos: Sequence[int], split: str) -> dict[str, dict[str, float]]:
    """Measure accuracy by view and kind of question; an answer is the letter that the model would say freely."""
    student, device = room.student, room.device
    hits: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in VIEWS}
    for index in room.log.steps(f"evaluate on {split}", len(videos)):
        script = write_script(videos[index], split)
        rgb = torch.from_numpy(film(script, SIZE)["rgb"])
        features = tower_features(siglip.vision_model, rgb, device, exact=True)
        questions = ask(script)
        text = pack(room.tokenizer, [[(q.prompt, q.answer) for q in questions]], len(questions)).to(device)
        views = show(student, features, np.random.default_rng(videos[index]))
        for name in hits:
            logits, targets = answer_logits(student.llm, views[name], text)
            for question, right in zip(questions, right_letters(logits, targets).tolist(), strict=True):
                hits[name][question.kind].append(right)
    result = {name: {kind: float(np.mean(found)) for kind, found in kinds.items()} for name, kinds in hits.items()}
    for name, kinds in hits.items():
        result[name]["mean of kinds"] = float(np.mean(list(result[name].values())))
        result[name]["questions"] = float(sum(map(len, kinds.values())))
    return result


def show(
    student: Student, features: Float[Tensor, "T s s E"], rng: np.random.Generator
) -> dict[str, Float[Tensor, "1 _ D"]]:
    """Make the views; a random fifth of each frame stays in raster order, with a newline behind each frame."""
    rows = student.project(features[None])
    full = student.with_newlines(rows)
    cells = rows[0].flatten(1, 2)
    keep = max(1, round(KEPT * cells.shape[1]))
    kept = np.stack([np.sort(rng.permutation(cells.shape[1])[:keep]) for _ in range(len(cells))])
    chosen = cells.gather(1, torch.from_numpy(kept).to(cells.device)[..., None].expand(-1, -1, cells.shape[2]))
    few = student.with_newlines(chosen[None, :, None])
    return {name: student.with_prefix(part) for name, part in zip(VIEWS, (full, few, full[:, :0]), strict=True)}
