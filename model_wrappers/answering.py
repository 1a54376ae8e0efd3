"""Answers one question after the other, and what happens when one fails."""

from typing import Literal

from lmms_kvtp.cost import SampleCost, record
from lmms_kvtp.model_wrappers.build import Built
from lmms_kvtp.model_wrappers.requests import Ask
from lmms_kvtp.model_wrappers.session import Session
from lmms_kvtp.model_wrappers.visuals import to_videos
from lmms_kvtp.pipeline import Answer, Encoded, encode, reply
from lmms_kvtp.sampling import FrameOptions


class SampleError(RuntimeError):
    """A sample could not be answered; the message has document, video and cause."""


class Answerer:
    """Questions that follow each other on the same visuals share one encoding."""

    def __init__(
        self,
        built: Built,
        session: Session,
        frames: FrameOptions,
        on_error: Literal["raise", "skip"],
        fewer_frames: bool,
    ) -> None:
        """Begin with nothing encoded."""
        self.built, self.session, self.frames = built, session, frames
        self.on_error, self.fewer_frames = on_error, fewer_frames
        self._visuals: tuple[str, ...] | None = None
        self._encoded: list[Encoded] = []

    def answer(self, ask: Ask, questions_on_video: int = 1) -> Answer:
        """Find the answer of an earlier run, or make one; it is in the journal when this returns.

        Raises:
            SampleError: it cannot be answered, and errors are not skipped.
        """
        key = self.session.key(ask)
        answer = self.session.find(key, ask)
        if answer is None:
            answer = self._make(ask, questions_on_video)
            self.session.keep(key, ask, answer)
        if answer.error is None:
            record(ask.question.doc_key, answer.cost)
        return answer

    def _make(self, ask: Ask, questions_on_video: int) -> Answer:
        vlm, method = self.built.vlm, self.built.method
        try:
            encoded = self._encode(ask)
            return reply(vlm, method, encoded, ask.question, ask.options, self.fewer_frames, questions_on_video)
        except Exception as error:  # the boundary of one sample: reported here, or recorded and counted
            if self.on_error == "raise":
                raise SampleError(f"{ask.subject}: {type(error).__name__}: {error}") from error
            return Answer("", SampleCost(), f"{type(error).__name__}: {error}")

    def _encode(self, ask: Ask) -> list[Encoded]:
        if ask.visuals != self._visuals:
            self._visuals, self._encoded = None, []  # frees the last video before the next is encoded
            videos = to_videos(ask.load(), " ".join(ask.visuals), self.frames)
            self._encoded = [encode(self.built.vlm, self.built.method, video) for video in videos]
            self._visuals = ask.visuals
        return self._encoded
