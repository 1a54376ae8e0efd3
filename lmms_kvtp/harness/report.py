"""What a run says at its end."""

from collections.abc import Sequence

from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.pipeline import Answer

SHOWN = 5
TOY = "TOY: the embedded model made these answers; they show how methods work and fail, and reproduce no paper's number"


def report(answers: Sequence[Answer], failures: Sequence[str], toy: bool) -> None:
    """Say what failed, and give the harness its throughput summary.

    Args:
        answers: of all processes.
        failures: subject and cause of each sample that failed.
        toy: the embedded model made them.
    """
    if failures:
        more = f"\n  and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
        lines = "".join(f"\n  {failure}" for failure in failures[:SHOWN])
        logger.error(f"{len(failures)} samples could not be answered; they count as empty answers:{lines}{more}")
    costs = [answer.cost for answer in answers if answer.error is None]
    if costs:
        _log_throughput(costs)
    if toy:
        logger.warning(TOY)


def _log_throughput(costs: Sequence[SampleCost]) -> None:
    seconds = sum(cost.seconds_total for cost in costs)
    tokens = sum(cost.output_tokens for cost in costs)
    means = {
        "num_requests": len(costs),
        "vision_tokens_kept": sum(cost.tokens_kept for cost in costs) / len(costs),
        "keep_ratio_actual": sum(cost.keep_ratio_actual for cost in costs) / len(costs),
    }
    log_metrics(seconds, tokens, tokens / seconds if seconds else 0.0, means)
