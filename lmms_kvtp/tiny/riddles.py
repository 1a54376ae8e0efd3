"""Questions that name their own answer: they teach what an option letter is, without any video."""

import numpy as np

from lmms_kvtp.embedded.questions import INSTRUCTION, LETTERS, WORDING
from lmms_kvtp.embedded.script import COLORS, GLYPHS, PLACES
from lmms_kvtp.tiny.packing import Asked


class Riddler:
    """Asks "What color is the red?", or bare: lists the options and says "red"."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Accuracy begins at chance."""
        self.rng, self.accuracy = rng, 1 / len(LETTERS)

    def draw(self, bare: bool) -> Asked:
        """A riddle, and the letter that answers it."""
        words = (COLORS, PLACES, GLYPHS)[self.rng.integers(3)]
        options = [words[i] for i in self.rng.permutation(len(words))[: len(LETTERS)]]
        right = int(self.rng.integers(len(options)))
        stems = [wording for wording in WORDING.values() if "{glyph}" in wording]
        stem = stems[self.rng.integers(len(stems))].format(glyph=options[right])
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
        if bare:
            return "\n".join([*lines, f" {options[right]}"]), LETTERS[right]
        return "\n".join([stem, *lines, INSTRUCTION]), LETTERS[right]

    def note(self, share_right: float) -> None:
        """Take in how many answers of a batch were right."""
        self.accuracy += 0.05 * (share_right - self.accuracy)
