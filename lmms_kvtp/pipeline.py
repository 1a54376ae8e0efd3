"""From videos and questions to answers with their costs: the order of the steps, and nothing else."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.cost import Meter, SampleCost
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.flops import decode_flops, prefill_flops, projector_flops, vision_flops
from lmms_kvtp.method import Method
from lmms_kvtp.pruners.base import refuse_broken
from lmms_kvtp.refine import question_text
from lmms_kvtp.types import (
    NEWLINE,
    VISION,
    FrameFeatures,
    Frames,
    FrameTokens,
    Generation,
    GenerationOptions,
    PackedTokens,
    Prompt,
    Question,
    Video,
)
from lmms_kvtp.vlms.base import PromptTooLongError, VideoVLM
from lmms_kvtp.vlms.prefix import PrefixCache


@dataclass(frozen=True)
class Answer:
    """A text, and what it cost."""

    text: str
    cost: SampleCost
    error: str | None = None
    """Why the sample could not be answered; None when it was."""


@dataclass(frozen=True)
class Encoded:
    """A video as towers see it: everything that does not depend on the question."""

    tokens: FrameTokens
    features: FrameFeatures
    instruction: str
    seconds: dict[str, float]
    flops: dict[str, int] = field(default_factory=dict)
    peak_bytes: int | None = None
    whole: PackedTokens | None = None
    """Of an image in tiles, which no method prunes: all of it, laid out."""


@torch.inference_mode()
def answer(
    vlm: VideoVLM,
    method: Method,
    videos: Sequence[Video],
    questions: Sequence[Question],
    options: GenerationOptions | None = None,
    fewer_frames: bool = False,
    batch_size: int = 1,
) -> Iterator[Answer]:
    """Answer questions on the same videos, encoding these once.

    Where the question decides nothing about what is kept, the questions also share the prefill of what precedes them.

    Args:
        vlm: the model.
        method: what is kept of each frame.
        videos: what every question is about; none for a question of text alone.
        questions: answered in order, each batch as soon as it is asked for.
        options: how answers are decoded.
        fewer_frames: leave out frames, evenly, when a prompt does not fit; otherwise that is an error.
        batch_size: prompts that the language model reads at once, if greedily; above 1 no prefill is shared.

    Raises:
        VideoError: a video cannot be read.
        PromptTooLongError: a prompt does not fit in the model's context.
    """
    encoded = [encode(vlm, method, video) for video in videos]
    prefix = PrefixCache() if batch_size == 1 and len(questions) > 1 and not method.query_aware else None
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        ready = [prepare(vlm, method, encoded, question, fewer_frames, len(questions)) for question in batch]
        yield from finish(vlm, method, ready, options or GenerationOptions(), prefix)


@dataclass(frozen=True)
class Prepared:
    """A prompt that waits for its answer."""

    prompt: Prompt
    packed: Sequence[PackedTokens]
    meter: Meter
    questions_on_video: int


@torch.inference_mode()
def prepare(
    vlm: VideoVLM,
    method: Method,
    encoded: Sequence[Encoded],
    question: Question,
    fewer_frames: bool = False,
    questions_on_video: int = 1,
) -> Prepared:
    """Make the prompt of one question on encoded videos; raises as `answer` does."""
    meter = Meter(
        vlm.device,
        _sum([visual.seconds for visual in encoded]),
        _sum([visual.flops for visual in encoded]),
        max((visual.peak_bytes for visual in encoded if visual.peak_bytes is not None), default=None),
    )
    prompt, packed = fit(vlm, method, encoded, question, meter, fewer_frames)
    return Prepared(prompt, packed, meter, questions_on_video)


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


def encode(vlm: VideoVLM, method: Method, video: Video) -> Encoded:
    """Run the model's tower and the image-text encoder over a video, chunk by chunk, in one pass over its frames."""
    [encoded] = encode_once(vlm, [method], video)
    return encoded


@torch.inference_mode()
def encode_once(vlm: VideoVLM, methods: Sequence[Method], video: Video) -> list[Encoded]:
    """The same for several methods, which share the frames, the model's tower, and equal encoders.

    Features then hold what any of the methods needs, and the seconds of an encoder are for all of that; operations
    are those of each method alone.
    """
    needs: dict[FrameEncoder, frozenset[str]] = {}
    for method in methods:
        needs[method.encoder] = needs.get(method.encoder, frozenset()) | method.needs
    meter, own = Meter(vlm.device), {encoder: Meter(vlm.device) for encoder in needs}
    tokens: list[FrameTokens] = []
    features: dict[FrameEncoder, list[FrameFeatures]] = {encoder: [] for encoder in needs}
    chunks = video.chunks()
    while (frames := _next(chunks, meter)) is not None:
        with meter.stage("preprocess"):
            frames.pixels(vlm.pixel_spec)
        count = len(frames.times)
        with meter.stage("vision", vision_flops(vlm.vision, count)):
            seen = vlm.look(frames)
            tokens.append(vlm.project(seen))
        frames = replace(frames, tower=seen)
        for encoder, wanted in needs.items():
            with own[encoder].stage("encoder", encoder.flops(count, wanted) if wanted else 0):
                part = encoder.encode(frames, wanted, vlm.pool) if wanted else FrameFeatures(times=frames.times)
            features[encoder].append(part)
        del frames, seen  # before the next chunk is decoded
    joined = FrameTokens(torch.cat([part.embeds for part in tokens]), vlm.pool.grid, video.key)
    refuse_broken(joined)
    described = {encoder: FrameFeatures.cat(parts) for encoder, parts in features.items()}
    meter.flops["projector"] = projector_flops(vlm.vision, vlm.llm, joined.num_frames)
    visuals = []
    for method in methods:
        spent, seconds, flops = own[method.encoder], dict(meter.seconds), dict(meter.flops)
        if method.needs:
            alone = method.encoder.flops(joined.num_frames, method.needs)
            seconds |= spent.seconds
            flops["encoder"] = spent.flops.get("encoder", 0) if alone is None else alone
        seen_by = described[method.encoder]
        visuals.append(Encoded(joined, seen_by, video.instruction, seconds, flops, spent.peak_bytes))
    return visuals


