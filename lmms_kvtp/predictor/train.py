"""The training run: lessons, the trainer, and what is written at the end."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, set_seed

import lmms_kvtp
from lmms_kvtp.predictor.adapters import add_adapters, merge_adapters
from lmms_kvtp.predictor.features import SeenVideo
from lmms_kvtp.predictor.model import Lesson, Predictor, lesson
from lmms_kvtp.predictor.recipe import Recipe, last_checkpoint
from lmms_kvtp.predictor.towers import Towers
from lmms_kvtp.predictor.trainer import evaluate, make_trainer
from lmms_kvtp.shipped import write_manifest

logger = logging.getLogger(__name__)
REPORT = "training.json"


def train(
    towers: Towers,
    training: Sequence[SeenVideo],
    validation: Sequence[SeenVideo],
    recipe: Recipe,
    out: Path,
    left_out: Sequence[str] = (),
    slim: Path | None = None,
) -> dict[str, Any]:
    """Train a predictor and write it to `out`; a killed run goes on from its last epoch there.

    Questions whose labels are all equal give no gradient; they are left out, and counted, unless the objective has a
    flatness term.

    Args:
        towers: what to start from; their weights are changed.
        training: videos to learn from.
        validation: other videos, on which the best epoch is chosen.
        recipe: settings.
        out: folder.
        left_out: a line for each video that could not be used, for the report.
        slim: another folder, for what training changed alone.

    Returns:
        What is written to training.json.

    Raises:
        ValueError: no question is left to learn from, or `out` holds a run of another recipe.
        FloatingPointError: a loss or gradient is not finite. `out` then holds the last epoch before, if there is one.
    """
    assert towers.parts == recipe.parts
    set_seed(recipe.seed)
    lessons = [useful for useful in (useful_part(lesson(video, towers), recipe) for video in training) if useful]
    checks = [useful for useful in (useful_part(lesson(video, towers), Recipe()) for video in validation) if useful]
    if not lessons or not checks:
        raise ValueError(
            f"{len(training)} training and {len(validation)} validation videos leave {len(lessons)} and {len(checks)} "
            "with questions whose key frames are known; give more videos"
        )
    counts: dict[str, Any] = {"videos": len(lessons), "questions": sum(len(each.labels) for each in lessons)}
    counts["flat_questions_left_out"] = sum(len(video.example.questions) for video in training) - counts["questions"]
    counts["videos_left_out"] = len(left_out)
    logger.info("training on %s", counts)
    checkpoint = last_checkpoint(out, recipe)
    model = Predictor(towers, recipe.head, recipe.objective)
    before = evaluate(model, checks)
    adapters = add_adapters(towers, recipe) if recipe.lora_rank else None
    if recipe.gradient_checkpointing:
        _checkpoint_layers(towers)
    trainer = make_trainer(model, lessons, checks, recipe, out)
    broken: FloatingPointError | None = None
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except FloatingPointError as error:
        broken = _go_back(model, out, recipe, error)
    if adapters is not None:
        merge_adapters(adapters)
    report = {
        "recipe": recipe.plain(),
        "started_from": towers.name,
        "code": lmms_kvtp.__version__,
        "data": {**counts, "left_out": list(left_out)},
        "stopped_by": None if broken is None else str(broken),
        "validation_before": before,
        "validation_after": evaluate(model, checks),
        "log": trainer.state.log_history,
    }
    if trainer.is_world_process_zero():
        _write(model, report, out, slim)
    if broken is not None:
        raise broken
    return report


def _write(model: Predictor, report: Mapping[str, Any], out: Path, slim: Path | None) -> None:
    """Write predictor and report; one process of several does."""
    model.save(out, slim)
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if slim is not None:
        brief = {name: value for name, value in report.items() if name != "log"}
        (slim / REPORT).write_text(json.dumps(brief, indent=1) + "\n", encoding="utf-8")
        write_manifest(slim)


def useful_part(each: Lesson, recipe: Recipe) -> Lesson | None:
    """The lesson without questions whose labels are all equal, unless flatness is trained; None if none is left."""
    if recipe.objective.flatness:
        return each
    kept = (each.labels != each.labels[:, :1]).any(dim=1).nonzero().flatten()
    return each.only(kept) if len(kept) else None


def _go_back(model: Predictor, out: Path, recipe: Recipe, error: FloatingPointError) -> FloatingPointError:
    """Load the last whole epoch into the model.

    Raises:
        FloatingPointError: there is none.
    """
    last = last_checkpoint(out, recipe)
    if last is None:
        raise FloatingPointError(f"{error}; no epoch was finished, so nothing was written") from error
    model.load_state_dict(load_file(Path(last) / "model.safetensors"))
    return FloatingPointError(f"{error}; {out} has the predictor as it was at {Path(last).name}")


def _checkpoint_layers(towers: torch.nn.Module) -> None:
    """Switch gradient checkpointing on in every transformer of the towers."""
    for module in towers.children():
        if isinstance(module, PreTrainedModel):
            name = "activation_checkpointing_enable"
            enable = getattr(module, name, module.gradient_checkpointing_enable)  # transformers < 5 has the latter only
            enable({"use_reentrant": False})
