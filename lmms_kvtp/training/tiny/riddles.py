"""Questions that name their own answer: they teach what an option letter is, without any video."""

import numpy as np

from lmms_kvtp.synth.questions import INSTRUCTION, LETTERS, QUARTERS, WORDING
from lmms_kvtp.synth.script import COLORS, GLYPHS, PLACES
from lmms_kvtp.training.tiny.packing import Asked

ENOUGH = 0.9


class Riddler:
    """Asks "What color is the red?": with two options until letters are understood, then with four."""

    def __init__(self, rng: np.random.Generator, options: int = 2) -> None:
        """Start with that many options."""
        self.rng, self.options, self.accuracy = rng, options, 1 / options

    def draw(self) -> Asked:
        """A riddle, and the letter that answers it."""
        words = (COLORS, PLACES, QUARTERS, GLYPHS)[self.rng.integers(4)]
        options = [words[i] for i in self.rng.permutation(len(words))[: self.options]]
        right = int(self.rng.integers(self.options))
        stems = [wording for wording in WORDING.values() if "{glyph}" in wording]
        stem = stems[self.rng.integers(len(stems))].format(glyph=options[right])
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
        return "\n".join([stem, *lines, INSTRUCTION]), LETTERS[right]

    def note(self, share_right: float) -> None:
        """Take in how many answers of a batch were right."""
        self.accuracy += 0.05 * (share_right - self.accuracy)
        if self.options == 2 and self.accuracy > ENOUGH:
            self.options, self.accuracy = 4, 0.25
