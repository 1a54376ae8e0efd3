"""Decoding with transformers' own generate: its settings, where answers end, and when their first token came."""

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    __version__,
)

from lmms_kvtp.cost.meter import Mark, mark, passed
from lmms_kvtp.device import send, told
from lmms_kvtp.layer_pruning.base import PruningTrace, Stage, layer_pruning
from lmms_kvtp.types import Generation, GenerationOptions, Prompt
from lmms_kvtp.vlms.reading import PrefixCache, counted, deepened, pad_left, placed

if TYPE_CHECKING:
    from lmms_kvtp.vlms.base import VideoVLM

DECIDED = ("do_sample", "temperature", "top_p", "num_beams", "max_length", "max_new_tokens", "transformers_version")
"""Settings of generation_config.json that `GenerationOptions` replaces."""
SAMPLING = ("top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
BEAMS = ("early_stopping", "length_penalty", "diversity_penalty", "num_beam_groups")


@dataclass(frozen=True)
class Decoded:
    """One answer of `decode`."""

    ids: list[int]
    """Ids of the generated tokens, the end token included."""
    prefill_seconds: float
    """Seconds until the first token was chosen; in a batch, an equal share."""
    decode_seconds: float
    reused: int = 0
    """Prompt positions whose keys and values were there before."""


class FirstTokenClock(StoppingCriteria):
    """Notes when the first token was there, and stops nothing."""

    def __init__(self, device: torch.device) -> None:
        """Start the clock."""
        self.device, self.start = device, mark(device)
        self.first: Mark | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Bool[Tensor, " b"]:
        """Look at the last token; transformers calls this behind each one."""
        if self.first is None:
            self.first = mark(self.device)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class UntilText(StoppingCriteria):
    """Stops an answer when its last tokens hold one of some strings."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, until: Sequence[str]) -> None:
        """Take strings, none of them empty."""
        self.tokenizer, self.until = tokenizer, until
        self.lengths: dict[int, int] = {}
        """Number of tokens of each row when its stop was met; behind them generate pads."""
        # a token holds at least a byte, a character has at most four
        self.window = 4 * max(map(len, until)) + 4

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Bool[Tensor, " b"]:
        """Look at the last token; transformers calls this behind each one."""
        texts = self.tokenizer.batch_decode(input_ids[:, -self.window :], skip_special_tokens=True)
        done = [any(stop in text for stop in self.until) for text in texts]
        for row in filter(done.__getitem__, range(len(done))):
            self.lengths.setdefault(row, input_ids.shape[1])
        return torch.tensor(done, device=input_ids.device)


class Listening(StoppingCriteria):
    """Tells a listener the text so far, of one row, and stops where the listener wants no more."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, until: Sequence[str], hear: Callable[[str], bool]) -> None:
        """Take the strings that end an answer, of which no part is told."""
        self.tokenizer, self.until, self.hear = tokenizer, until, hear

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Bool[Tensor, " b"]:
        """Look at the tokens; transformers calls this behind each one."""
        text = cast(str, self.tokenizer.decode(input_ids[0], skip_special_tokens=True))
        ends = [text.find(stop) if stop in text else max(0, len(text) - len(stop)) for stop in self.until]
        done = self.hear(text[: min(ends, default=None)].lstrip().rstrip("\ufffd \n\t"))
        return torch.full((len(input_ids),), done, device=input_ids.device)


_listener: ContextVar[Callable[[str], bool] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(hear: Callable[[str], bool]) -> Iterator[None]:
    """Tell `hear` the text of an answer that this thread makes, as it grows; it returns True to end the answer."""
    token = _listener.set(hear)
    try:
        yield
    finally:
        _listener.reset(token)


class PromptPenalty(LogitsProcessor):
    """The repetition penalty, which counts the ids of the prompt as well, where it knows them."""

    def __init__(self, penalty: float, prompts: Sequence[Prompt]) -> None:
        """Take the prompts of a batch, in order."""
        self.counted, self.ids = RepetitionPenaltyLogitsProcessor(penalty), [prompt.ids for prompt in prompts]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Lower the scores of ids that were there; several beams of a prompt lie side by side."""
        beams, rows = len(input_ids) // len(self.ids), []
        for row, made in enumerate(input_ids):
            before = self.ids[row // beams]
            before = made[:0] if before is None else send(before, made.device)
            rows.append(self.counted(torch.cat([before, made])[None], scores[row : row + 1]))
        return torch.cat(rows)


def now(device: torch.device) -> float:
    """Read the clock, in seconds, once all work given to `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def settings(base: GenerationConfig, end: int, pad: int, options: GenerationOptions) -> GenerationConfig:
    """Put `options` over the checkpoint's decoding settings.

    As in lmms-eval, the checkpoint's repetition penalty holds for greedy decoding, too, its top_k for sampling, and its
    temperature and top_p for neither.

    ValueError where an option is out of its range.
    """
    for name, value, least in (
        ("max_new_tokens", options.max_new_tokens, 1),
        ("num_beams", options.num_beams, 1),
        ("temperature", options.temperature, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value} is below {least}")
    sampled = options.temperature > 0
    dropped = DECIDED + (() if sampled else SAMPLING) + (BEAMS if options.num_beams == 1 else ())
    kept = {name: value for name, value in base.to_diff_dict().items() if name not in dropped}
    ends = kept.get("eos_token_id") or []
    ends = [ends] if isinstance(ends, int) else list(ends)
    chosen: dict[str, Any] = {
        "eos_token_id": ends if end in ends else [*ends, end],
        "pad_token_id": pad,
        "max_new_tokens": options.max_new_tokens,
        "num_beams": options.num_beams,
        "do_sample": sampled,
        "use_cache": True,
    }
    if sampled:
        chosen |= {"temperature": options.temperature, "top_p": 1.0 if options.top_p is None else options.top_p}
    return GenerationConfig.from_dict(kept | chosen)


def decode(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    config: GenerationConfig,
    options: GenerationOptions,
    prefix: PrefixCache | None = None,
    axes: int = 1,
    watch: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[Decoded]:
    """Decode an answer to each prompt, all in one batch; the global random state stays as it was.

    Args:
        llm: the language model, with transformers' generate.
        tokenizer: finds the strings of `options.until`.
        prompts: what is read; a batch is padded on the left.
        config: the result of `settings`.
        options: strings that end an answer, and the seed, which `config` does not hold.
        prefix: keys and values of the prompt before, for one prompt without beams; afterwards those of this one.
        axes: of the model's rotary positions; with several it is told to count along all of them, see `placed`.
        watch: called with the ids so far and the scores that the next is chosen by, which it returns.
    """
    until = [stop for stop in options.until if stop]
    home = prompts[0].embeds.device
    texts, first = UntilText(tokenizer, until) if until else None, FirstTokenClock(home)
    devices = [home] if home.type == "cuda" else []
    hear = _listener.get() if len(prompts) == config.num_beams == 1 else None
    heard = [Listening(tokenizer, until, hear)] if hear else []
    # given as a processor, for generate warns that a setting reaches no prompt of embeddings; nor should it
    penalty, settled = config.repetition_penalty or 1.0, copy.copy(config)
    penalties = [] if penalty == 1.0 else [PromptPenalty(penalty, prompts)]
    settled.repetition_penalty = 1.0
    embeds, mask = pad_left([prompt.embeds for prompt in prompts])
    cache, reused = prefix.take(prompts[0]) if prefix else (None, 0)
    if prefix and cache is None:
        cache = DynamicCache()
    held = "cache" if "cache" in signature(llm.forward).parameters else "past_key_values"  # transformers < 5.24
    calm = _unwarned() if llm.device.type == "meta" else nullcontext()
    with torch.random.fork_rng(devices=devices, enabled=config.do_sample), calm:
        if config.do_sample:
            torch.manual_seed(options.seed)
        output: Tensor = llm.generate(
            torch.ones(len(prompts), 0, dtype=torch.long, device=home),  # else they lie where the first weight does
            inputs_embeds=embeds,
            **(counted(mask, axes) if int(__version__.partition(".")[0]) > 4 else {}),  # before, it takes none
            attention_mask=mask,
            **({} if cache is None else {held: cache}),
            generation_config=settled,
            logits_processor=LogitsProcessorList([*penalties, *([watch] if watch else [])]),
            stopping_criteria=StoppingCriteriaList([first, *([texts] if texts else []), *heard]),
        )
    end = mark(home)
    if prefix:
        prefix.keep(prompts[0], cache)
    lengths = texts.lengths if texts and config.num_beams == 1 else {}  # rows of beams are no answers
    ids = [until_end(row[: lengths.get(number)], config) for number, row in enumerate(output)]
    assert first.first is not None, "generate asks after each token whether to stop"
    prefill, rest = (passed(*part) / len(prompts) for part in ((first.start, first.first), (first.first, end)))
    return [Decoded(own, prefill, rest, reused) for own in ids]


@contextmanager
def _unwarned() -> Iterator[None]:
    """Have nobody told that the ids lie on another device than the first weight, which is fetched from disk."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`input_ids` being on a device type different")  # transformers < 5
        yield


def until_end(ids: Int[Tensor, " n"], config: GenerationConfig) -> list[int]:
    """Keep the tokens up to and with the first end token; behind it generate pads."""
    made: list[int] = ids.tolist()
    ends = [place for place, token in enumerate(made) if token in config.eos_token_id]
    return made[: ends[0] + 1] if ends else made


def text_of(tokenizer: PreTrainedTokenizerBase, ids: list[int], until: Sequence[str], thinks: bool = False) -> str:
    """Decode an answer, without special tokens and thoughts, cut before the first of `until`, without space around."""
    text = cast(str, tokenizer.decode(ids, skip_special_tokens=True))
    text = text.partition("</think>")[2] if thinks else text
    for stop in until:
        text = text.split(stop)[0] if stop else text
    return text.strip()


def generate(
    vlm: "VideoVLM",
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    stages: Sequence[Stage],
    prefix: PrefixCache | None,
) -> list[Generation]:
    """Decode an answer to each prompt; see `VideoVLM.generate`."""
    alone = bool(stages) or prefix is not None or options.temperature > 0 or options.num_beams > 1
    shared, config = None if stages or options.num_beams > 1 else prefix, vlm.settings(options)
    made, lower = list[Generation](), "lower batch_size, keep_ratio or max_frames_num"
    for group in [[prompt] for prompt in prompts] if alone else [list(prompts)] * bool(prompts):
        longest = max(group, key=lambda prompt: prompt.length)
        doing = f"reading {len(group)} x {longest.length} positions ({longest.num_frames} frames)"
        with told(doing, lower), reading(vlm, group, stages) as trace:
            answers = decode(vlm.decoder, vlm.tokenizer, group, config, options, shared, vlm.axes)
        for prompt, decoded in zip(group, answers, strict=True):
            lengths = (prompt.length,) * len(vlm.layers)
            generation = Generation(
                text=text_of(vlm.tokenizer, decoded.ids, options.until, bool(vlm.options.enable_thinking)),
                num_tokens=len(decoded.ids),
                layer_lengths=trace.layer_lengths if stages else tuple(n - decoded.reused for n in lengths),
                cache_lengths=trace.cache_lengths if stages else lengths,
                prefill_seconds=decoded.prefill_seconds,
                decode_seconds=decoded.decode_seconds,
                reused=decoded.reused,
            )
            made.append(generation)
    return made


@contextmanager
def reading(vlm: "VideoVLM", prompts: Sequence[Prompt], stages: Sequence[Stage]) -> Iterator[PruningTrace]:
    """Have the model read prompts with their positions, stages, and what they add, inside this block."""
    layers, places = vlm.layers, placed(vlm.rotary, prompts)
    with places, layer_pruning(layers, stages, prompts[0]) as trace, deepened(layers, prompts, trace.processed):
        yield trace


def next_token_logits(vlm: "VideoVLM", prompt: Prompt, stages: Sequence[Stage]) -> Float[Tensor, " V"]:
    """Compute the logits of the first answer token; the head runs at the last position only."""
    places = counted(torch.ones(1, prompt.length, dtype=torch.long, device=vlm.device), vlm.axes)
    with reading(vlm, [prompt], stages):
        output = vlm.decoder(inputs_embeds=prompt.embeds[None], logits_to_keep=1, use_cache=False, **places)
    return cast(Tensor, output.logits[0, -1].float())
