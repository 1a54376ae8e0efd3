"""Muon for the matrices of transformer layers, AdamW for the rest, one learning-rate shape for both."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Optimizer:
    """Both optimizers as one, with clipped gradients and a linear decay over the last part of the run."""

    def __init__(
        self,
        parts: Iterable[nn.Module | nn.Parameter],
        steps: int,
        lr: float,
        muon_lr: float,
        decay_from: float = 0.5,
        warmup: int = 20,
        floor: float = 0.05,
    ) -> None:
        """Learning rates are held from `warmup` to `decay_from` (fraction of `steps`), then fall to `floor` of them."""
        matrices, others = split_parameters(parts)
        self.parameters = matrices + others
        self.adamw = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.muon = torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.01) if matrices else None
        self.steps, self.decay_from, self.warmup, self.floor = steps, decay_from, warmup, floor
        self.lrs = (lr, muon_lr)
        self.done = 0

    def scale(self) -> float:
        """Factor on the learning rates for the next step."""
        if self.done < self.warmup:
            return (self.done + 1) / self.warmup
        left = (self.steps - self.done) / max(1.0, self.steps * (1 - self.decay_from))
        return max(self.floor, min(1.0, left))

    def step(self, loss: Tensor) -> None:
        """One update from `loss`."""
        self.backward(loss)
        self.update()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """One update from the gradients so far, which are then gone."""
        scale = self.scale()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, lr in zip((self.adamw, self.muon), self.lrs, strict=True):
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["lr"] = lr * scale
                optimizer.step()
                optimizer.zero_grad()
        self.done += 1


def split_parameters(parts: Iterable[nn.Module | nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable matrices inside transformer layers, and all other trainable parameters."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for part in parts:
        for name, parameter in [("", part)] if isinstance(part, nn.Parameter) else part.named_parameters():
            if parameter.requires_grad:
                inner = parameter.ndim == 2 and "layers." in name
                (matrices if inner else others).append(parameter)
    return matrices, others
