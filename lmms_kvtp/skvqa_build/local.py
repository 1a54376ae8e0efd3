"""A checkpoint for our own back ends: it captions clips, and scores them from their captions."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lmms_kvtp.questions import MOST_RELEVANT
from lmms_kvtp.shipped import TINY, tiny_folder
from lmms_kvtp.skvqa_build.chat import ChatModel, ChatReply, ChatRequest, Then
from lmms_kvtp.skvqa_build.prompts import prompt
from lmms_kvtp.skvqa_build.store import weights_of
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.vlms.base import PromptTooLongError, VideoVLM, load_vlm

WAYS_OUT = {"score": "--one-by-one scores one caption at a time", "caption": "lower --clip-size"}
"""What to do about a prompt that is too long, by step."""


class _TooLongError(ValueError):
    """Prompt and answer do not fit in the model's context."""


@dataclass(frozen=True, eq=False)
class LocalModel(ChatModel):
    """Answers one request after the other by greedy decoding; loads on first use."""

    pretrained: str
    """Folder, hub id, or `tiny`."""

    @property
    def name(self) -> str:
        """The checkpoint."""
        return self.pretrained

    @property
    def checkpoint(self) -> str:
        """Folder or hub id of the weights."""
        return str(tiny_folder()) if self.pretrained == TINY else self.pretrained

    @cached_property
    def identity(self) -> str:
        """Name of the checkpoint and, where it is a folder, a hash of its files."""
        return f"{self.name} {weights_of(self.checkpoint)}"

    @cached_property
    def vlm(self) -> VideoVLM:
        """The loaded model; CheckpointError where there is none of that name."""
        return load_vlm(self.pretrained)

    def complete(self, requests: Iterable[ChatRequest], then: Then) -> list[tuple[ChatRequest, str]]:
        """Answer all requests; see `ChatModel`."""
        lost = []
        for first in requests:
            request: ChatRequest | None = first
            while request is not None:
                try:
                    reply = self._reply(request)
                except (VideoError, _TooLongError) as error:
                    lost.append((request, str(error)))
                    break
                request = then(request, reply)
        return lost

    def _reply(self, request: ChatRequest) -> ChatReply:
        turns = [text for turn in request.turns for text in (turn.answer, turn.complaint)]
        text = "\n\n".join([request.text, *filter(None, turns)])
        visuals = [] if request.frames is None else [self.vlm.encode(request.frames()).whole()]
        try:
            length = (assembled := self.vlm.assemble(visuals, text)).length
        except PromptTooLongError as error:
            length = error.length
        if length + request.max_new_tokens > self.vlm.limit:  # no room for the longest answer
            raise _TooLongError(
                f"the prompt has {length} positions and its answer up to {request.max_new_tokens}, the limit of "
                f"{self.name} is {self.vlm.limit}; {WAYS_OUT.get(request.step, 'choose another model')}"
            )
        [generation] = self.vlm.generate([assembled], GenerationOptions(max_new_tokens=request.max_new_tokens))
        return ChatReply(generation.text, length, generation.num_tokens)

    def rate(self, caption: str, question: str) -> float:
        """Rate a clip by the digit from 0 to 5 that the language model finds most likely as an answer.

        For models that do not write a whole table of scores without a slip: any model ranks six digits.
        """
        text = prompt("score_one", caption=caption, question=question)
        logits = self.vlm.next_token_logits(self.vlm.assemble([], text))
        digits = [self.vlm.chat.plain(str(score)) for score in range(int(MOST_RELEVANT) + 1)]
        if any(len(ids) != 1 for ids in digits):
            raise ValueError(f"{self.name} has no token for each digit; score with another model, or scorer text")
        return float(logits[[ids[0] for ids in digits]].argmax())
