"""The interface of models that answer in text."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lmms_kvtp.files import content_key
from lmms_kvtp.video.frames import Frames


@dataclass(frozen=True)
class Turn:
    """An answer that could not be used, and what was said about it."""

    answer: str
    complaint: str


@dataclass(frozen=True, eq=False)
class ChatRequest:
    """One call."""

    step: str
    """For the accounts: caption, refine or score."""
    text: str
    subject: str
    """What is asked about, for messages."""
    frames: Callable[[], Frames] | None = None
    """Decodes what is shown before the text; raises VideoError."""
    frames_key: str = ""
    """Stands for the content of `frames`."""
    turns: tuple[Turn, ...] = ()
    """Earlier attempts."""
    max_new_tokens: int = 512

    def key(self, identity: str) -> str:
        """Equal for calls that a model of this identity would answer alike."""
        turns = [(turn.answer, turn.complaint) for turn in self.turns]
        return content_key("chat", identity, self.text, self.frames_key, turns, self.max_new_tokens)


@dataclass(frozen=True)
class ChatReply:
    """An answer and its cost."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


Then = Callable[[ChatRequest, ChatReply], ChatRequest | None]
"""Called with each answer as soon as it is there; what it returns is asked next."""


class ChatError(RuntimeError):
    """An endpoint cannot be used at all; the message has its address, the cause and the way out."""


class BudgetError(RuntimeError):
    """The budget is spent; what was answered is kept."""


class Chat(ABC):
    """Answers requests, several at a time where it can."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For the index and the accounts."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """For the cache: what determines the answers."""

    @abstractmethod
    def complete(self, requests: Iterable[ChatRequest], then: Then) -> list[tuple[ChatRequest, str]]:
        """Answer all requests, which are taken from the iterable as they are needed.

        Returns:
            Requests that failed for good, each with the reason; an unreadable video is one.

        Raises:
            ChatError: no request can succeed, for example because of a wrong key.
            BudgetError: the budget is spent.
        """
