"""Once per question: score the frames, give each a budget, prune, lay out the prompt, generate, and add up the cost."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import decode_flops, prefill_flops
from lmms_kvtp.cost.meter import Meter, undeclared_flops
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.encode import Encoded, encode
from lmms_kvtp.method import Method
from lmms_kvtp.pruners.parts.packing import land, refused_later
from lmms_kvtp.questions import Question, question_text
from lmms_kvtp.types import MARKUP, NEWLINE, VISION, FrameFeatures, Generation, GenerationOptions, PackedTokens, Prompt
from lmms_kvtp.video.frames import Video
from lmms_kvtp.vlms.base import PromptTooLongError, VideoVLM
from lmms_kvtp.vlms.reading import PrefixCache


@dataclass(frozen=True)
class Answer:
    """A text, and what it cost."""

    text: str
    cost: SampleCost
    error: str | None = None
    """Why the sample could not be answered; None when it was."""
    kept: tuple[Bool[Tensor, "T h w"], ...] = field(default=(), repr=False, compare=False)
    """Patches of each visual that stand in the prompt, merged ones at their representative; in Python alone."""


@dataclass(frozen=True)
class Weighed:
    """What the pruner gets for one video and question."""

    features: FrameFeatures
    relevance: Float[Tensor, " T"]
    budgets: Int[Tensor, " T"]


@dataclass(frozen=True)
class Prepared:
    """A prompt that waits for its answer."""

    prompt: Prompt
    packed: Sequence[PackedTokens]
    """Kept tokens of each visual."""
    weighed: Sequence[Weighed | None]
    """What each visual's pruner was given."""
    meter: Meter
    questions_on_video: int
    patched: int
    """Damaged frames that were seen as a codec patches them."""


def answer(
    vlm: VideoVLM, method: Method, videos: Sequence[Video], question: Question, options: GenerationOptions | None = None
) -> Answer:
    """Answer one question on some videos; `run.answerer` does so for many, which share what they can.

    Args:
        vlm: the model.
        method: what is kept of each frame.
        videos: what the question is about; none for a question of text alone.
        question: what is asked.
        options: how the answer is decoded.

    Raises:
        VideoError: a video cannot be read.
        PromptTooLongError: the prompt does not fit in the model's context.
    """
    encoded = [encode(vlm, method, video) for video in videos]
    ready = prepare(vlm, method, encoded, question)
    [made] = finish(vlm, method, [ready], options or GenerationOptions())
    return made


@torch.inference_mode()
def prepare(
    vlm: VideoVLM,
    method: Method,
    encoded: Sequence[Encoded],
    question: Question,
    fewer_frames: bool = False,
    questions_on_video: int = 1,
) -> Prepared:
    """Make the prompt of one question on encoded videos; raises as `answer` does.

    Args:
        vlm: the model.
        method: what is kept.
        encoded: the visuals, as `method` reads them.
        question: what is asked.
        fewer_frames: leave out frames, evenly, where the prompt does not fit; otherwise that is an error.
        questions_on_video: how many questions of the run share the visuals, for the cost.
    """
    meter = Meter(
        vlm.device,
        _sum([visual.seconds for visual in encoded]),
        _sum([visual.flops for visual in encoded]),
        max((visual.peak_bytes for visual in encoded if visual.peak_bytes is not None), default=None),
    )
    prompt, selected = fit(vlm, method, encoded, question, meter, fewer_frames)
    packed, weighed = [part for part, _ in selected], [given for _, given in selected]
    patched = sum(visual.patched for visual in encoded)
    return Prepared(prompt, packed, weighed, meter, questions_on_video, patched)


def fit(
    vlm: VideoVLM, method: Method, encoded: Sequence[Encoded], question: Question, meter: Meter, fewer_frames: bool
) -> tuple[Prompt, list[tuple[PackedTokens, Weighed | None]]]:
    """Select tokens and lay out the prompt; where it is too long and `fewer_frames` allows it, thin out the frames."""
    while True:
        selected = [select(method, visual, question, meter) for visual in encoded]
        text = "\n".join([visual.instruction for visual in encoded if visual.instruction] + [question.prompt])
        try:
            with meter.stage("prefill"):
                return vlm.assemble([packed for packed, _ in selected], text, method.positions), selected
        except PromptTooLongError as error:
            # of what is too long, only the vision tokens and their newlines can shrink
            share = (error.limit - error.text_tokens) / (error.length - error.text_tokens)
            if not fewer_frames or share <= 0 or all(visual.tokens.num_frames == 1 for visual in encoded):
                raise
            encoded = [_thin(visual, share) for visual in encoded]


def select(method: Method, visual: Encoded, question: Question, meter: Meter) -> tuple[PackedTokens, Weighed | None]:
    """Choose the tokens that stand for a visual: frames are scored, get their budgets, and are pruned to these.

    An image in tiles is kept whole, and nothing is weighed for it.
    """
    if visual.whole is not None:
        return visual.whole, None
    weighed = weigh(method, visual, question, meter)
    return prune(method, visual, weighed, meter), weighed


def weigh(method: Method, visual: Encoded, question: Question, meter: Meter) -> Weighed:
    """Score the frames, and give each its budget."""
    with meter.stage("scorer"):  # to know the operations is to split the question into tokens
        embedding = text_flops(method, question)
    with meter.stage("scorer", embedding):
        features = _complete(method, visual, question)
        scoring = method.scorer.flops(features, question, method.encoder)
    with meter.stage("scorer", scoring):
        relevance = method.scorer.score(features, question, method.encoder)
    with meter.stage("pruner"):
        return Weighed(features, relevance, method.budgets(relevance, visual.tokens.capacity))


