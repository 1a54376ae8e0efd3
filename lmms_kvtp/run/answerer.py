"""Answers many questions on many videos, by one or several methods: the only loop over questions in the package.

The harness's wrappers, the sweep, the Python API and every report stand on it; so all of them have journals, skipped
failures, videos decoded ahead, and batches.
"""

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

import torch

from lmms_kvtp.cost.meter import timed_as
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.device import OutOfMemoryError
from lmms_kvtp.encode import Encoded, encode_once, encode_still
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Answer, Prepared, finish, prepare
from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.build import Built
from lmms_kvtp.run.journal import Session
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.video.ahead.ahead import Ahead, decode_ahead
from lmms_kvtp.video.frames import StaleIndexError, Video
from lmms_kvtp.video.load import to_videos
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM
from lmms_kvtp.vlms.reading import PrefixCache
from lmms_kvtp.vlms.tiles import still_images

log = logging.getLogger(__name__)
Key = TypeVar("Key")


class SampleError(RuntimeError):
    """A sample could not be answered; the message has document, video and cause."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise what was wrong with a sample itself, for callers that ask about one video at a time."""
    try:
        yield
    except SampleError as error:
        raise error.__cause__ or error from None


@dataclass(frozen=True)
class Lane:
    """One method of a run: what answers, with which settings, and where its answers are kept."""

    built: Built
    run: RunOptions
    session: Session


def unrecorded(vlm: VideoVLM, method: Method, run: RunOptions | None = None) -> Lane:
    """A lane that knows no earlier answers, and writes none down."""
    return Lane(Built(vlm, method, {}), run or RunOptions(), Session({}, None, None))


Sharing = Mapping[tuple[str, ...], int]
"""How many questions of the run are about the same visuals."""
Watch = Callable[[int, Ask, Prepared], None]
"""Sees the number of the lane, the question, and its prompt with the kept tokens, before the prompt is answered."""


