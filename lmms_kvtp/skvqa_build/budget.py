"""What calls of an endpoint cost, and how many may be in flight without spending more than allowed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lmms_kvtp.skvqa_build.chat import BudgetError, ChatError, ChatReply, ChatRequest


@dataclass(frozen=True)
class Prices:
    """What tokens cost, and when to stop."""

    input: float = 0.0
    """Dollars for a million input tokens."""
    output: float = 0.0
    """Dollars for a million output tokens."""
    budget: float | None = None
    """Dollars; None for no limit."""

    def __post_init__(self) -> None:
        """Refuse a limit that could never be reached.

        Raises:
            ValueError: there is a budget and no price.
        """
        if self.budget is not None and self.input + self.output <= 0:
            raise ValueError(f"a budget of {self.budget:g} dollars needs the prices of input and output tokens")

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Dollars."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass
class Spent:
    """The running total of a build; starts with what earlier starts of it spent."""

    input_tokens: int = 0
    output_tokens: int = 0
    largest: dict[tuple[str, str], int] = field(default_factory=dict)
    """Most input tokens of an answer, by model and step."""

    def add(self, model: str, request: ChatRequest, reply: ChatReply) -> None:
        """Count an answer."""
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        key = (model, request.step)
        self.largest[key] = max(self.largest.get(key, 0), reply.input_tokens)


class Purse:
    """Sets aside what a call may cost before it is made, so that calls in flight cannot overspend together.

    That is the most input tokens of an answer of this model and step so far, and all output tokens that the request
    allows. Before the first answer it is all that is left, so the first call runs alone. More than the budget is spent
    only where a call is dearer than all before it.
    """

    def __init__(self, model: str, prices: Prices, spent: Spent) -> None:
        """Open for the calls of one event loop.

        Args:
            model: its name.
            prices: with the limit, if any.
            spent: by all models of the build.
        """
        self._model, self._prices, self._spent = model, prices, spent
        self._set_aside = 0.0
        self._freed = asyncio.Condition()

    @property
    def dollars(self) -> float:
        """Spent so far."""
        return self._prices.cost(self._spent.input_tokens, self._spent.output_tokens)

    @asynccontextmanager
    async def pay_for(self, request: ChatRequest, stopping: asyncio.Event) -> AsyncIterator[bool]:
        """Wait until the call can be paid for whatever it turns out to cost; False where the build stops meanwhile.

        Raises:
            BudgetError: what is left does not pay for it.
        """
        if self._prices.budget is None:
            yield True
            return
        amount = 0.0
        async with self._freed:
            while not stopping.is_set():
                left = self._prices.budget - self.dollars - self._set_aside
                amount = self._most(request, left)
                if left > 0 and amount <= left:
                    break
                if not self._set_aside:
                    raise self._refusal(request, amount)
                await self._freed.wait()
            paid = not stopping.is_set()
            amount = amount if paid else 0.0
            self._set_aside += amount
        try:
            yield paid
        except ChatError:  # before the calls that wait for this one
            stopping.set()
            raise
        finally:
            async with self._freed:
                self._set_aside = max(0.0, self._set_aside - amount)
                self._freed.notify_all()

    def count(self, request: ChatRequest, reply: ChatReply) -> None:
        """Count an answer.

        Raises:
            ChatError: there is a budget, and the answer does not say what it used.
        """
        if self._prices.budget is not None and reply.input_tokens + reply.output_tokens == 0:
            raise ChatError(
                f"the server does not report how many tokens {self._model} used, so a budget cannot be kept; "
                "start again without --budget"
            )
        self._spent.add(self._model, request, reply)

    def _most(self, request: ChatRequest, left: float) -> float:
        known = self._spent.largest.get((self._model, request.step))
        if known is None:
            return left if not self._set_aside else float("inf")
        return self._prices.cost(known, request.max_new_tokens)

    def _refusal(self, request: ChatRequest, amount: float) -> BudgetError:
        next_one = f", and the next {request.step} may cost {amount:.4f}" if amount > 0 else ""
        return BudgetError(
            f"{self.dollars:.4f} dollars of the budget of {self._prices.budget:g} are spent{next_one}; finished calls "
            "are kept, start again with a larger --budget to go on"
        )
