"""The training run: Hugging Face's Trainer over videos, with the predictor's own measures."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

import lmms_kvtp
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.fusion import FusionHead
from lmms_kvtp.training.predictor.features import SeenVideo
from lmms_kvtp.training.predictor.measure import mean_by_video, measure
from lmms_kvtp.training.predictor.model import Lesson, Parts, Predictor, lesson
from lmms_kvtp.training.predictor.objective import Objective

logger = logging.getLogger(__name__)
REPORT = "training.json"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out of a training run, besides the data."""

    parts: Parts = "text"
    epochs: int = 10
    lr: float = 3e-4
    """Of the text tower."""
    head_lr: float = 3e-3
    """Of the temperatures, the logit scale and the logit bias."""
    videos_per_step: int = 4
    seed: int = 0
    patience: int = 3
    """Epochs without a better recall on the validation videos after which training stops."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: mixed precision; parameters stay float32."""
    report_to: str = "none"
    """tensorboard or wandb, if installed."""
    head: FusionHead = field(default_factory=FusionHead)
    objective: Objective = field(default_factory=Objective)


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


def train(
    encoder: Siglip,
    training: Sequence[SeenVideo],
    validation: Sequence[SeenVideo],
    recipe: Recipe,
    out: Path,
) -> dict[str, Any]:
    """Train a predictor and write it to `out`; a killed run goes on from its last epoch there.

    Questions whose labels are all equal give no gradient; they are left out, and counted, unless the objective has a
    flatness term. Training stops with FloatingPointError where the loss is not finite; checkpoints of earlier epochs
    stay in `out`.

    Args:
        encoder: the model to start from; its own weights are changed.
        training: videos to learn from.
        validation: other videos, on which the best epoch is chosen.
        recipe: settings.
        out: folder.

    Returns:
        What is written to training.json.

    Raises:
        ValueError: no question is left to learn from, or `out` holds a run of another recipe.
    """
    set_seed(recipe.seed)
    lessons = [useful for useful in (without_flat(lesson(video, encoder), recipe) for video in training) if useful]
    checks = [useful for useful in (without_flat(lesson(video, encoder), Recipe()) for video in validation) if useful]
    if not lessons or not checks:
        raise ValueError(
            f"{len(training)} training and {len(validation)} validation videos leave {len(lessons)} and {len(checks)} "
            "with questions whose key frames are known; give more videos"
        )
    counts = {"videos": len(lessons), "questions": sum(len(each.labels) for each in lessons)}
    counts["flat_questions_left_out"] = sum(len(video.example.questions) for video in training) - counts["questions"]
    logger.info("training on %s", counts)
    model = Predictor(encoder.model, recipe.head, recipe.objective, recipe.parts)
    untrained = evaluate(model, checks)
    trainer = _trainer(model, lessons, checks, recipe, out)
    trainer.train(resume_from_checkpoint=_last_checkpoint(out, recipe))
    report = {
        "recipe": _plain(recipe),
        "started_from": encoder.pretrained,
        "code": lmms_kvtp.__version__,
        "data": counts,
        "validation_before": untrained,
        "validation_after": evaluate(model, checks),
        "log": trainer.state.log_history,
    }
    model.save(out, encoder)
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def without_flat(each: Lesson, recipe: Recipe) -> Lesson | None:
    """The lesson without questions whose labels are all equal, unless flatness is trained; None if none is left."""
    if recipe.objective.flatness:
        return each
    kept = (each.labels != each.labels[:, :1]).any(dim=1).nonzero().flatten()
    pieces = torch.isin(each.owner, kept)
    owner = torch.searchsorted(kept, each.owner[pieces])
    return Lesson(each.image, each.ids[pieces], owner, each.labels[kept]) if len(kept) else None


def _trainer(
    model: Predictor, lessons: Sequence[Lesson], checks: Sequence[Lesson], recipe: Recipe, out: Path
) -> PredictorTrainer:
    towers = [p for name, p in model.named_parameters() if p.requires_grad and name.startswith("siglip.text_model")]
    rest = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("siglip.text_model")]
    groups = [{"params": rest, "lr": recipe.head_lr}, *([{"params": towers, "lr": recipe.lr}] if towers else [])]
    steps = recipe.epochs * math.ceil(len(lessons) / recipe.videos_per_step)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.05, 1 - step / steps))
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
        seed=recipe.seed,
        report_to=recipe.report_to,
        dataloader_pin_memory=False,
    )
    return PredictorTrainer(
        model=model,
        args=arguments,
        train_dataset=cast(Any, lessons),
        eval_dataset=cast(Any, checks),
        data_collator=lambda batch: {"lessons": batch},
        optimizers=(optimizer, decay),
        callbacks=[EarlyStoppingCallback(recipe.patience)],
    )


def _last_checkpoint(out: Path, recipe: Recipe) -> str | None:
    """The newest epoch of a run with the same recipe.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    note = out / "recipe.json"
    wanted = json.loads(json.dumps(_plain(recipe)))
    last = get_last_checkpoint(str(out / "epochs")) if (out / "epochs").is_dir() else None  # type: ignore[no-untyped-call]
    if last is not None and json.loads(note.read_text(encoding="utf-8")) != wanted:
        raise ValueError(f"{out} holds a run of another recipe; give another folder, or delete {out / 'epochs'}")
    note.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    return str(last) if last is not None else None


def _plain(recipe: Recipe) -> Mapping[str, Any]:
    plain = asdict(recipe)
    plain["head"]["log_tau"] = recipe.head.log_tau.tolist()
    return plain
