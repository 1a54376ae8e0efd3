"""Answers questions in batches, and what happens when one fails."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.encode import Encoded
from lmms_kvtp.pipeline import Answer, Prepared, finish, prepare
from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.build import Built
from lmms_kvtp.run.journal import Session
from lmms_kvtp.run.looking import look_at
from lmms_kvtp.run.options import Arguments, Images
from lmms_kvtp.video.ahead.ahead import Ahead
from lmms_kvtp.video.cache import FrameCache
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.prefix import PrefixCache

log = logging.getLogger(__name__)


class SampleError(RuntimeError):
    """A sample could not be answered; the message has document, video and cause."""


class Answerer:
    """Questions that follow each other on the same visuals share one encoding, and where they may, one prefill."""

    def __init__(
        self,
        built: Built,
        session: Session,
        frames: FrameOptions,
        on_error: Literal["raise", "skip"],
        fewer_frames: bool,
        share_prefix: bool = False,
        look: Callable[[Ask], list[Encoded]] | None = None,
        ahead: Ahead | None = None,
        cache: FrameCache | None = None,
        images: Images = "frames",
    ) -> None:
        """Begin with nothing encoded; `look` encodes videos for this method and for others, in a sweep."""
        self._ahead, self._cache, self._images = ahead, cache, images
        self.built, self.session, self.frames = built, session, frames
        self.on_error, self.fewer_frames = on_error, fewer_frames
        self._prefix = PrefixCache() if share_prefix and not built.method.query_aware else None
        self.swept, self._look = look is not None, look or self._look_alone
        self._visuals: tuple[str, ...] | None = None
        self._first: tuple[str, ...] | None = None
        self._encoded: list[Encoded] = []

    def answer(self, asks: Sequence[Ask], sharing: Mapping[tuple[str, ...], int] | None = None) -> Iterator[Answer]:
        """Find the answers of an earlier run, or make them; each is in the journal when it is returned.

        Args:
            asks: one batch; questions on one video next to each other.
            sharing: how many questions of the run are about the same visuals.

        Raises:
            SampleError: one cannot be answered, and errors are not skipped.
        """
        keys = [self.session.key(ask) for ask in asks]
        found = [self.session.find(key, ask) for key, ask in zip(keys, asks, strict=True)]
        made = self._make([ask for ask, answer in zip(asks, found, strict=True) if not answer], sharing or {})
        for key, ask, answer in zip(keys, asks, found, strict=True):
            if answer is None:
                answer = next(made)
                self.session.keep(key, ask, answer)
            yield answer

    def _make(self, asks: Sequence[Ask], sharing: Mapping[tuple[str, ...], int]) -> Iterator[Answer]:
        """Answer in batches of equal options; a batch that fails is answered question by question."""
        for _, group in groupby(asks, key=lambda ask: ask.options):
            batch, answers = list(group), None
            if len(batch) > 1:
                try:
                    answers = self._try(batch, sharing)
                except Exception as error:  # the boundary of a batch: below, those who fail are found one by one
                    log.warning("a batch of %d questions failed, they are answered one by one: %s", len(batch), error)
            yield from answers or (self._one(ask, sharing) for ask in batch)

    def _one(self, ask: Ask, sharing: Mapping[tuple[str, ...], int]) -> Answer:
        try:
            [answer] = self._try([ask], sharing)
            return answer
        except Exception as error:  # the boundary of one sample: reported here, or recorded and counted
            if self.on_error == "raise":
                raise SampleError(f"{ask.subject}: {type(error).__name__}: {error}") from error
            return Answer("", SampleCost(), f"{type(error).__name__}: {error}")

    def _try(self, asks: Sequence[Ask], sharing: Mapping[tuple[str, ...], int]) -> list[Answer]:
        vlm, method = self.built.vlm, self.built.method
        ready: list[Prepared] = []
        for ask in asks:
            questions = sharing.get(ask.visuals, 1)
            ready.append(prepare(vlm, method, self._encode(ask), ask.question, self.fewer_frames, questions))
        answers = finish(vlm, method, ready, asks[0].options, self._prefix)
        return [
            replace(answer, cost=replace(answer.cost, swept=self.swept, cold=ask.visuals == self._first))
            for answer, ask in zip(answers, asks, strict=True)
        ]

    def _encode(self, ask: Ask) -> list[Encoded]:
        if ask.visuals != self._visuals:
            self._visuals, self._encoded = None, []  # frees the last video before the next is encoded
            if self._prefix:
                self._prefix.clear()
            self._encoded = self._look(ask)
            self._visuals = ask.visuals
            self._first = ask.visuals if self._first is None else self._first
        return self._encoded

    def _look_alone(self, ask: Ask) -> list[Encoded]:
        vlm, method = self.built.vlm, self.built.method
        looked = look_at(vlm, [method], ask, self._images, self.frames, self._ahead, self._cache)
        return [visual for [visual] in looked]


def make_answerer(
    arguments: Arguments,
    built: Built,
    session: Session,
    look: Callable[[Ask], list[Encoded]] | None = None,
    ahead: Ahead | None = None,
) -> Answerer:
    """What answers the questions of a run, as its arguments have it."""
    run = arguments.run
    fewer, share = run.too_long == "fewer_frames", run.share_prefix and run.batch_size == 1
    cache, images = run.cache, run.images
    return Answerer(built, session, arguments.frames, run.on_error, fewer, share, look, ahead, cache, images)
