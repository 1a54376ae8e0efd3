"""Which tokens of a video a question keeps: scores, then budgets, then the pruner."""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.encode import Encoded
from lmms_kvtp.method import Method
from lmms_kvtp.questions import Question, question_text
from lmms_kvtp.types import FrameFeatures, PackedTokens


@dataclass(frozen=True)
class Weighed:
    """What a pruner is given for one video and question."""

    features: FrameFeatures
    relevance: Float[Tensor, " T"]
    budgets: Int[Tensor, " T"]


def weigh(method: Method, visual: Encoded, question: Question, meter: Meter) -> Weighed:
    """Score the frames, and give each its budget."""
    with meter.stage("scorer"):  # to know the operations is to split the question into tokens
        known = scoring_flops(method, visual.tokens.num_frames, question)
    with meter.stage("scorer", known):
        features = _complete(method, visual, question)
        relevance = method.scorer.score(features, question, method.encoder)
    with meter.stage("pruner"):
        return Weighed(features, relevance, method.budgets(relevance, visual.tokens.capacity))


def scoring_flops(method: Method, num_frames: int, question: Question) -> int | None:
    """Operations of scoring so many frames, and of the question's embedding where only the pruner reads it.

    None: counted while they run.
    """
    scoring = method.scorer.flops(num_frames, question, method.encoder)
    has_text = method.scorer.reader(method.encoder) is method.encoder
    if scoring is None or has_text or "text" not in method.additions:
        return scoring
    text = method.encoder.relevance_flops(0, [question_text(question)])
    return None if text is None else scoring + text


def select(method: Method, visual: Encoded, question: Question, meter: Meter) -> PackedTokens:
    """Score the frames, give each its budget, and prune."""
    given = weigh(method, visual, question, meter)
    pruner = method.pruner
    known = 0 if pruner.tells_flops else pruner.flops(visual.tokens, given.features, given.budgets)
    with meter.stage("pruner", known):
        packed = pruner.prune(visual.tokens, given.features, given.budgets)
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
