"""Hugging Face's Trainer for predictors: measured by recall of key frames, stopped by numbers that are none."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from lmms_kvtp.predictor.measure import mean_by_video, measure
from lmms_kvtp.predictor.model import Lesson, Predictor
from lmms_kvtp.predictor.recipe import Recipe


class PredictorTrainer(Trainer):
    """Trainer whose evaluation is recall of key frames and its like instead of a loss."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure on the validation videos."""
        found = evaluate(cast(Predictor, self.model), cast(Sequence[Lesson], self.eval_dataset))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class FiniteGradients(TrainerCallback):
    """Stops before an update would write numbers that are none into the weights."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at every gradient.

        Raises:
            FloatingPointError: one is not finite.
        """
        for name, parameter in kwargs["model"].named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise FloatingPointError(f"the gradient of {name} is not finite; lower the learning rate")


@torch.no_grad()
def evaluate(model: Predictor, lessons: Sequence[Lesson]) -> dict[str, float]:
    """Measures of a predictor, mean by video over the questions that have key frames."""
    rows = []
    for index, stored in enumerate(lessons):
        each = stored.to(model.log_tau.device)
        for logits, labels in zip(model.logits(each), each.labels, strict=True):
            if (labels != labels[0]).any():
                rows.append((str(index), measure(logits.amax(dim=0).cpu(), labels.cpu())))
    return mean_by_video(rows)


def make_trainer(
    model: Predictor, lessons: Sequence[Lesson], checks: Sequence[Lesson], recipe: Recipe, out: Path
) -> PredictorTrainer:
    """A trainer that writes each epoch below `out`, and ends with the best of them."""
    optimizer = torch.optim.AdamW(_groups(model, recipe), betas=(0.9, 0.98), weight_decay=0.0)
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


def _groups(model: Predictor, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters with their learning rates: the few numbers after the towers have one of their own."""
    towers: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (rest if name.endswith(("log_tau", "offsets", "logit_scale", "logit_bias")) else towers).append(parameter)
    return [{"params": rest, "lr": recipe.head_lr}, *([{"params": towers, "lr": recipe.lr}] if towers else [])]
