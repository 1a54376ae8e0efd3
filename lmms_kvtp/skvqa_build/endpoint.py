"""Any OpenAI-compatible endpoint (vLLM, SGLang, OpenAI), through the `openai` client, and what its calls cost."""

import asyncio
import base64
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lmms_kvtp.skvqa_build.chat import BudgetError, ChatError, ChatModel, ChatReply, ChatRequest, Then
from lmms_kvtp.video.frames import VideoError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

JPEG_QUALITY = 85
NO_KEY = "none"
"""Key that is sent to a named server where the user has none."""
PATIENCE = 12
"""Requests in a row without an answer that end a build."""


@dataclass(frozen=True)
class Prices:
    """Prices of tokens, and the most that may be spent."""

    input: float = 0.0
    """Dollars for a million input tokens."""
    output: float = 0.0
    """Dollars for a million output tokens."""
    budget: float | None = None
    """Dollars at which the build stops; calls in flight then are still paid for. None: no limit."""

    def __post_init__(self) -> None:
        """Refuse a limit that could never be reached, a budget without prices, by ValueError."""
        if self.budget is not None and self.input + self.output <= 0:
            raise ValueError(f"a budget of {self.budget:g} dollars needs the prices of input and output tokens")

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Price some tokens, in dollars."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass
class Spent:
    """Running total of a build, over all of its starts and endpoints."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Endpoint(ChatModel):
    """Keeps at most `concurrency` requests in flight.

    The client retries 408, 409, 429 and 5xx answers, timeouts and lost connections with exponential backoff, and
    heeds Retry-After. A request that fails nevertheless, or that the server refuses as malformed, counts as failed; a
    refused key or an unknown model ends the build.
    """

    model: str
    base_url: str | None = None
    """Address of the server; None: $OPENAI_BASE_URL, else OpenAI's own."""
    api_key: str | None = field(default=None, repr=False)
    """Key of the server; None: $OPENAI_API_KEY, which a named server may do without."""
    concurrency: int = 8
    timeout: float = 120.0
    """Seconds for one attempt."""
    retries: int = 6
    seed: int = 0
    prices: Prices = Prices()
    spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        """Refuse settings that are out of range, by ValueError."""
        if self.concurrency < 1 or self.retries < 0 or not self.timeout > 0:
            raise ValueError(
                f"concurrency={self.concurrency}, retries={self.retries}, timeout={self.timeout:g}: wanted at least "
                "1, at least 0 and more than 0"
            )

    @property
    def name(self) -> str:
        """The model's name; not the address, under which the same model may move."""
        return self.model

    @property
    def address(self) -> str:
        """Address of the server, for messages."""
        return self.base_url or "the endpoint"

    def complete(self, requests: Iterable[ChatRequest], then: Then) -> list[tuple[ChatRequest, str]]:
        """Answer all requests; see `ChatModel`."""
        return asyncio.run(self._complete(iter(requests), then))

    async def _complete(self, requests: Iterator[ChatRequest], then: Then) -> list[tuple[ChatRequest, str]]:
        from openai import AsyncOpenAI, OpenAIError

        lost: list[tuple[ChatRequest, str]] = []
        turn, stopping, lost_in_a_row = asyncio.Lock(), asyncio.Event(), 0

        async def worker(client: "AsyncOpenAI") -> None:
            nonlocal lost_in_a_row
            while not stopping.is_set():
                async with turn:  # one at a time: the iterator decodes videos
                    request = await asyncio.to_thread(next, requests, None)
                if request is None:
                    return
                while request is not None and not stopping.is_set():
                    self._check_budget()
                    try:
                        reply = await self._call(client, request)
                    except _LostError as error:
                        log.warning("%s of %s failed: %s", request.step, request.subject, error)
                        lost.append((request, str(error)))
                        lost_in_a_row += error.counts
                        if lost_in_a_row >= PATIENCE:  # instead of losing all requests that are left
                            raise ChatError(
                                f"{lost_in_a_row} requests in a row got no answer from {self.address}, the last: "
                                f"{error}; finished calls are kept, start again when it is up"
                            ) from error
                        break
                    lost_in_a_row = 0
                    self._pay_for(reply)
                    request = then(request, reply)

        try:
            client = AsyncOpenAI(
                api_key=self.api_key or os.environ.get("OPENAI_API_KEY") or (self.base_url and NO_KEY),
                base_url=self.base_url,
                max_retries=self.retries,
                timeout=self.timeout,
            )
        except OpenAIError as error:
            raise ChatError(f"cannot use an OpenAI-compatible endpoint: {error}") from error
        async with client:
            workers = [asyncio.create_task(worker(client)) for _ in range(self.concurrency)]
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            stopping.set()  # the others finish the call that they are in: it is paid for
            for result in await asyncio.gather(*workers, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        return lost

    def _check_budget(self) -> None:
        """Raise BudgetError once the budget is spent; overspending is bounded by the calls in flight."""
        spent, budget = self.prices.cost(self.spent.input_tokens, self.spent.output_tokens), self.prices.budget
        if budget is not None and spent >= budget:
            raise BudgetError(
                f"{spent:.4f} dollars of the budget of {budget:g} are spent; finished calls are kept, start again with "
                "a larger --budget to go on"
            )

    def _pay_for(self, reply: ChatReply) -> None:
        if self.prices.budget is not None and reply.input_tokens + reply.output_tokens == 0:
            raise ChatError(
                f"the server does not report how many tokens {self.model} used, so a budget cannot be kept; "
                "start again without --budget"
            )
        self.spent.input_tokens += reply.input_tokens
        self.spent.output_tokens += reply.output_tokens

    async def _call(self, client: "AsyncOpenAI", request: ChatRequest) -> ChatReply:
        import openai

        try:
            messages = await asyncio.to_thread(_messages, request)
        except VideoError as error:
            raise _LostError(str(error), counts=False) from error
        try:
            completion = await client.chat.completions.create(
                model=self.model, messages=messages, max_tokens=request.max_new_tokens, temperature=0, seed=self.seed
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise ChatError(
                f"{self.address} refuses model {self.model!r}: {error}; check --endpoint, the "
                "model's name and OPENAI_API_KEY, and start again: finished calls are kept"
            ) from error
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            raise _LostError(f"{type(error).__name__}: {error}") from error
        choices = getattr(completion, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise _LostError(f"an answer without a message: {str(completion)[:200]}")
        usage = completion.usage
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return ChatReply(choices[0].message.content or "", *tokens)


class _LostError(Exception):
    """A request got no answer."""

    def __init__(self, reason: str, counts: bool = True) -> None:
        super().__init__(reason)
        self.counts = counts
        """Whether the endpoint is to blame."""


def _messages(request: ChatRequest) -> Any:
    from PIL import Image

    content: list[dict[str, Any]] = [{"type": "text", "text": request.text}]
    for rgb in request.frames().rgb if request.frames else ():
        buffer = io.BytesIO()
        Image.fromarray(rgb.cpu().numpy()).save(buffer, format="JPEG", quality=JPEG_QUALITY)
        url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content if len(content) > 1 else request.text}]
    for turn in request.turns:
        messages += [{"role": "assistant", "content": turn.answer}, {"role": "user", "content": turn.complaint}]
    return messages
