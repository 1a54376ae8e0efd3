"""A question, and what relevance scorers read of it: a short text without instructions, letters or positions."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from lmms_kvtp.files import text_lines


@dataclass(frozen=True)
class Question:
    """A question as the harness sends it, and as a relevance scorer reads it."""

    prompt: str
    """All of the text that the model gets: question, options, instructions."""
    stem: str = ""
    """The bare question, where the task gives it."""
    options: tuple[str, ...] = ()
    refined: str = ""
    """Text that the scorer reads, as `refine` makes it; empty: stem and options."""
    doc_key: str = ""
    """Name of the document within all tasks of a run."""
    spans: tuple[tuple[float, float, float], ...] | None = None
    """Ground-truth relevance as (start s, end s, score of 0 to 5), where the task has it; () means the whole video."""


MAX_WORDS = 40
"""Words of a refined question: about what fits in the 64 text tokens of SigLIP."""

_SENTENCE = re.compile(r"(?<=[.?!:])(?<!\b[A-Za-z]\.)(?<!\b(?:Mr|Ms|Dr|St|vs|Jr)\.)(?<!\bMrs\.)\s+|\n+")
_INSTRUCTION = re.compile(
    r"^\W*(please\b|(select|choose|pick|answer|respond|reply|give|output|return|provide|think)\b(?!.*\?)"
    r"|(your|the best) answer\b"
    r"|(?=.*\b(answer|respond|reply|give|write|select|choose|pick|output|return|provide)\b)"
    r".*\b(only|just|directly)\b.*\b(letter|option|choice|word|phrase)s?\b(?!.*\?)"
    r"|question\W*$|options?\W*$|choices?\W*$)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^\s*(question|q)\s*\d*\s*:\s*", re.IGNORECASE)
_ENDS = (
    r"(?=\s*([?.!,;:]|$)|\s+(is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|about|after|before|when|"
    r"while|and|or|that|which|who|because|if|to|with|for)\b)"
)
"""What follows a hint that can go: the end of a clause, or a word with which no name goes on, as `video game` does."""
_VIDEO = r"((the|this)\s+)?((given|whole|entire)\s+)?(video|clip|footage)(\s+clip)?\b"
_SOURCE = re.compile(
    r",?\s*\b(as\s+(shown|seen|depicted)\s+(in|by|throughout)|as\s+(shown|seen)|according\s+to|based\s+on|in|from|"
    rf"throughout|of)\s+(?=the\b|this\b){_VIDEO}{_ENDS}",
    re.IGNORECASE,
)
_POSITION = re.compile(
    rf",?\s*\b(near|at|towards?|in)\s+the\s+(very\s+)?"
    rf"((beginning|start|middle|end)\s+of\s+{_VIDEO}{_ENDS}|(beginning|start|end)(?=\s*([?.!,]|$)))",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"\b(is|are|was|were|be|stands?|standing|sits?|sitting|lies|lying|located|placed|what|who|there)$", re.I
)
"""What stands before a place that answers where something is: no hint."""
_LETTER = re.compile(r"^\s*(?:\(?([A-Za-z])[):]|([A-Za-z])\.(?!\w\.))\s*")
_LEADING = re.compile(r"^(a|an|the|to|it is|it's|he is|she is|they are)\s+", re.IGNORECASE)


@runtime_checkable
class Refiner(Protocol):
    """Makes what relevance scorers read from a bare question and its options: `refine`, or what is `Remembered`.

    Refinement by a large language model is made for many questions at once, and then remembered.
    """

    def __call__(self, stem: str, options: Sequence[str] = ()) -> str:
        """Refine one question."""
        ...


@dataclass(frozen=True)
class Remembered:
    """Refinements that were made before; other questions are left to another refiner."""

    refined: Mapping[str, str]
    """Refinements, by bare question and options in the form of `_identity`."""
    otherwise: "Refiner | None" = None
    """Refiner of what is not remembered; None: fixed rules."""

    def __call__(self, stem: str, options: Sequence[str] = ()) -> str:
        """Find the refinement of a question, whatever its case, spaces and letters before options."""
        return self.refined.get(_identity(stem, options)) or (self.otherwise or refine)(stem, options)

    @staticmethod
    def of(refined: Mapping[tuple[str, tuple[str, ...]], str]) -> "Remembered":
        """Remember refinements that are given by stem and options."""
        return Remembered({_identity(*asked): text for asked, text in refined.items()})

    @staticmethod
    def load(path: Path, otherwise: "Refiner | None" = None) -> "Remembered":
        """Read `question`, `options` and `refined` of each line of an index; lines without the latter say nothing.

        Raises:
            ValueError: a line is damaged, or two lines refine one question differently; the message names it.
        """
        found: dict[str, str] = {}
        for number, line in text_lines(path):
            try:
                entry = json.loads(line)
                key, text = _identity(entry["question"], entry.get("options", ())), entry.get("refined")
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: no question of an index ({error!r})") from error
            if text and found.setdefault(key, str(text)) != text:
                raise ValueError(f"{path}, line {number}: refines {entry['question']!r} otherwise than an earlier line")
        return Remembered(found, otherwise)


def _identity(stem: str, options: Sequence[str]) -> str:
    parts = [stem, *_unlabelled(options)]
    return "\n".join(" ".join(part.split()).lower() for part in parts)


def question_text(question: Question) -> str:
    """Take what scorers read of a question: its refined form, else stem and options as they are, else the whole prompt.

    Raises:
        ValueError: the question has no text at all.
    """
    text = (question.refined or with_choices(question.stem, question.options) or question.prompt).strip()
    if not text:
        raise ValueError(
            f"question {question.doc_key!r} has no text to compare frames with; give it a prompt, or use scorer=uniform"
        )
    return text


def with_choices(stem: str, options: Sequence[str]) -> str:
    """Join stem and options in one line, in the form of the paper's listing 1."""
    if not stem or not options:
        return stem
    return f"{stem} Choices: {', '.join(options).removesuffix('.')}."


