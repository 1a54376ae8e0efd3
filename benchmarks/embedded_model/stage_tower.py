"""Stage `tower`: a SigLIP from scratch, by the sigmoid loss over phrases and a dense loss on what each patch shows.

Without the dense loss the retrieval of glyphs stays at chance for hundreds of steps.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, SiglipModel

from benchmarks.embedded_model.footage import BACKGROUND, Footage, inputs_of_last_layer, normalise
from benchmarks.embedded_model.lessons import all_phrases
from benchmarks.embedded_model.loop import FloatAttention, Log, Optimizer, autocast
from benchmarks.embedded_model.student import Geometry
from lmms_kvtp.embedded.draw import SHAPES
from lmms_kvtp.embedded.script import COLORS, PLACES


@dataclass(frozen=True)
class TowerStage:
    """Settings of the contrastive stage."""

    steps: int = 1600
    batch: int = 64
    phrases: int = 64
    """Number of phrases drawn in each step."""
    lr: float = 1.5e-3
    muon_lr: float = 0.012
    dense_weight: float = 3.0


class PatchProbe(nn.Module):
    """Linear read-outs of shape, color and place at each patch; a training aid, thrown away afterwards."""

    def __init__(self, width: int) -> None:
        """Take the width of the tower's features."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, n) for n in (len(SHAPES) + 1, len(COLORS), len(PLACES)))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Compute the logits of shape, color and place."""
        normed = self.norm(features)
        return [head(normed) for head in self.heads]


def patch_labels(footage: Footage, frames: np.ndarray, device: torch.device) -> list[Int[Tensor, "b p"]]:
    """List shape, color and place of each of the p patches; -100 where a shape covers a patch only in part."""
    shapes = torch.from_numpy(footage.shapes[frames].astype(np.int64)).flatten(1)
    weights = torch.from_numpy(footage.weights[frames]).flatten(1)
    colors = torch.from_numpy(footage.colors[frames].astype(np.int64)).flatten(1)
    places = torch.from_numpy(footage.places[frames].astype(np.int64))[:, None].expand_as(shapes)
    unclear = (shapes != BACKGROUND) & (weights < 0.6)
    bare = unclear | (shapes == BACKGROUND)
    return [each.to(device) for each in (shapes.masked_fill(unclear, -100), colors.masked_fill(bare, -100), places)]


def augment(pixels: Float[Tensor, "b 3 H W"], rng: torch.Generator) -> Float[Tensor, "b 3 H W"]:
    """Vary brightness and contrast of each frame a little, and blur a quarter of the frames."""
    gain, shift = (torch.rand((2, len(pixels), 1, 1, 1), generator=rng) - 0.5) * 0.2
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blur = (torch.rand((len(pixels), 1, 1, 1), generator=rng) < 0.25).float() * 0.6
    changed: Tensor = (pixels + (blurred - pixels) * blur) * (1 + gain) + shift
    return changed


def dense_loss(logits: list[Tensor], labels: list[Int[Tensor, "b p"]]) -> Tensor:
    """Sum the losses of shape (foreground and background weigh the same), color and place."""
    shape, color, place = (part.flatten() for part in labels)
    shapes, colors, places = (part.float().flatten(0, 1) for part in logits)
    kinds = (shape == BACKGROUND, (shape >= 0) & (shape < BACKGROUND))
    nothing, something = (F.cross_entropy(shapes[rows], shape[rows]) for rows in kinds)
    of_color = F.cross_entropy(colors, color, ignore_index=-100)
    return (nothing + something) / 2 + of_color + 0.3 * F.cross_entropy(places, place)


def train_tower(
    model: SiglipModel,
    footage: Footage,
    tokenizer: PreTrainedTokenizerBase,
    geometry: Geometry,
    stage: TowerStage,
    seed: int,
    device: torch.device,
    log: Log,
) -> None:
    """Train an image-text model that has random weights."""
    rng, dice = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    model.logit_scale.data.fill_(np.log(10.0))
    model.logit_bias.data.fill_(-4.0)
    probe = PatchProbe(geometry.vision_width).to(device)
    optimizer = Optimizer([model, probe], stage.steps, stage.lr, stage.muon_lr)
    phrases = all_phrases()
    texts = tokenizer([p.text for p in phrases], padding="max_length", truncation=True, return_tensors="pt").input_ids
    for step in log.steps("tower", stage.steps):
        frames = np.sort(dice.choice(len(footage.rgb), stage.batch, replace=False))
        chosen = dice.choice(len(phrases), stage.phrases, replace=False)
        present, places = footage.present(frames), footage.places[frames]
        truth = torch.from_numpy(np.stack([phrases[i].matches(present, places) for i in chosen])).to(device)
        pixels = augment(normalise(torch.from_numpy(footage.rgb[frames])), rng).to(device)
        with autocast(device), FloatAttention(), inputs_of_last_layer(model.vision_model) as before_last:
            seen = model.vision_model(pixels)
            read = model.text_model(texts[torch.from_numpy(chosen)].to(device)).pooler_output
            patches = probe(before_last.pop())
        image, text = (F.normalize(part.float(), dim=-1) for part in (seen.pooler_output, read))
        logits = text @ image.T * model.logit_scale.exp() + model.logit_bias
        contrast = F.binary_cross_entropy_with_logits(logits, truth.float())
        labels = patch_labels(footage, frames, device)
        dense = dense_loss(patches, labels)
        optimizer.step(6 * contrast + stage.dense_weight * dense)
        if log.due(step):
            measures = _measure(logits, truth, patches, labels)
            log.add("tower", step, contrast=contrast.item(), dense=dense.item(), **measures)


def _measure(
    logits: Tensor, truth: Tensor, patches: list[Tensor], labels: list[Int[Tensor, "b p"]]
) -> dict[str, float]:
    drawn = (labels[0] >= 0) & (labels[0] < BACKGROUND)
    shape, color = (
        (part.argmax(-1) == label)[drawn].float().mean().item()
        for part, label in zip(patches[:2], labels[:2], strict=True)
    )
    hit = (logits > 0) == truth
    matched, rejected = (hit[rows].float().mean().item() for rows in (truth, ~truth))
    return {"match": matched, "reject": rejected, "patch_shape": shape, "patch_color": color}
