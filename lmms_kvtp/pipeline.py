"""From videos and questions to answers with their costs: the order of the steps, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from lmms_kvtp.cost.flops import decode_flops, prefill_flops
from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.encode import Encoded, encode
from lmms_kvtp.method import Method
from lmms_kvtp.questions import Question
from lmms_kvtp.selection import select
from lmms_kvtp.types import NEWLINE, VISION, Generation, GenerationOptions, PackedTokens, Prompt
from lmms_kvtp.video.frames import Video
from lmms_kvtp.vlms.base import PromptTooLongError, VideoVLM
from lmms_kvtp.vlms.prefix import PrefixCache


@dataclass(frozen=True)
class Answer:
    """A text, and what it cost."""

    text: str
    cost: SampleCost
    error: str | None = None
    """Why the sample could not be answered; None when it was."""


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


def fit(
    vlm: VideoVLM, method: Method, encoded: Sequence[Encoded], question: Question, meter: Meter, fewer_frames: bool
) -> tuple[Prompt, list[PackedTokens]]:
    """Lay out the prompt; where it is too long and `fewer_frames` allows it, thin out the frames until it fits."""
    while True:
        packed = [visual.whole or select(method, visual, question, meter) for visual in encoded]
        text = "\n".join([visual.instruction for visual in encoded if visual.instruction] + [question.prompt])
        try:
            with meter.stage("prefill"):
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
    kept, newlines = torch.stack([(prompt.role == role).sum() for role in (VISION, NEWLINE)]).tolist()
    lengths = generation.layer_lengths
    selection = method.layer_pruning.flops(vlm.llm, lengths, prompt.role) if kept else 0
    return SampleCost(
        num_frames=frames,
        tokens_before=sum(visual.num_frames * visual.grid[0] * visual.grid[1] for visual in packed),
        tokens_kept=kept,
        tokens_structural=newlines,
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
