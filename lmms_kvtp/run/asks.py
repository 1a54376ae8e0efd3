"""Questions as the run engine takes them, whether the harness asks or a person."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmms_kvtp.encode import Encoded
from lmms_kvtp.questions import Question, refine
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.frames import Video

IN_MEMORY = re.compile(r"^\d+ images [0-9a-f]{16}$")
"""Names that `name_visuals` gives to images without path."""
OPTION = re.compile(r"^\s*\(?([A-Z])[.):]\s+(\S.*)$")


@dataclass(frozen=True)
class Ask:
    """One question of a task, and all that its answer depends on beside the run's own settings."""

    task: str
    version: str
    question: Question
    visuals: tuple[str, ...]
    """Paths, or a name for what is in memory; questions with equal names share an encoding."""
    load: Callable[[], list[Any]] = field(compare=False)
    """Loads the visuals when their turn has come."""
    options: GenerationOptions

    @property
    def subject(self) -> str:
        """What messages call this question: document, task and visuals."""
        on = f" on {', '.join(self.visuals)}" if self.visuals else ""
        if not self.task:
            return f"question {self.question.doc_key or repr(self.question.prompt)}{on}"
        return f"document {self.question.doc_key} of task {self.task}{on}"


def ask_about(visuals: Sequence[str | Video | Encoded], question: Question, options: GenerationOptions) -> Ask:
    """Ask a question outside the harness: on files, on videos in memory, or on what was encoded before."""
    names = tuple(_name(visual) for visual in visuals)
    return Ask("", "", question, names, lambda: list(visuals), options)


def _name(visual: str | Video | Encoded) -> str:
    if isinstance(visual, str):
        return visual
    return visual.tokens.key if isinstance(visual, Encoded) else visual.key


def read_visuals(doc_to_visual: Callable[[Any], Any], doc: Any) -> list[Any]:
    """Get the visuals of a document as a flat list, empty for a question of text alone.

    FileNotFoundError where the task ended the process, as stock tasks do where a file is missing.
    """
    try:
        visuals = doc_to_visual(doc)
    except SystemExit as error:
        raise FileNotFoundError(f"the task cannot find the document's video: {error}") from error
    return flatten(visuals)


def flatten(visuals: Any) -> list[Any]:
    """Make one list of visuals; tasks also give None, single visuals and lists of lists."""
    if visuals is None:
        return []
    return [v for part in visuals for v in flatten(part)] if isinstance(visuals, list | tuple) else [visuals]


def name_visuals(visuals: Sequence[Any]) -> tuple[str, ...]:
    """Name visuals by their paths, and images in memory by one name that stands for their content."""
    if all(isinstance(visual, str) for visual in visuals):
        return tuple(visuals)
    content = hashlib.sha256()
    for visual in visuals:
        content.update(visual.tobytes() if hasattr(visual, "tobytes") else repr(visual).encode())
    return (f"{len(visuals)} images {content.hexdigest()[:16]}",)


def check_files(asks: Iterable[Ask]) -> None:
    """Find out before the first answer, not hours later, that videos are missing.

    FileNotFoundError names the first of them and the number of all.
    """
    paths = {path: ask for ask in asks for path in ask.visuals if not IN_MEMORY.match(path)}
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        first = paths[missing[0]].subject
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} videos are not there, first {first}; "
            "complete the data set, or leave these questions unanswered with on_error=skip"
        )


def read_question(prompt: str, doc: Mapping[str, Any], doc_key: str) -> Question:
    """Read what is asked: the whole prompt, and the bare question and options, from the document or else the prompt."""
    stem, options = split_prompt(prompt)
    if isinstance(doc.get("question"), str):
        stem = doc["question"]
    given = doc.get("options")
    if isinstance(given, list | tuple) and all(isinstance(option, str) for option in given):
        options = tuple((match[2] if (match := OPTION.match(option)) else option).strip() for option in given)
    spans = doc.get("spans")
    return Question(
        prompt=prompt,
        stem=stem,
        options=options,
        refined=str(doc.get("refined") or refine(stem, options)),  # an index has its own
        doc_key=doc_key,
        spans=None if spans is None else tuple((float(a), float(b), float(score)) for a, b, score in spans),
    )


def split_prompt(prompt: str) -> tuple[str, tuple[str, ...]]:
    """Divide a multiple-choice prompt into its text and its options: lines `A. ...`, `B. ...` and so on."""
    matches = [OPTION.match(line) for line in prompt.splitlines()]
    letters = "".join(match[1] for match in matches if match)
    if len(letters) < 2 or not "ABCDEFGHIJKLMNOPQRSTUVWXYZ".startswith(letters):
        return prompt, ()
    text = "\n".join(line for line, match in zip(prompt.splitlines(), matches, strict=True) if not match)
    return text, tuple(match[2].strip() for match in matches if match)
