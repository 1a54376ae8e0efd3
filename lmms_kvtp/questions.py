"""A question, what relevance scorers read of it (no instructions, letters, positions), and the letter of an answer."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from lmms_kvtp.files import from_json, text_lines


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


RULE = "rule"
"""Name of the refiner that needs no model: `refine`."""
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

        ValueError where a line is damaged, or two lines refine one question differently; the message names it.
        """
        found: dict[str, str] = {}
        for number, line in text_lines(path):
            try:
                entry = from_json(line)
                key, text = _identity(entry["question"], entry.get("options", ())), entry.get("refined")
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: no question of an index ({error!r})") from error
            if text and found.setdefault(key, str(text)) != text:
                raise ValueError(f"{path}, line {number}: refines {entry['question']!r} otherwise than an earlier line")
        return Remembered(found, otherwise)


def _identity(stem: str, options: Sequence[str]) -> str:
    parts = [stem, *unlabelled(options)]
    return "\n".join(" ".join(part.split()).lower() for part in parts)


def question_text(question: Question) -> str:
    """Take what scorers read of a question: its refined form, else stem and options as they are, else the whole prompt.

    ValueError where the question has no text at all.
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
    choices = [_bare(option) for option in unlabelled(options)]
    longest = max((len(choice.split()) for choice in choices), default=0)
    while longest > 1 and len(with_choices(asked, choices).split()) > max_words:
        longest -= 1
        choices = [" ".join(choice.split()[:longest]) for choice in choices]
    return with_choices(asked[:1].upper() + asked[1:], choices)


def _without(hint: re.Match[str]) -> str:
    """Leave a hint out, unless it says where something is."""
    return hint[0] if hint.re is _POSITION and _PLACE.search(hint.string[: hint.start()].rstrip()) else ""


def unlabelled(options: Sequence[str]) -> list[str]:
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


_FINAL = re.compile(r"</?think>|<answer>(.*?)(?:</answer>|$)|\\boxed\{\s*(?:\\text\w*\{)?(.*?)\}", re.I | re.DOTALL)
_CITED = r"(?:is|was|are|because|since|as|and|or|nor|but)\b"
_LONE = rf"(?<![A-Za-z0-9'.])(?<![Nn]ot )(?:([B-H])|(A)(?!\s+(?!{_CITED})[a-z]))(?![A-Za-z0-9']|\.\w)"
"""A letter by itself: "A red one" has an article, "E.T.", "C's" and "p.A" are words; "not B" is not B."""
_ALONE = re.compile(r"[\W_]*([A-Ha-h])[\W_]*")
_FIRST = re.compile(r"\W*([A-H](?=\s*(?:[):,\]]|\.(?!\w)))|[a-h](?=\)))")
_NAMED = re.compile(
    r"\b(?i:answer|(?:correct|best|right|final) (?:option|choice|letter)|(?:choose|select|pick)(?: option| choice)?)\b"
    rf"(?:\s+(?i:is|would be|must be|should be))?[^\w.?!]*{_LONE}"
)
_STATEMENT = re.compile(r"(?<=[.!?;])\s+|\n+")
_SHORT = 12
"""Words of a statement in which a letter may stand anywhere."""


def chosen_letter(text: str, options: Sequence[str]) -> str | None:
    r"""Read the letter that an answer to a multiple-choice question means; None where it means none or several.

    It is looked for, in this order: inside `<answer>` or `\boxed`, and after `</think>`; alone; as an option's own
    text, word for word; before an option ("B. red" is B whatever B says); in the last sentence that names one
    ("the answer is B"); by itself in the last short sentence that has one; as the only option whose text occurs.

    Args:
        text: what the model wrote.
        options: texts of at most eight options, in the order of their letters.
    """
    finals = [match for match in _FINAL.finditer(text) if match[0].lower() != "<think>"]
    if finals:
        inside = finals[-1][1] or finals[-1][2]
        return chosen_letter(inside if inside is not None else text[finals[-1].end() :], options)
    letters, text = "ABCDEFGH"[: len(options)], re.sub(r"[*`#$]|__", "", text.replace("\u2019", "'"))
    said = [_words(option) for option in options]
    alone = _ALONE.fullmatch(text)
    if alone or _words(text) in said:
        found = {alone[1].upper() if alone else letters[said.index(_words(text))]}
    elif first := None if any(_words(text).startswith(f"{option} ") for option in said) else _FIRST.match(text):
        found = {first[1].upper()}
    elif named := list(_NAMED.finditer(text)):
        found = {named[-1][1] or named[-1][2]}
    else:
        found = _lone_letters(text, options) or _named_options(text, options)
    return found.pop() if len(found) == 1 and found <= set(letters) else None


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text).strip().lower()


def _lone_letters(text: str, options: Sequence[str]) -> set[str]:
    """Letters in the last short statement that has one, outside the texts of options, and of no option that has it."""
    said = [re.escape(option) for option in sorted(options, key=len, reverse=True) if len(option) > 1]
    bare = re.sub(rf"\b(?:{'|'.join(said)})(?!\w)", "x", text, flags=re.IGNORECASE) if said else text
    for statement in reversed(_STATEMENT.split(bare)):
        found = {match[1] or match[2] for match in re.finditer(_LONE, statement)}
        if found and len(statement.split()) <= _SHORT:
            return found - set(re.findall(r"\b[A-H]\b", " ".join(options)))  # EgoSchema's C wears the camera
    return set()


def _named_options(text: str, options: Sequence[str]) -> set[str]:
    """Letters of the options whose text occurs, each not only inside a longer one's."""
    found = set()
    rest = f" {_words(text)} "
    for place, option in sorted(enumerate(map(_words, options)), key=lambda pair: -len(pair[1])):
        if option and f" {option} " in rest:
            found.add("ABCDEFGH"[place])
            rest = rest.replace(f" {option} ", " | ")
    return found
