"""Steps 2 and 3, the texts that scorers read: a caption for each clip, and questions short and without hints."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from lmms_kvtp.files import content_key
from lmms_kvtp.questions import MAX_WORDS, Remembered, refine
from lmms_kvtp.skvqa.layouts import SourceQuestion
from lmms_kvtp.skvqa_build.ask import Answered, ask_all, read_caption, read_refined
from lmms_kvtp.skvqa_build.chat import ChatModel, ChatRequest
from lmms_kvtp.skvqa_build.prompts import prompt
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.skvqa_build.videos import Clips

log = logging.getLogger(__name__)

RULE = "rule"
"""Name of the refiner that needs no model: `lmms_kvtp.questions`."""


def caption_clips(chat: ChatModel, store: Store, videos: Mapping[str, Clips]) -> Answered[tuple[str, ...]]:
    """Caption clips, by the store where it can; returns those of videos of which every clip has one, by video id.

    Raises as `ask_all` does.
    """
    asked = ask_all(chat, store, _caption_requests(videos), lambda _, text: read_caption(text))
    complete = {}
    for name, clips in videos.items():
        found = [asked.answers.get(_subject(name, clip)) for clip in range(len(clips.bounds))]
        if all(caption is not None for caption in found):
            complete[name] = tuple(caption or "" for caption in found)
    return Answered(complete, asked.failures)


def captions_hash(captions: Iterable[str]) -> str:
    """Hash the captions of a video; empty for none."""
    listed = list(captions)
    return content_key("captions", listed) if listed else ""


def refine_questions(chat: ChatModel | None, store: Store, questions: Sequence[SourceQuestion]) -> Answered[str]:
    """Refine a data set's questions, by question id: by fixed rules where `chat` is None; raises as `ask_all` does."""
    if chat is None:
        return Answered({asked.question_id: refine(asked.question, asked.options) for asked in questions}, ())

    def request(asked: SourceQuestion) -> ChatRequest:
        text = prompt("refine", max_words=MAX_WORDS, question=asked.question, options="\n".join(asked.options))
        return ChatRequest(step="refine", text=text, subject=asked.question_id, max_new_tokens=200)

    return ask_all(chat, store, map(request, questions), lambda _, text: read_refined(text))


def remember(chat: ChatModel | None, store: Store, questions: Iterable[tuple[str, tuple[str, ...]]]) -> Remembered:
    """Refine bare questions with their options, each once, as `refine_questions` does.

    Those that a model cannot refine are left to fixed rules, and counted in the log.
    """
    distinct = list(dict.fromkeys(questions))
    sources = [SourceQuestion(str(number), "", "", *asked) for number, asked in enumerate(distinct)]
    found = refine_questions(chat, store, sources)
    if found.failures:
        one = found.failures[0]
        log.warning(
            "%d of %d questions are refined by rule; one of them, %r: %s",
            len(found.failures), len(distinct), distinct[int(one.subject)][0], one.reason,
        )  # fmt: skip
    return Remembered.of({distinct[int(number)]: text for number, text in found.answers.items()})


def _caption_requests(videos: Mapping[str, Clips]) -> Iterator[ChatRequest]:
    for name, clips in videos.items():
        for clip in range(len(clips.bounds)):
            yield ChatRequest(
                step="caption",
                text=prompt("caption"),
                subject=_subject(name, clip),
                frames=partial(clips.frames, clip),
                frames_key=f"{clips.key}:{clip}",
                max_new_tokens=256,
            )


def _subject(video: str, clip: int) -> str:
    return f"{video}#{clip}"
