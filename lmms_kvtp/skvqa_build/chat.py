"""The interface of models that answer in text."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lmms_kvtp.files import content_key
from lmms_kvtp.video.frames import Frames


@dataclass(frozen=True)
class Turn:
    """An answer that could not be used, and the complaint that was sent back."""

    answer: str
    complaint: str


@dataclass(frozen=True, eq=False)
class ChatRequest:
    """One call of a model."""

    step: str
    """Step of the build, for the accounts: caption, refine or score."""
    text: str
    subject: str
    """Name of what is asked about, for messages."""
    frames: Callable[[], Frames] | None = None
    """Decoder of the frames that are shown before the text; raises VideoError."""
    frames_key: str = ""
    """Hash of the content of `frames`."""
    turns: tuple[Turn, ...] = ()
    """Earlier attempts, with what was wrong with them."""
    max_new_tokens: int = 512

    def key(self, identity: str) -> str:
        """Hash what decides the answer of a model of this identity."""
        turns = [(turn.answer, turn.complaint) for turn in self.turns]
        return content_key("chat", identity, self.text, self.frames_key, turns, self.max_new_tokens)


@dataclass(frozen=True)
class ChatReply:
    """An answer and its cost."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


Then = Callable[[ChatRequest, ChatReply], ChatRequest | None]
"""Called with each answer as soon as it is there; returns what is to be asked next, if anything."""


class ChatError(RuntimeError):
    """An endpoint cannot be used at all; the message has its address, the cause and the way out."""


class BudgetError(RuntimeError):
    """The budget is spent; what was answered is kept."""


class ChatModel(ABC):
    """Answers requests, several at a time where it can."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in the index and the accounts."""

    @property
    def identity(self) -> str:
        """Text of all that decides an answer, for the store's keys; of a server only its model's name is known."""
        return self.name

    @abstractmethod
    def complete(self, requests: Iterable[ChatRequest], then: Then) -> list[tuple[ChatRequest, str]]:
        """Answer all requests, which are taken from the iterable as they are needed.

        Returns those that failed for good, each with the reason; an unreadable video is one. ChatError where no request
        can succeed, for example because of a wrong key; BudgetError where the budget is spent.
        """
