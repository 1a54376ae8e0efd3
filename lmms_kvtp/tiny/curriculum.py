"""Which questions to practise: kinds that lag are asked more often."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lmms_kvtp.embedded.questions import KINDS, LETTERS, Question, ask
from lmms_kvtp.embedded.script import Script

EMPHASIS = {"color": 2.0, "where": 2.0, "main": 1.5}


class Coach:
    """Draws questions, and keeps a running accuracy of each kind."""

    def __init__(self, rng: np.random.Generator) -> None:
        """All kinds start at chance."""
        self.rng = rng
        self.accuracy = dict.fromkeys(KINDS, 0.25)

    def draw(self, script: Script, count: int, kinds: Sequence[str] = KINDS) -> list[Question]:
        """`count` questions on a video, of some kinds, with the letters of their options shuffled."""
        pool = [question for question in ask(script) if question.kind in kinds]
        there = Counter(question.kind for question in pool)
        odds = np.array([self._need(question.kind) / there[question.kind] for question in pool])
        chosen = self.rng.choice(len(pool), count, p=odds / odds.sum())
        return [pool[i].with_answer_at(LETTERS[self.rng.integers(4)]) for i in chosen]

    def note(self, questions: Sequence[Question], right: Tensor) -> None:
        """Take in which answers were right."""
        for question, hit in zip(questions, right.tolist(), strict=True):
            self.accuracy[question.kind] += 0.02 * (hit - self.accuracy[question.kind])

    def _need(self, kind: str) -> float:
        return EMPHASIS.get(kind, 1.0) * (1.15 - self.accuracy[kind])


def right_letters(logits: Tensor, targets: Tensor) -> Tensor:
    """Which answers are right; targets alternate between a letter and the end of the turn."""
    return torch.eq(logits[::2].argmax(-1), targets[::2])