def prune(method: Method, visual: Encoded, weighed: Weighed, meter: Meter) -> PackedTokens:
    """Keep the tokens that the budgets allow; where they stand is on the CPU, fetched with what the pruner refuses."""
    told = method.pruner.flops(visual.tokens, weighed.features, weighed.budgets)
    told = undeclared_flops(method.pruner) if told is None else told
    with meter.stage("pruner", told):
        later: AbstractContextManager[Any] = nullcontext([]) if method.pruner.searches else refused_later()
        with later as broken:
            packed = visual.tokens.fill(method.pruner.prune(visual.tokens, weighed.features, weighed.budgets))
        packed = land(packed, broken)
    if packed.flops and told is not None:  # else they were counted
        meter.flops["pruner"] = meter.flops.get("pruner", 0) + packed.flops
    return packed


def text_flops(method: Method, question: Question) -> int | None:
    """Count the operations of embedding the question, where a part reads it; None: counted while it runs."""
    return method.encoder.relevance_flops(0, [question_text(question)]) if "text" in method.additions else 0


def _complete(method: Method, visual: Encoded, question: Question) -> FrameFeatures:
    """Add to the features of the frames what else the method reads: the question's embedding, the tokens."""
    features = visual.features
    if "text" in method.additions:
        features = replace(features, text=method.encoder.encode_text([question_text(question)]))
    if "tokens" in method.additions:
        features = replace(features, tokens=visual.tokens.embeds)
    return features


def _thin(visual: Encoded, share: float) -> Encoded:
    count = max(1, min(int(visual.tokens.num_frames * share), visual.tokens.num_frames - 1))
    frames = torch.linspace(0, visual.tokens.num_frames - 1, count).long()
    return replace(visual, tokens=visual.tokens.select(frames), features=visual.features.select(frames))


@torch.inference_mode()
def finish(
    vlm: VideoVLM,
    method: Method,
    prepared: Sequence[Prepared],
    options: GenerationOptions,
    prefix: PrefixCache | None = None,
) -> list[Answer]:
    """Answer prompts, as one batch where decoding is greedy and nothing is dropped inside the language model."""
    answers = []
    made = vlm.generate([ready.prompt for ready in prepared], options, method.layer_pruning.stages(), prefix)
    for ready, generation in zip(prepared, made, strict=True):
        ready.meter.add("prefill", generation.prefill_seconds)
        ready.meter.add("generate", generation.decode_seconds)
        answers.append(Answer(generation.text, _cost(vlm, method, ready, generation)))
    return answers


def _cost(vlm: VideoVLM, method: Method, ready: Prepared, generation: Generation) -> SampleCost:
    packed, prompt = ready.packed, ready.prompt
    frames = sum(len(visual.timing.indices) if visual.timing else visual.num_frames for visual in packed)
    counts = torch.bincount(prompt.role, minlength=MARKUP + 1).tolist()
    kept, structural = counts[VISION], counts[NEWLINE] + counts[MARKUP]
    lengths = generation.layer_lengths
    selection = method.layer_pruning.flops(vlm.llm, lengths, prompt.role) if kept else 0
    masks = [visual.kept() for visual in packed]
    return SampleCost(
        num_frames=frames,
        frames_patched=ready.patched,
        tokens_before=sum(visual.num_frames * visual.grid[0] * visual.grid[1] for visual in packed),
        tokens_kept=kept,
        tokens_structural=structural,
        prompt_tokens=prompt.length,
        output_tokens=generation.num_tokens,
        keep_ratio=method.keep_ratio,
        kept_by_frame=tuple(count for mask in masks for count in mask.flatten(1).sum(1).tolist()),
        kept_probe=probe(masks),
        layer_lengths=lengths,
        reused_tokens=generation.reused,
        questions_on_video=ready.questions_on_video,
        seconds=ready.meter.seconds,
        flops={
            **ready.meter.flops,
            **({"layer_pruning": selection} if selection else {}),
            "prefill": prefill_flops(vlm.llm, lengths, reused=generation.reused),
            "generate": decode_flops(vlm.llm, generation.cache_lengths or lengths, generation.num_tokens),
        },
        prefill_flops_causal=prefill_flops(vlm.llm, lengths, reused=generation.reused, causal=True),
        peak_bytes=ready.meter.peak_bytes,
    )


PROBED = 256
"""Patches that tell how far two methods keep the same, to a hundredth over some dozen questions, in 64 characters."""


def probe(masks: Sequence[Bool[Tensor, "T h w"]]) -> str:
    """Tell which of PROBED patches, the same ones for each method, were kept; see `SampleCost.kept_probe`."""
    flat = torch.cat([torch.zeros(0, dtype=torch.bool), *(mask.flatten() for mask in masks)])
    bits = "".join(map("01".__getitem__, flat[_probed(len(flat))].tolist()))
    return f"{len(flat)}:{int(bits or '0', 2):x}"


@lru_cache
def _probed(patches: int) -> Int[Tensor, " P"]:
    return torch.randperm(patches, generator=torch.Generator().manual_seed(0))[:PROBED]


Amount = TypeVar("Amount", int, float)


def _sum(parts: Sequence[dict[str, Amount]]) -> dict[str, Amount]:
    return {stage: sum(part[stage] for part in parts if stage in part) for part in parts for stage in part}
