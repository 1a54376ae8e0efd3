"""The cost of an answer, in the form that the harness carries into its sample files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts

from lmms_kvtp.pipeline import Answer


@dataclass
class CostCounts(TokenCounts):  # type: ignore[misc]
    """Token counts with the ledger of each answer beside them: `token_counts` of a sample file."""

    answers: tuple[Answer, ...] = ()
    """One; of a conversation, one for each turn."""
    toy: bool = False
    """Made by the embedded model."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the harness's counts, the cost, and an error or a TOY mark where there is one."""
        values: dict[str, Any] = super().to_dict()
        ledgers = [_ledger(answer) for answer in self.answers]
        values |= ledgers[0] if len(ledgers) == 1 else {"rounds": ledgers}
        return values | ({"toy": True} if self.toy else {})


def result(answers: Sequence[Answer], toy: bool) -> GenerationResult:
    """Wrap answers for the harness. `input_tokens` is what the language model's prefill really processed."""
    costs = [answer.cost for answer in answers if answer.error is None]
    counts = CostCounts(
        input_tokens=sum(cost.prompt_tokens for cost in costs) if costs else None,
        output_tokens=sum(cost.output_tokens for cost in costs) if costs else None,
        answers=tuple(answers),
        toy=toy,
    )
    return GenerationResult("".join(answer.text for answer in answers[-1:]), counts)


def _ledger(answer: Answer) -> dict[str, Any]:
    return answer.cost.to_dict() if answer.error is None else {"error": answer.error}
