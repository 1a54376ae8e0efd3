"""The cost of one answer before anything runs, by our own convention and by others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.cost import flops
from lmms_kvtp.cost.flops import TEXT_TOKENS
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.encoders.own import OwnTower, encoder_flops
from lmms_kvtp.forecast.models import Encoder, Sizes, Spec, find_encoder, pool_of
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import text_flops
from lmms_kvtp.pruners.parts.packing import pack
from lmms_kvtp.questions import Question
from lmms_kvtp.types import FEATURES, TEXT, VISION, FrameFeatures, FrameTokens, GridPool
from lmms_kvtp.video.frames import Frames


@dataclass(frozen=True)
class Forecast:
    """Counts and operations of an answer, without seconds."""

    cost: SampleCost
    unknown: tuple[str, ...]
    """Stages whose operations are not known before they run."""


@dataclass(frozen=True)
class Sized(FrameEncoder):
    """An image-text model of known sizes and no weights."""

    provides: ClassVar[frozenset[str]] = FEATURES

    sizes: Encoder
    projected_keys: bool = False

    def encode(self, frames: Frames, needs: frozenset[str], pool: GridPool) -> FrameFeatures:
        """Refuse: there are no weights."""
        raise ValueError("a forecast has no weights to encode frames with")

    def embed_text(self, text: str) -> Float[Tensor, "_ E"]:
        """Refuse: there are no weights."""
        raise ValueError("a forecast has no weights to encode texts with")

    def logits(self, image: Float[Tensor, "T E"], text: Float[Tensor, "q E"]) -> Float[Tensor, "q T"]:
        """Refuse: there are no weights."""
        raise ValueError("a forecast has no weights to compare with")

    def flops(self, num_frames: int, needs: frozenset[str], pool: GridPool) -> int:
        """Operations of SigLIP at these sizes."""
        return flops.features_flops(self.sizes.vision, num_frames, needs, self.projected_keys)

    def relevance_flops(self, num_frames: int, texts: Sequence[str], views: int = 1) -> int:
        """Operations of SigLIP at these sizes; each text is one padded row."""
        return flops.relevance_flops(self.sizes.text, [self.sizes.positions] * len(texts), num_frames, views)


def forecast(
    spec: Sizes,
    method: Method,
    num_frames: int,
    pool: GridPool | None = None,
    text_tokens: int = TEXT_TOKENS,
    output_tokens: int = 2,
) -> Forecast:
    """Lay out a video of unknown content as `method` would prune it, and count what an answer costs.

    All frames count as equally relevant, with differences just large enough for allocators that drop frames. Budgets
    that differ from frame to frame would change the number of newlines a little. Layer pruners that divide tokens by
    group are assumed to lose none to rounding. The prompt has `text_tokens` positions beside the video, and the answer
    `output_tokens`, the end token included; without `pool`, patches are pooled as the checkpoint was trained.

    ValueError where the method leaves nothing of so few frames.
    """
    pool, steps = pool or pool_of(spec, None, num_frames), -(-num_frames // spec.frames_per_step)
    capacity = math.prod(pool.grid)
    budgets = method.budgets(torch.linspace(1, 1 + 1e-6, steps), capacity)
    tokens = FrameTokens(torch.empty(steps, capacity, 1), pool.grid)
    packed = pack(tokens, tokens.embeds, torch.arange(capacity) < budgets[:, None])
    roles = spec.roles(packed)
    kept = int((roles == VISION).sum())
    prompt = len(roles) + text_tokens
    lengths = [prompt] * spec.llm.layers
    for layer, left in method.layer_pruning.kept(kept):
        lengths[layer:] = [prompt - kept + left] * (len(lengths) - layer)
    role = torch.cat([roles, torch.full((text_tokens,), TEXT)])  # the question stands behind the video
    helpers, (tower, projector) = _helpers(method, budgets, pool, spec, num_frames), spec.vision_flops(pool, steps)
    if kept:
        helpers["layer_pruning"] = method.layer_pruning.flops(spec.llm, lengths, role)
    operations = {
        "vision": tower,
        "projector": projector,
        **{stage: found for stage, found in helpers.items() if found},
        "prefill": flops.prefill_flops(spec.llm, lengths),
        "generate": flops.decode_flops(spec.llm, lengths, output_tokens),
    }
    cost = SampleCost(
        num_frames=num_frames,
        tokens_before=steps * capacity,
        tokens_kept=kept,
        tokens_structural=len(roles) - kept,
        prompt_tokens=prompt,
        output_tokens=output_tokens,
        keep_ratio=method.keep_ratio,
        layer_lengths=tuple(lengths),
        flops=operations,
        prefill_flops_causal=flops.prefill_flops(spec.llm, lengths, causal=True),
    )
    unknown = tuple(stage for stage, found in helpers.items() if found is None)
    return Forecast(cost, unknown)


def _helpers(method: Method, budgets: Tensor, pool: GridPool, spec: Sizes, count: int) -> dict[str, int | None]:
    """Operations of encoder, scorer and pruner; None where they are not known before they run."""
    tokens = FrameTokens(torch.empty(len(budgets), math.prod(pool.grid), spec.llm.hidden, device="meta"), pool.grid)
    frames, needs = tokens.num_frames, method.needs
    sizes = find_encoder(str(getattr(method.encoder, "pretrained", ""))) if needs else None
    own = isinstance(method.encoder, OwnTower)
    if sizes is None:
        encoder, width = method.encoder, spec.vision.hidden if own else 1
    else:
        encoder = Sized(sizes, projected_keys=method.describe()["encoder"].get("key_source") == "projected")
        width = sizes.vision.hidden
    patches = (frames, tokens.capacity)
    shapes = {"image": (frames, width), "keys": (*patches, width), "patch_text": (*patches, width), "text": (1, width)}
    shapes["layer_keys"] = (*patches, max(1, width // (sizes.vision if sizes else spec.vision).heads))
    read = needs | method.additions - {"tokens"}
    made = {name: torch.empty(shapes.get(name, patches), device="meta") for name in read}
    features = FrameFeatures(times=torch.empty(frames), tokens=tokens.embeds, **made)
    question = Question(prompt="?", stem="?")
    if needs and sizes is None and not own:
        return {"encoder": None, "scorer": None, "pruner": method.pruner.flops(tokens, features, budgets)}
    embedding = text_flops(replace(method, encoder=encoder), question)
    scoring = method.scorer.flops(features, question, encoder)
    own_tower = {"width": spec.vision.hidden, "steps": frames}
    return {
        "encoder": encoder_flops(encoder, count, needs, pool=pool, **own_tower) if needs else 0,
        "scorer": None if embedding is None or scoring is None else embedding + scoring,
        "pruner": method.pruner.flops(tokens, features, budgets),
    }


FULL, CAUSAL, LLM, MACS, FASTV = "full", "causal", "LLM only", "MACs", "FastV formula"
MEANING = {
    FULL: "every stage, 2 operations per multiply-add, attention over the full square: this package's own figure",
    CAUSAL: "the same, but only the pairs of positions that a causal mask leaves",
    LLM: "prefill alone: no vision tower, no helper",
    MACS: "multiply-adds of every stage: half of `full`",
    FASTV: "sum over layers of 4 n d^2 + 2 n^2 d + 2 n d m (arXiv 2403.06764): multiply-adds of the language model "
    "with two MLP matrices instead of three and no grouped queries",
}


def conventions(cost: SampleCost, llm: flops.LLMShape) -> dict[str, float]:
    """Operations of an answer up to its first token, by each convention in MEANING."""
    whole = cost.flops_total - cost.flops.get("generate", 0)
    prefill = cost.flops["prefill"]
    return {
        FULL: float(whole),
        CAUSAL: float(whole - prefill + cost.prefill_flops_causal),
        LLM: float(prefill),
        MACS: whole / 2,
        FASTV: float(fastv_formula(llm, cost.layer_lengths)),
    }


def fastv_formula(llm: flops.LLMShape, layer_lengths: Sequence[int]) -> int:
    """Sum of 4 n d^2 + 2 n^2 d + 2 n d m over all layers.

    Source: FastV (arXiv 2403.06764), section 4.
    """
    d, m = llm.hidden, llm.intermediate
    return sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in layer_lengths)


def thop_stages(cost: SampleCost, spec: Spec, encoder: Encoder | None) -> dict[str, int]:
    """Count what THOP would of a LLaVA-Video and its image-text model, if it has one; the tests hold it to THOP's runs.

    Multiply-adds of linear layers and convolutions, and 4 for each element that a layer normalization reads.
    """

    def layers(of: flops.VisionShape | flops.TextShape, positions: int, norms: int) -> int:
        own = of.layers * (4 * of.hidden**2 + 2 * of.hidden * of.intermediate)
        return positions * (own + 4 * of.hidden * (2 * of.layers + norms))

    def tower(of: flops.VisionShape, norms: int) -> int:
        return of.patches * 3 * of.patch_size**2 * of.hidden + layers(of, of.patches, norms)

    v, m = spec.vision, spec.llm
    per_position = m.hidden * (2 * (m.heads + m.kv_heads) * m.head_dim + 3 * m.intermediate)
    found = {
        "vision": cost.num_frames * tower(v, norms=0),
        "projector": cost.num_frames * v.patches * (v.hidden + m.hidden) * m.hidden,
        "prefill": sum(cost.layer_lengths) * per_position + m.hidden * m.vocabulary,
    }
    if encoder is not None and "encoder" in cost.flops:
        e, t = encoder.vision, encoder.text
        pooling = 4 * e.hidden + 2 * e.hidden * e.intermediate
        found["encoder"] = cost.num_frames * (tower(e, norms=1) + pooling)
        if cost.flops.get("scorer"):
            found["scorer"] = layers(t, encoder.positions, norms=1) + t.hidden * t.projection
    return found
