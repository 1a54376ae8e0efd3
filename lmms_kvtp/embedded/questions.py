"""Multiple-choice questions about a script, with the spans of video that answer them, and the reading of answers."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from lmms_kvtp.embedded.script import COLORS, DECOYS, GLYPHS, PLACES, Script, Shot, Sprite, sampled_times

LETTERS = ("A", "B", "C", "D")
WORDING = {
    "color": "What color is the {glyph}?",
    "where": "In which place does the {glyph} appear?",
    "scene": "Which of these places is shown?",
    "main": "Which place is shown most?",
    "start": "Which place is shown first?",
    "end": "Which place is shown last?",
}
KINDS = tuple(WORDING)
KEY_KINDS = ("color", "where")
GLOBAL_KINDS = ("scene", "main", "start", "end")
INSTRUCTION = "Answer with the option's letter from the given choices directly."

MAIN_MARGIN = 0.15  # of the sampled frames, between the two most shown places

Spans = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ScriptQuestion:
    """A question with four options. Its answer lies in `spans` (s); without any, in the whole video."""

    kind: str
    text: str
    options: tuple[str, str, str, str]
    answer: str
    spans: Spans

    @property
    def answer_text(self) -> str:
        """Text of the right option."""
        return self.options[LETTERS.index(self.answer)]

    @property
    def prompt(self) -> str:
        """Text that a model reads: stem, lettered options, instruction."""
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=True)]
        return "\n".join([self.text, *lines, INSTRUCTION])

    def with_answer_at(self, letter: str) -> "ScriptQuestion":
        """Move the answer to another letter, and the option there to the answer's."""
        options = list(self.options)
        here, there = LETTERS.index(self.answer), LETTERS.index(letter)
        options[here], options[there] = options[there], options[here]
        a, b, c, d = options
        return ScriptQuestion(self.kind, self.text, (a, b, c, d), letter, self.spans)


def ask(script: Script) -> list[ScriptQuestion]:
    """Ask all questions that a video allows: two about each event, three or four about the whole."""
    rng = np.random.RandomState([crc32(script.key.encode()), 1])
    asked = []
    for index, shot in enumerate(script.shots):
        if shot.event is not None:
            asked += _about_event(rng, script, index, shot, shot.event)
    return asked + _about_whole(rng, script)


def words() -> tuple[str, ...]:
    """List, for a tokenizer, every word and sign of prompts and answers, and the names of decoys, sorted."""
    text = " ".join([*WORDING.values(), INSTRUCTION, *LETTERS, *PLACES, *COLORS, *GLYPHS, *DECOYS, "."])
    return tuple(sorted(set(split_words(text.replace("{glyph}", "")))))


def split_words(text: str) -> list[str]:
    """Split a text into words (letters and apostrophes) and single signs; white space goes."""
    return re.findall(r"[A-Za-z']+|[^\sA-Za-z']", text)


def _about_event(
    rng: np.random.RandomState, script: Script, index: int, shot: Shot, event: Sprite
) -> list[ScriptQuestion]:
    before, after = script.shots[index - 1], script.shots[index + 1]
    span = (shot.start, shot.end)
    shown = [[s.place for s in shots] for shots in (script.events, script.shots)]
    places = [[before.place, after.place], [_main_place(script)[0]], *shown, PLACES]
    colors = [s.event.color for s in script.events if s.event is not None]
    return [
        _question(rng, "color", event.shape, event.color, [colors, COLORS], (span,)),
        _question(rng, "where", event.shape, shot.place, places, (span,)),
    ]


def _about_whole(rng: np.random.RandomState, script: Script) -> list[ScriptQuestion]:
    main, margin = _main_place(script)
    shown = [s.place for s in script.shots]
    places = [[main], shown, PLACES]
    context = sorted({shot.place for shot in script.shots if shot.event is None})
    place = context[rng.randint(len(context))]  # one of the shots without event; the others are never shown
    spans = tuple((shot.start, shot.end) for shot in script.shots if shot.place == place)
    asked = [_question(rng, "scene", "", place, [sorted(set(PLACES) - set(shown))], spans)]
    if margin >= MAIN_MARGIN:
        asked.append(_question(rng, "main", "", main, places, ()))
    for kind, shot in (("start", script.shots[0]), ("end", script.shots[-1])):
        asked.append(_question(rng, kind, "", shot.place, places, ((shot.start, shot.end),)))
    return asked


def _main_place(script: Script) -> tuple[str, float]:
    """Find the place of most sampled frames, and its lead over the next as a share of all frames."""
    frames = Counter(script.shot_at(time).place for time in sampled_times(script))
    (main, most), (_, second) = frames.most_common(2)
    return main, (most - second) / sum(frames.values())


def _question(
    rng: np.random.RandomState, kind: str, glyph: str, answer: str, pools: Sequence[Sequence[str]], spans: Spans
) -> ScriptQuestion:
    """Put a question; wrong options are drawn from the first pool that still has some, then from the next."""
    options = [answer]
    for pool in pools:
        fresh = sorted(set(pool) - set(options))
        options += [fresh[i] for i in rng.permutation(len(fresh))]
    options = options[:4]
    a, b, c, d = (options[i] for i in rng.permutation(4))
    letter = LETTERS[(a, b, c, d).index(answer)]
    spans = tuple((round(start, 3), round(end, 3)) for start, end in spans)  # 29.6 + 1.6 is more than 31.2
    return ScriptQuestion(kind, WORDING[kind].format(glyph=glyph), (a, b, c, d), letter, spans)
