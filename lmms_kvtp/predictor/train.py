"""A training run, from lessons to the checkpoint and its report."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

import lmms_kvtp
from lmms_kvtp.encoders.parts.predictor import REPORT, frames_key
from lmms_kvtp.files import write_json
from lmms_kvtp.predictor.features import CachedVideo
from lmms_kvtp.predictor.measure import mean_by_video, measure_scores
from lmms_kvtp.predictor.model import Lesson, Predictor, lesson
from lmms_kvtp.predictor.recipe import Recipe, last_checkpoint
from lmms_kvtp.predictor.towers import Towers
from lmms_kvtp.shipped import write_manifest

logger = logging.getLogger(__name__)
LAYERS = r".*encoder\.layers\.\d+\..*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
"""Matrices of transformer layers that get adapters; embeddings and pooling heads stay as they are."""


def train_predictor(
    towers: Towers,
    training: Sequence[CachedVideo],
    validation: Sequence[CachedVideo],
    recipe: Recipe,
    out: Path,
    left_out: Sequence[str] = (),
    slim: Path | None = None,
) -> dict[str, Any]:
    """Train `towers`, whose weights change, and write the predictor to `out`; a killed run goes on from its last epoch.

    The best epoch on `validation` counts. Questions whose labels are all equal give no gradient; they are left out, and
    counted, unless the objective has a flatness term. `left_out` has a line for each video that could not be used, and
    `slim` is a folder for only what training changed. Returns what is written to training.json.

    ValueError where no question is left to learn from, or `out` holds a run of another recipe. FloatingPointError where
    a loss or gradient is not finite; `out` then holds the last epoch before, if there is one.
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
    counts["evaluation"] = sorted({name for video in (*training, *validation) for name in video.example.evaluated})
    logger.info("training on %s", counts)
    checkpoint = last_checkpoint(out, recipe)
    model = Predictor(towers, recipe.head, recipe.objective)
    before = validate(model, checks)
    adapters = add_adapters(towers, recipe) if recipe.lora_rank else None
    if recipe.gradient_checkpointing:
        checkpoint_layers(towers)
    trainer = make_trainer(model, lessons, checks, recipe, out)
    broken: FloatingPointError | None = None
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except FloatingPointError as error:
        last = last_checkpoint(out, recipe)
        if last is None:
            raise FloatingPointError(f"{error}; no epoch was finished, so nothing was written") from error
        model.load_state_dict(load_file(Path(last) / "model.safetensors"))
        broken = FloatingPointError(f"{error}; {out} has the predictor as it was at {Path(last).name}")
    if adapters is not None:
        adapters.merge_and_unload()
    report = {
        "recipe": recipe.plain(),
        "started_from": towers.name,
        "frames_read_by": frames_key(towers.viewer.files),
        "code": lmms_kvtp.__version__,
        "data": {**counts, "left_out": list(left_out)},
        "stopped_by": None if broken is None else str(broken),
        "validation_before": before,
        "validation_after": validate(model, checks),
        "log": trainer.state.log_history,
    }
    if trainer.is_world_process_zero():
        model.save(out, slim)
        write_json(out / REPORT, report)
        if slim is not None:
            brief = {name: value for name, value in report.items() if name != "log"}
            write_json(slim / REPORT, brief)
            write_manifest(slim)
    if broken is not None:
        raise broken
    return report


def useful_part(each: Lesson, recipe: Recipe) -> Lesson | None:
    """Leave out questions whose labels are all equal, unless flatness is trained; None if no question is left."""
    if recipe.objective.flatness:
        return each
    kept = (each.labels != each.labels[:, :1]).any(dim=1).nonzero().flatten()
    return each.only(kept) if len(kept) else None


@torch.no_grad()
def validate(model: Predictor, lessons: Sequence[Lesson]) -> dict[str, float]:
    """Measure a predictor on the questions that have key frames; means over a video's questions, then over videos."""
    rows = []
    for index, stored in enumerate(lessons):
        each = stored.to(model.log_tau.device)
        for logits, labels in zip(model.logits(each), each.labels, strict=True):
            if (labels != labels[0]).any():
                rows.append((str(index), measure_scores(logits.amax(dim=0).cpu(), labels.cpu())))
    return mean_by_video(rows)


class PredictorTrainer(Trainer):
    """Trainer that evaluates by recall of key frames and other measures, instead of by a loss."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure on the validation videos."""
        found = validate(cast(Predictor, self.model), cast(Sequence[Lesson], self.eval_dataset))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class FiniteGradients(TrainerCallback):
    """Stops the run before an update writes infinities or NaN into the weights."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check every gradient; FloatingPointError where one is not finite."""
        for name, parameter in kwargs["model"].named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise FloatingPointError(f"the gradient of {name} is not finite; lower the learning rate")


def make_trainer(
    model: Predictor, lessons: Sequence[Lesson], checks: Sequence[Lesson], recipe: Recipe, out: Path
) -> PredictorTrainer:
    """Make a trainer that writes each epoch below `out`, and ends with the best of them."""
    learned = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    few = ("log_tau", "offsets", "logit_scale", "logit_bias")  # the numbers after the towers have a rate of their own
    rest = [each for name, each in learned if name.endswith(few)]
    towers = [each for name, each in learned if not name.endswith(few)]
    groups = [{"params": rest, "lr": recipe.head_lr}, {"params": towers, "lr": recipe.lr}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98), weight_decay=0.0)
    arguments = TrainingArguments(
        output_dir=str(out / "epochs"),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.videos_per_step,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_recall",
        greater_is_better=True,
        logging_steps=10,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        bf16=recipe.dtype == "bfloat16",
        use_cpu=model.log_tau.device.type == "cpu",
        seed=recipe.seed,
        report_to=recipe.report_to,
        dataloader_pin_memory=False,
    )
    steps = recipe.epochs * math.ceil(len(lessons) / (recipe.videos_per_step * arguments.world_size))
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.05, 1 - step / steps))
    return PredictorTrainer(
        model=model,
        args=arguments,
        train_dataset=cast(Any, lessons),
        eval_dataset=cast(Any, checks),
        data_collator=lambda batch: {"lessons": batch},
        optimizers=(optimizer, decay),
        callbacks=[EarlyStoppingCallback(recipe.patience), FiniteGradients()],
    )


def add_adapters(towers: Towers, recipe: Recipe) -> Any:
    """Put LoRA adapters into the towers that the recipe trains; returns the peft model that merges them again."""
    from peft import LoraConfig, LoraModel

    where = LAYERS if recipe.parts == "all" else rf".*text_model\.{LAYERS[2:]}"
    config = LoraConfig(r=recipe.lora_rank, lora_alpha=2 * recipe.lora_rank, target_modules=where, lora_dropout=0.0)
    adapters = LoraModel(towers, config, "default")
    prefixes = ("logit_scale", "logit_bias")
    for name, parameter in towers.named_parameters():
        parameter.requires_grad_("lora_" in name or name.endswith(prefixes) or name.startswith("head."))
    return adapters


def checkpoint_layers(towers: Towers) -> None:
    """Switch gradient checkpointing on in every transformer of the towers."""
    model = towers.encoder.model
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, model.gradient_checkpointing_enable)  # transformers < 5 has the latter only
    enable({"use_reentrant": False})
