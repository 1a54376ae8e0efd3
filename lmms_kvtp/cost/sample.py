"""What an answer cost: counts, seconds and operations per stage, carried beside the text; meter.py measures them.

Nothing heavy is imported here, so that who only reads costs does not wait for torch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

STAGES = ("decode", "preprocess", "vision", "encoder", "scorer", "pruner", "prefill", "generate", "waiting")
SHARED = ("decode", "preprocess", "vision", "encoder")
"""Stages that the questions on one video share."""
SHARED_FLOPS = ("vision", "projector", "encoder")
"""Operations that the questions on one video share."""
WAITING = "waiting"
"""Stage in which the model waits for a process that decodes ahead, whose work counts as decode and preprocess."""
NOT_OWN = frozenset({*SHARED, WAITING})
"""Stages that are not work on one answer alone."""
DERIVED = ("keep_ratio_actual", "seconds_total", "first_token_seconds", "flops_total", "layer_average")
"""Properties that the dictionary of a cost holds beside its fields."""


@dataclass(frozen=True)
class SampleCost:
    """The ledger of one answer. Each question on a video has the shared stages in full, see `questions_on_video`."""

    num_frames: int = 0
    frames_patched: int = 0
    """Frames of these that are damaged in their file, and were seen as a codec patches them."""
    tokens_before: int = 0
    """Vision tokens without pruning."""
    tokens_kept: int = 0
    """Vision tokens that entered the language model."""
    tokens_structural: int = 0
    """Newlines that entered beside them."""
    prompt_tokens: int = 0
    """Positions of the prompt, text included."""
    output_tokens: int = 0
    keep_ratio: float = 1.0
    """Share of vision tokens that was asked for."""
    kept_by_frame: tuple[int, ...] = ()
    """Vision tokens that entered, of each frame or step of all visuals."""
    kept_probe: str = ""
    """Which of 256 patches, drawn alike for all methods, entered: `<all patches>:<a bit each, in hex>`."""
    layer_lengths: tuple[int, ...] = ()
    """Prompt positions that each layer processed."""
    reused_tokens: int = 0
    """Positions of the prompt that no layer processed: an earlier question on the video had left keys and values."""
    questions_on_video: int = 1
    """Number of questions that shared the video's stages."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds of each stage in STAGES that ran."""
    flops: dict[str, int] = field(default_factory=dict)
    """Operations (2 per multiply-add, full attention) of vision, projector, encoder, scorer, pruner, layer_pruning (its
    selections), prefill, generate; see docs/costs.md."""
    prefill_flops_causal: int = 0
    """Operations of prefill if only the pairs below the diagonal of attention count."""
    peak_bytes: int | None = None
    """Peak memory of the accelerator while answering; None on the CPU, which has no exact counter."""
    swept: bool = False
    """Whether a sweep answered, whose encoders compute for all methods at once: seconds do not measure this one."""
    cold: bool = False
    """Whether the visuals were the first of their process: seconds hold what loads on first use, see `timed`."""
    smaller_batch: bool = False
    """Whether fewer questions than asked for were read at once, as a batch had not fitted in the device's memory."""

    @property
    def keep_ratio_actual(self) -> float:
        """Vision tokens that entered over those of the unpruned model; 1 if that has none."""
        return self.tokens_kept / self.tokens_before if self.tokens_before else 1.0

    @property
    def seconds_total(self) -> float:
        """Seconds of work on this answer, shared stages divided among the questions on the video."""
        shared = sum([self.seconds.get(stage, 0.0) for stage in SHARED])
        own = sum([seconds for stage, seconds in self.seconds.items() if stage not in NOT_OWN])
        return own + shared / self.questions_on_video

    @property
    def flops_total(self) -> int:
        """Operations of this answer alone, as if it were the only question on its video."""
        return sum(self.flops.values())

    @property
    def first_token_seconds(self) -> float:
        """Seconds from decoded frames to the first token, as if this were the only question on its video."""
        return sum((s for stage, s in self.seconds.items() if stage not in ("decode", "generate", WAITING)), start=0.0)

    @property
    def layer_average(self) -> float:
        """Prompt positions of an average layer over those that entered; below 1 where layers drop tokens."""
        if not self.layer_lengths or not self.layer_lengths[0]:
            return 1.0
        return sum(self.layer_lengths) / len(self.layer_lengths) / self.layer_lengths[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the derived ones included."""
        return asdict(self) | {name: getattr(self, name) for name in DERIVED}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "SampleCost":
        """Read what `to_dict` gives."""
        known = {name: value for name, value in values.items() if name in _DEFAULTS}
        known |= {name: tuple(known.get(name, ())) for name in ("layer_lengths", "kept_by_frame")}
        cost = object.__new__(SampleCost)  # a leaderboard reads a million; the constructor takes twice as long
        vars(cost).update(_DEFAULTS, **known)
        return cost


_DEFAULTS = vars(SampleCost())


def timed(costs: Sequence[SampleCost]) -> Sequence[SampleCost]:
    """The costs whose seconds go into a mean: all but each process's warm-up, its first visuals; or all warm-ups."""
    return [cost for cost in costs if not cost.cold] or costs


def mean_seconds(costs: Sequence[SampleCost]) -> float | None:
    """Average the seconds of answers, without warm-ups where there are others; None where a run took no time."""
    known = [cost.seconds_total for cost in timed(costs) if cost.seconds]
    return sum(known) / len(known) if known else None


_ledger: dict[str, SampleCost] = {}


def record(doc_key: str, cost: SampleCost) -> None:
    """Store the cost of a document for the task that scores it in this process."""
    _ledger[doc_key] = cost


def lookup(doc_key: str) -> SampleCost | None:
    """The cost of a document, if a wrapper of ours answered it in this process."""
    return _ledger.get(doc_key)


def task_metrics(doc_key: str) -> dict[str, float | None]:
    """The cost of a document as metrics of its task; values are None for answers of other models."""
    cost = lookup(doc_key)
    told = (float(cost.tokens_kept), cost.keep_ratio_actual, mean_seconds([cost])) if cost else (None, None, None)
    return dict(zip(("vision_tokens_kept", "keep_ratio_actual", "seconds"), told, strict=True))


def forget() -> None:
    """Drop all stored costs, before another run begins in this process."""
    _ledger.clear()
