"""Stage `tower`: a SigLIP from scratch, by the sigmoid loss over phrases and a dense loss on what each patch shows.

Without the dense loss the retrieval of glyphs stays at chance for hundreds of steps.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, SiglipModel

from lmms_kvtp.embedded.draw import SHAPES
from lmms_kvtp.embedded.script import COLORS, PLACES
from lmms_kvtp.tiny.footage import BACKGROUND, Footage, normalise
from lmms_kvtp.tiny.lessons import all_phrases
from lmms_kvtp.tiny.loop import FloatAttention, Log, Optimizer, autocast
from lmms_kvtp.tiny.student import Geometry


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


@dataclass(frozen=True)
class PatchLabels:
    """Indices of what each patch of a batch shows, -100 where it is unclear. Axes: b frames, s*s patches."""

    shape: Tensor
    color: Tensor
    place: Tensor


def patch_labels(footage: Footage, frames: np.ndarray, device: torch.device) -> PatchLabels:
    """Label whole and empty patches; those covered in part are left out."""
    shapes = torch.from_numpy(footage.shapes[frames].astype(np.int64)).flatten(1)
    weights = torch.from_numpy(footage.weights[frames]).flatten(1)
    colors = torch.from_numpy(footage.colors[frames].astype(np.int64)).flatten(1)
    places = torch.from_numpy(footage.places[frames].astype(np.int64))[:, None].expand_as(shapes)
    unclear = (shapes != BACKGROUND) & (weights < 0.6)
    bare = unclear | (shapes == BACKGROUND)
    shape, color = shapes.masked_fill(unclear, -100), colors.masked_fill(bare, -100)
    return PatchLabels(shape.to(device), color.to(device), places.to(device))


def augment(pixels: Float[Tensor, "b 3 H W"], rng: torch.Generator) -> Float[Tensor, "b 3 H W"]:
    """Vary brightness and contrast of each frame a little, and blur a quarter of the frames."""
    gain, shift = (torch.rand((2, len(pixels), 1, 1, 1), generator=rng) - 0.5) * 0.2
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blur = (torch.rand((len(pixels), 1, 1, 1), generator=rng) < 0.25).float() * 0.6
    changed: Tensor = (pixels + (blurred - pixels) * blur) * (1 + gain) + shift
    return changed


def dense_loss(logits: list[Tensor], labels: PatchLabels) -> Tensor:
    """Sum the losses of shape (foreground and background weigh the same), color and place."""
    flat = [part.float().flatten(0, 1) for part in logits]
    shape = labels.shape.flatten()
    parts = [
        F.cross_entropy(flat[0][rows], shape[rows])
        for rows in (shape == BACKGROUND, (shape >= 0) & (shape < BACKGROUND))
    ]
    color = F.cross_entropy(flat[1], labels.color.flatten(), ignore_index=-100)
    place = F.cross_entropy(flat[2], labels.place.flatten())
    return (parts[0] + parts[1]) / 2 + color + 0.3 * place


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
        with autocast(device), FloatAttention():
            seen = model.vision_model(pixels, output_hidden_states=True)
            read = model.text_model(texts[torch.from_numpy(chosen)].to(device)).pooler_output
            patches = probe(seen.hidden_states[-2])
        image, text = (F.normalize(part.float(), dim=-1) for part in (seen.pooler_output, read))
        logits = text @ image.T * model.logit_scale.exp() + model.logit_bias
        contrast = F.binary_cross_entropy_with_logits(logits, truth.float())
        dense = dense_loss(patches, patch_labels(footage, frames, device))
        optimizer.step(6 * contrast + stage.dense_weight * dense)
        if log.due(step):
            measures = _measure(logits, truth, patches, patch_labels(footage, frames, device))
            log.add("tower", step, contrast=contrast.item(), dense=dense.item(), **measures)


def _measure(logits: Tensor, truth: Tensor, patches: list[Tensor], labels: PatchLabels) -> dict[str, float]:
    shape, color = patches[0].argmax(-1), patches[1].argmax(-1)
    drawn = (labels.shape >= 0) & (labels.shape < BACKGROUND)
    hit = (logits > 0) == truth
    return {
        "match": hit[truth].float().mean().item(),
        "reject": hit[~truth].float().mean().item(),
        "patch_shape": (shape == labels.shape)[drawn].float().mean().item(),
        "patch_color": (color == labels.color)[drawn].float().mean().item(),
    }
