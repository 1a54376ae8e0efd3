"""Which tokens of a video a question keeps: scores, then budgets, then the pruner."""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.cost.meter import Meter, undeclared_flops
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
        embedding = text_flops(method, question)
    with meter.stage("scorer", embedding):
        features = _complete(method, visual, question)
        scoring = method.scorer.flops(features, question, method.encoder)
    with meter.stage("scorer", scoring):
        relevance = method.scorer.score(features, question, method.encoder)
    with meter.stage("pruner"):
        return Weighed(features, relevance, method.budgets(relevance, visual.tokens.capacity))


def text_flops(method: Method, question: Question) -> int | None:
    """Operations of the question's embedding, where a part reads it as a feature; None: counted while it runs."""
    return method.encoder.relevance_flops(0, [question_text(question)]) if "text" in method.additions else 0


def select(method: Method, visual: Encoded, question: Question, meter: Meter) -> PackedTokens:
    """Score the frames, give each its budget, and prune."""
    given = weigh(method, visual, question, meter)
    pruner = method.pruner
    told = pruner.flops(visual.tokens, given.features, given.budgets)
    told = undeclared_flops(pruner) if told is None else told
    with meter.stage("pruner", told):
        packed = pruner.prune(visual.tokens, given.features, given.budgets)
    if packed.flops and told is not None:  # else they were counted
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
