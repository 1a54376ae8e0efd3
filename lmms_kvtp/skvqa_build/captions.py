"""Step 2: a caption for each clip of each video."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from lmms_kvtp.files import content_key
from lmms_kvtp.skvqa_build.ask import Failure, ask, read_caption
from lmms_kvtp.skvqa_build.chat import Chat, ChatRequest
from lmms_kvtp.skvqa_build.prompts import prompt
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.skvqa_build.videos import Clips

MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Captioned:
    """The captions of the videos whose every clip has one, and what failed."""

    captions: Mapping[str, tuple[str, ...]]
    """By video id."""
    failures: tuple[Failure, ...]


def caption_clips(
    chat: Chat, store: Store, videos: Mapping[str, Clips], max_new_tokens: int = MAX_NEW_TOKENS
) -> Captioned:
    """Caption all clips that the store has no caption of.

    Args:
        chat: the captioner.
        store: of finished calls.
        videos: by video id.
        max_new_tokens: of a caption.

    Raises:
        ChatError: the captioner cannot be used at all.
        BudgetError: the budget is spent.
    """
    asked = ask(chat, store, _requests(videos.items(), max_new_tokens), lambda _, text: read_caption(text))
    complete = {}
    for name, clips in videos.items():
        found = [asked.answers.get(_subject(name, clip)) for clip in range(len(clips.bounds))]
        if all(caption is not None for caption in found):
            complete[name] = tuple(caption or "" for caption in found)
    return Captioned(complete, asked.failures)


def captions_hash(captions: Iterable[str]) -> str:
    """Stands for the captions of a video; empty for none."""
    listed = list(captions)
    return content_key("captions", listed) if listed else ""


def _requests(videos: Iterable[tuple[str, Clips]], max_new_tokens: int) -> Iterator[ChatRequest]:
    for name, clips in videos:
        for clip in range(len(clips.bounds)):
            yield ChatRequest(
                step="caption",
                text=prompt("caption"),
                subject=_subject(name, clip),
                frames=partial(clips.frames, clip),
                frames_key=f"{clips.key}:{clip}",
                max_new_tokens=max_new_tokens,
            )


def _subject(video: str, clip: int) -> str:
    return f"{video}#{clip}"