def refine(stem: str, options: Sequence[str] = (), max_words: int = MAX_WORDS) -> str:
    """Shorten and de-bias a question by fixed rules.

    Instructions, labels, letters, "in the video" and hints at the position ("near the end") are dropped where
    something else remains; the options stay, all cut to the same number of words if the whole is too long.

    Source: the refinement that KVTP (arXiv 2503.10742), section 3, asks of GPT-4o, with listing 1 as the example;
    these rules are ours.

    Args:
        stem: the bare question.
        options: with or without letters.
        max_words: > 0; the stem itself is never cut.
    """
    sentences = [part for part in _SENTENCE.split(stem) if part.strip()]
    asked = " ".join([part for part in sentences if not _INSTRUCTION.search(part)] or sentences)
    for pattern in (_LABEL, _POSITION, _SOURCE):
        shorter = pattern.sub(_without, asked).lstrip(" ,")
        asked = shorter if re.search(r"\w{2,}.*\w{2,}", shorter) else asked
    asked = re.sub(r"\s+([?.!,])", r"\1", " ".join(asked.split()))
    choices = [_bare(option) for option in _unlabelled(options)]
    longest = max((len(choice.split()) for choice in choices), default=0)
    while longest > 1 and len(with_choices(asked, choices).split()) > max_words:
        longest -= 1
        choices = [" ".join(choice.split()[:longest]) for choice in choices]
    return with_choices(asked[:1].upper() + asked[1:], choices)


def _without(hint: re.Match[str]) -> str:
    """Leave a hint out, unless it says where something is."""
    return hint[0] if hint.re is _POSITION and _PLACE.search(hint.string[: hint.start()].rstrip()) else ""


def _unlabelled(options: Sequence[str]) -> list[str]:
    """Drop letters before options: `(b)` and `B:` everywhere, `B.` where letters are those of their places."""
    found = [_LETTER.match(option) for option in options]
    dotted = [(place, match[2].upper()) for place, match in enumerate(found) if match and match[2]]
    labels = all(letter == chr(ord("A") + place) for place, letter in dotted)  # else initials, as in E. coli
    return [
        option[match.end() :] if match and (match[1] or labels) else option
        for option, match in zip(options, found, strict=True)
    ]


def _bare(option: str) -> str:
    text = " ".join(option.split()).rstrip(" ;,")
    text = text if re.search(r"\b\w\.\w\.$", text) else text.rstrip(" .;,")
    return (_LEADING.sub("", text) or text or option).strip()


MOST_RELEVANT = 5.0
"""Highest score, where 0 is irrelevant, in the labels of KVTP (arXiv 2503.10742) and of SparseKV-QA."""


def check_scale(scores: Iterable[float], source: object) -> None:
    """Refuse the scores of a whole index that most probably go from 0 to 1: the softmax would hardly tell them apart.

    Args:
        scores: of all clips or spans of all questions.
        source: file, for the message.

    Raises:
        ValueError: the largest score is above 0 and at most 1; the message has the way out.
    """
    top = max(scores, default=0.0)
    if 0 < top <= 1:
        raise ValueError(
            f"{source}: the largest of all scores is {top:g}, so that they most probably go from 0 to 1; the scale is "
            f"0 to {MOST_RELEVANT:g}: multiply all by {MOST_RELEVANT:g} (docs/skvqa.md, section 3)"
        )
