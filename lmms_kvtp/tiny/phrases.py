"""Phrases of the contrastive stage, each with the exact rule for which frames it describes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmms_kvtp.embedded.draw import SHAPES
from lmms_kvtp.embedded.questions import GLOBAL_KINDS, KEY_KINDS, WORDING
from lmms_kvtp.embedded.script import COLORS, GLYPHS, PLACES

ABOUT_ALL = ("a picture of a place", "a frame of the video", *(WORDING[kind] for kind in GLOBAL_KINDS))
"""Captions that fit every frame, among them the questions about the whole video."""
ABOUT_GLYPH = tuple(WORDING[kind] for kind in KEY_KINDS)


@dataclass(frozen=True)
class Phrase:
    """A caption; a frame matches if it has the shape, in the color, at the place, as far as those are named."""

    text: str
    shape: int = -1
    color: int = -1
    place: int = -1

    def matches(self, present: npt.NDArray[np.bool_], places: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
        """Which frames it describes, from what is present in each ([frames, shapes, colors]) and their places."""
        fits = np.ones(len(places), bool)
        if self.shape >= 0:
            shown = present[:, self.shape]
            fits &= shown[:, self.color] if self.color >= 0 else shown.any(-1)
        return fits & (places == self.place) if self.place >= 0 else fits


def all_phrases() -> list[Phrase]:
    """Objects, colored objects, objects in places, places, whole questions, and captions that fit every frame."""
    places = range(len(PLACES))
    phrases = [Phrase(text) for text in ABOUT_ALL]
    phrases += [Phrase(f"the {PLACES[p]}", place=p) for p in places]
    for s, shape in enumerate(SHAPES):
        article = "an" if shape[0] in "aeiou" else "a"
        phrases.append(Phrase(f"{article} {shape}", s))
        phrases += [Phrase(f"a {color} {shape}", s, c) for c, color in enumerate(COLORS)]
        phrases += [Phrase(f"{article} {shape} in the {PLACES[p]}", s, place=p) for p in places]
        if shape in GLYPHS:
            phrases += [Phrase(wording.format(glyph=shape), s) for wording in ABOUT_GLYPH]
    return phrases