def _next(chunks: Iterator[Frames], meter: Meter) -> Frames | None:
    """Decode the next frames; where another process does, its work counts as such, and the time here as waiting."""
    start = time.perf_counter()
    frames = next(chunks, None)
    passed = time.perf_counter() - start
    spent = frames.spent if frames else {}
    for stage, seconds in spent.items():
        meter.add(stage, seconds)
    meter.add("waiting" if "waiting" in meter.seconds else "decode", passed)
    return frames


@dataclass(frozen=True)
class Weighed:
    """What a pruner is given for one video and question."""

    features: FrameFeatures
    relevance: Float[Tensor, " T"]
    budgets: Int[Tensor, " T"]


def weigh(method: Method, visual: Encoded, question: Question, meter: Meter) -> Weighed:
    """Score the frames, and give each its budget."""
    with meter.stage("scorer", scoring_flops(method, visual.tokens.num_frames, question)):
        features = _complete(method, visual, question)
        relevance = method.scorer.score(features, question, method.encoder)
    with meter.stage("pruner"):
        return Weighed(features, relevance, method.budgets(relevance, visual.tokens.capacity))


def scoring_flops(method: Method, num_frames: int, question: Question) -> int | None:
    """Operations of scoring so many frames, and of the question's embedding where the pruner reads it, too.

    None: counted while they run.
    """
    scoring = method.scorer.flops(num_frames, question, method.encoder)
    if scoring is None or "text" not in method.additions:
        return scoring
    text = method.encoder.relevance_flops(0, [question_text(question)])
    return None if text is None else scoring + text


def select(method: Method, visual: Encoded, question: Question, meter: Meter) -> PackedTokens:
    """Score the frames, give each its budget, and prune."""
    given = weigh(method, visual, question, meter)
    pruner = method.pruner
    known = 0 if pruner.tells_flops else pruner.flops(visual.tokens, given.features, given.budgets)
    with meter.stage("pruner", known):
        packed = pruner.prune(visual.tokens, given.features, given.budgets, given.relevance)
    if packed.flops:
        meter.flops["pruner"] = meter.flops.get("pruner", 0) + packed.flops
    return packed


def _complete(method: Method, visual: Encoded, question: Question) -> FrameFeatures:
    """The features of the frames, and what the method reads beside them: question and tokens."""
    features = visual.features
    if "text" in method.additions:
        features = replace(features, text=method.encoder.encode_text([question_text(question)]))
    if "tokens" in method.additions:
        features = replace(features, tokens=visual.tokens.embeds)
    return features


def fit(
    vlm: VideoVLM, method: Method, encoded: Sequence[Encoded], question: Question, meter: Meter, fewer_frames: bool
) -> tuple[Prompt, list[PackedTokens]]:
    """Lay out the prompt; where it is too long and `fewer_frames` allows it, thin out the frames until it fits."""
    while True:
        packed = [visual.whole or select(method, visual, question, meter) for visual in encoded]
        text = "\n".join([visual.instruction for visual in encoded if visual.instruction] + [question.prompt])
        try:
            return vlm.assemble(packed, text), packed
        except PromptTooLongError as error:
            share = (error.limit - error.text_tokens) / (error.length - error.text_tokens)
            if not fewer_frames or share <= 0 or all(visual.tokens.num_frames == 1 for visual in encoded):
                raise
            encoded = [_thin(visual, share) for visual in encoded]


def _thin(visual: Encoded, share: float) -> Encoded:
    count = max(1, min(int(visual.tokens.num_frames * share), visual.tokens.num_frames - 1))
    frames = torch.linspace(0, visual.tokens.num_frames - 1, count).long()
    return replace(visual, tokens=visual.tokens.select(frames), features=visual.features.select(frames))


Amount = TypeVar("Amount", int, float)


def _sum(parts: Sequence[dict[str, Amount]]) -> dict[str, Amount]:
    return {stage: sum(part[stage] for part in parts if stage in part) for part in parts for stage in part}


def _cost(vlm: VideoVLM, method: Method, ready: Prepared, generation: Generation) -> SampleCost:
    packed, prompt = ready.packed, ready.prompt
    frames = sum(visual.num_frames for visual in packed)
    lengths = generation.layer_lengths
    selection = method.layer_pruning.flops(vlm.llm, lengths, prompt.role) if bool((prompt.role == VISION).any()) else 0
    return SampleCost(
        num_frames=frames,
        tokens_before=sum(visual.num_frames * visual.grid[0] * visual.grid[1] for visual in packed),
        tokens_kept=int((prompt.role == VISION).sum()),
        tokens_structural=int((prompt.role == NEWLINE).sum()),
        prompt_tokens=prompt.length,
        output_tokens=generation.num_tokens,
        keep_ratio=method.keep_ratio,
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