class Answerer:
    """Questions on the same visuals share one decoding and encoding among all lanes, and where they may, one prefill.

    Where there are several lanes, their methods take turns on each batch of questions on a video.
    """

    def __init__(self, lanes: Sequence[Lane], frames: FrameOptions, watch: Watch | None = None) -> None:
        """Start with nothing encoded; equal encoders become one, so that their weights load once.

        Args:
            lanes: methods on one model; what belongs to videos, such as decoding ahead, is as in the first one's run.
            frames: which frames of a video the model sees.
            watch: called for each prompt that is made; answers found in a journal have none.
        """
        same: dict[FrameEncoder, FrameEncoder] = {}
        self.lanes = [_with_encoder(lane, same) for lane in lanes]
        self.frames, self._watch = frames, watch
        self._prefixes = [PrefixCache() if _shares_prefix(lane) else None for lane in self.lanes]
        self._ahead: Ahead | None = None
        self._visuals: tuple[str, ...] | None = None
        self._first: tuple[str, ...] | None = None
        self._most: int | None = None
        self._encoded: list[list[Encoded]] = []

    def answer_all(self, asks: Mapping[Key, Ask]) -> Generator[tuple[int, Key, Answer], None, None]:
        """Answer every question in every lane: those with known answers first, then video by video.

        Yields:
            The number of a lane, the key of a question, and its answer, which is in the lane's journal by then.

        Raises:
            SampleError: one cannot be answered, and errors are not skipped.
        """
        known = {key: all(lane.session.has(ask) for lane in self.lanes) for key, ask in asks.items()}
        first: dict[tuple[str, ...], int] = {}
        for number, ask in enumerate(asks.values()):
            first.setdefault(ask.visuals, number)
        order = sorted(asks, key=lambda key: (not known[key], first[asks[key].visuals]))
        sharing = Counter(ask.visuals for ask in asks.values())
        new = [asks[key] for key in order if not known[key]]
        try:
            with decode_ahead(self.lanes[0].run.ahead, self.frames, (ask.visuals for ask in new)) as self._ahead:
                for batch in self._batches(order, asks):
                    for lane in range(len(self.lanes)):
                        made = self.answer([asks[key] for key in batch], sharing, lane)
                        yield from ((lane, key, answer) for key, answer in zip(batch, made, strict=True))
        finally:
            self._ahead = None

    def answer(self, asks: Sequence[Ask], sharing: Sharing | None = None, lane: int = 0) -> Iterator[Answer]:
        """Find the answers of an earlier run, or make them; each is in the journal when it is returned.

        Args:
            asks: one batch; questions on one video next to each other.
            sharing: with those that are answered at other times.
            lane: the number of the lane that answers.

        Raises:
            SampleError: one cannot be answered, and errors are not skipped.
        """
        session = self.lanes[lane].session
        found = [session.find(ask) for ask in asks]
        made = self._make(lane, [ask for ask, answer in zip(asks, found, strict=True) if not answer], sharing or {})
        for ask, answer in zip(asks, found, strict=True):
            if answer is None:
                answer = next(made)
                session.keep(ask, answer)
            yield answer

    def _batches(self, order: Sequence[Key], asks: Mapping[Key, Ask]) -> Iterator[Sequence[Key]]:
        """Divide the questions: batches of one lane may span videos, those of several lie on one video."""
        size, alone = min(lane.run.batch_size for lane in self.lanes), len(self.lanes) == 1
        for _, group in groupby(order, key=lambda key: () if alone else asks[key].visuals):
            keys = list(group)
            yield from (keys[start : start + size] for start in range(0, len(keys), size))

    def _make(self, lane: int, asks: Sequence[Ask], sharing: Sharing) -> Iterator[Answer]:
        """Answer in batches of equal options, of no more questions than the device's memory was found to hold."""
        for _, group in groupby(asks, key=lambda ask: ask.options):
            waiting = list(group)
            while batch := waiting[: self._most]:
                if answers := self._together(lane, batch, sharing):
                    yield from answers
                    waiting = waiting[len(batch) :]

    def _together(self, lane: int, batch: Sequence[Ask], sharing: Sharing) -> Iterable[Answer] | None:
        """Answer a batch, or one by one if it fails; None where memory is too small for it, and batches are halved."""
        if len(batch) > 1:
            try:
                return self._try(lane, batch, sharing)
            except (OutOfMemoryError, torch.OutOfMemoryError) as error:
                if self._most is None:
                    log.warning("too much for the memory, so batches of %d questions are halved: %s", len(batch), error)
                self._most = -(-len(batch) // 2)
                return None
            except Exception as error:  # the boundary of a batch: below, those who fail are found one by one
                log.warning("a batch of %d questions failed, they are answered one by one: %s", len(batch), error)
        return (self._one(lane, ask, sharing) for ask in batch)

    def _one(self, lane: int, ask: Ask, sharing: Sharing) -> Answer:
        try:
            [answer] = self._try(lane, [ask], sharing)
            return answer
        except Exception as error:  # the boundary of one sample: reported here, or recorded and counted
            if self.lanes[lane].run.on_error == "raise":
                raise SampleError(f"{ask.subject}: {type(error).__name__}: {error}") from error
            return Answer("", SampleCost(), f"{type(error).__name__}: {error}")

    def _try(self, lane: int, asks: Sequence[Ask], sharing: Sharing) -> list[Answer]:
        built, run = self.lanes[lane].built, self.lanes[lane].run
        ready: list[Prepared] = []
        with timed_as(run.timing):
            for ask in asks:
                encoded = [visual[lane] for visual in self._encode(ask)]
                fewer, questions = run.too_long == "fewer_frames", sharing.get(ask.visuals, 1)
                ready.append(prepare(built.vlm, built.method, encoded, ask.question, fewer, questions))
                if self._watch:
                    self._watch(lane, ask, ready[-1])
            answers = finish(built.vlm, built.method, ready, asks[0].options, self._prefixes[lane])
        swept, smaller = len(self.lanes) > 1, self._most is not None
        return [
            replace(a, cost=replace(a.cost, swept=swept, smaller_batch=smaller, cold=ask.visuals == self._first))
            for a, ask in zip(answers, asks, strict=True)
        ]

    def _encode(self, ask: Ask) -> list[list[Encoded]]:
        """The visuals of a question, each for every lane; the last ones are kept for the questions that follow."""
        if ask.visuals != self._visuals:
            self._visuals, self._encoded = None, []  # frees the last video before the next is encoded
            for prefix in self._prefixes:
                if prefix:
                    prefix.clear()
            self._encoded = self._encode_anew(ask)
            self._visuals = ask.visuals
            self._first = ask.visuals if self._first is None else self._first
        return self._encoded

    def _encode_anew(self, ask: Ask) -> list[list[Encoded]]:
        vlm, run = self.lanes[0].built.vlm, self.lanes[0].run
        methods = [lane.built.method for lane in self.lanes]
        stills = still_images(ask.load(), " ".join(ask.visuals)) if run.images == "tiles" else []
        if stills:  # which no method prunes
            return [[encode_still(vlm, still)] * len(methods) for still in stills]
        videos: Sequence[Video] | None = self._ahead.videos(ask.visuals) if self._ahead else None
        if videos is None:
            visuals = ask.load()
            if visuals and all(isinstance(visual, Encoded) for visual in visuals):
                return [[visual] * len(methods) for visual in visuals]
            videos = self._videos(ask, visuals)
        try:
            return [encode_once(vlm, methods, video) for video in videos]
        except StaleIndexError:
            return [encode_once(vlm, methods, video) for video in self._videos(ask, ask.load())]

    def _videos(self, ask: Ask, visuals: Sequence[Any]) -> Sequence[Video]:
        if all(isinstance(visual, Video) for visual in visuals):
            return visuals
        return to_videos(visuals, " ".join(ask.visuals), self.frames, self.lanes[0].run.cache)


def _with_encoder(lane: Lane, same: dict[FrameEncoder, FrameEncoder]) -> Lane:
    method = lane.built.method
    encoder = same.setdefault(method.encoder, method.encoder)
    return replace(lane, built=replace(lane.built, method=replace(method, encoder=encoder)))


def _shares_prefix(lane: Lane) -> bool:
    """Questions on one video have the same prefix where they have no say in what is kept of it."""
    return lane.run.share_prefix and lane.run.batch_size == 1 and not lane.built.method.query_aware
