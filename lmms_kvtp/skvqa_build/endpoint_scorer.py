"""A chat model scores all clips of a video in one answer, from their captions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lmms_kvtp.skvqa_build.answers import read_scores
from lmms_kvtp.skvqa_build.ask import Asked, ask
from lmms_kvtp.skvqa_build.chat import Chat, ChatRequest
from lmms_kvtp.skvqa_build.prompts import prompt
from lmms_kvtp.skvqa_build.scoring import ClipScorer, Scoreable, shortened
from lmms_kvtp.skvqa_build.store import Store


@dataclass(frozen=True, eq=False)
class ChatScorer(ClipScorer):
    """The paper's way, with GPT-4o there."""

    chat: Chat
    needs_captions = True
    uses_prompts = True

    @property
    def name(self) -> str:
        """The chat model."""
        return self.chat.name

    def score(self, questions: Iterable[Scoreable], store: Store) -> Asked[tuple[float, ...]]:
        """Scores by question id; see `ClipScorer`."""
        bounds: dict[str, list[tuple[int, int]]] = {}

        def requests() -> Iterator[ChatRequest]:
            for question in questions:
                bounds[question.question_id] = question.clips.bounds
                yield ChatRequest(step="score", text=scoring_prompt(question), subject=question.question_id)

        def parse(request: ChatRequest, text: str) -> tuple[float, ...]:
            return read_scores(text, bounds[request.subject])

        return ask(self.chat, store, requests(), parse)


def scoring_prompt(question: Scoreable) -> str:
    """The whole text of the request."""
    described = zip(question.clips.bounds, question.captions, strict=True)
    clips = "\n".join(f"{first}-{last}: {shortened(caption)}" for (first, last), caption in described)
    return prompt("score", clips=clips, question=question.text)
