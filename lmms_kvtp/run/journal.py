"""Answers on disk as they come, a JSON line each, so that a run that dies at 99 % loses nothing."""

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.files import append_line, content_key, fingerprint, writing
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.asks import Ask

FORMAT = 2
"""Version of the file. In version 1, keys stood for modules that have moved since."""
PATTERN = "*_journal_rank*.jsonl"


@dataclass(frozen=True)
class Journal:
    """The journal of one process: a first line that says how answers are made, then the answers."""

    path: Path

    @staticmethod
    def create(folder: Path, stamp: str, rank: int, setup: Mapping[str, Any]) -> "Journal":
        """Start a new file, `<stamp>_journal_rank<rank>.jsonl`, never one that exists.

        OSError where the folder cannot be written; the message names it with the way out.
        """
        path, number = folder / f"{stamp}_journal_rank{rank}.jsonl", 1
        with writing(folder, "or set --output_path, or journal=FOLDER, or journal=none"):
            folder.mkdir(parents=True, exist_ok=True)
            while True:
                with suppress(FileExistsError):  # another run of this second
                    path.touch(exist_ok=False)
                    break
                number += 1
                path = folder / f"{stamp}-{number}_journal_rank{rank}.jsonl"
        journal = Journal(path)
        journal._append({"journal": FORMAT, "setup": setup})
        return journal

    def write(self, key: str, document: str, answer: Answer) -> None:
        """Append an answer; it is on disk when this returns. OSError names the journal, which then ends as before."""
        line = {"key": key, "document": document, "text": answer.text, "cost": answer.cost.to_dict()}
        self._append(line | ({} if answer.error is None else {"error": answer.error}))

    def _append(self, line: Mapping[str, Any]) -> None:
        append_line(self.path, json.dumps(line, ensure_ascii=False), f"and go on with resume={self.path}")


@dataclass(frozen=True)
class EarlierAnswers:
    """The answers that journals hold."""

    answers: Mapping[str, Answer]
    """Answers by key; samples that failed are left out, to be tried again."""
    setups: tuple[Mapping[str, Any], ...]
    """The setup of each journal: how its answers were made."""

    def difference(self, setup: Mapping[str, Any]) -> list[str]:
        """Name what differs from `setup` in the journal nearest to it; nothing where one is the same."""
        differences = [sorted(k for k in {*old, *setup} if old.get(k) != setup.get(k)) for old in self.setups]
        return min(differences, key=len, default=[])


def read(path: Path) -> EarlierAnswers:
    """Read one journal, or all below a folder. A line that was torn when the process died is left out.

    FileNotFoundError where nothing is there; ValueError where the file is no journal of this format.
    """
    files = sorted(path.rglob(PATTERN)) if path.is_dir() else [path]
    if not files or not path.exists():
        raise FileNotFoundError(f"no journal to resume from at {path}; it is named like {PATTERN}, beside the results")
    answers: dict[str, Answer] = {}
    setups: list[Mapping[str, Any]] = []
    for file in files:
        try:
            lines = _lines(file)
            setups += [first["setup"] for first in lines[:1]]
            for line in lines[1:]:
                if "error" not in line:
                    answers[line["key"]] = Answer(line["text"], SampleCost.from_dict(line["cost"]))
        except (json.JSONDecodeError, LookupError, TypeError, AttributeError, RecursionError) as error:
            way = "resume from another journal, or remove its bad lines"
            raise ValueError(f"{file} is damaged: {error!r}; {way}") from error
    return EarlierAnswers(answers, tuple(setups))


def _lines(file: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a journal; none if its process died at once."""
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last is empty, or torn
    values: list[dict[str, Any]] = [json.loads(line) for line in lines]
    found = values[0].get("journal") if values else FORMAT
    if found == 1:
        raise ValueError(
            f"{file} was written by earlier code, whose answers are not resumed: the modules that its keys stand for "
            "have moved; choose another output folder, or run without resume"
        )
    if found != FORMAT:
        raise ValueError(f"{file} is not a journal of format {FORMAT}; leave it out, or run without resume")
    return values


class Session:
    """The answers of one run: those taken over from earlier runs, and those to be kept.

    An answer is taken over only where that was asked for, and nothing that it depends on has changed.
    """

    def __init__(self, setup: Mapping[str, Any], journal: Journal | None, earlier: EarlierAnswers | None) -> None:
        """Start a run of which nothing is answered yet.

        Args:
            setup: everything that all answers of the run depend on.
            journal: where new answers go; None keeps them nowhere.
            earlier: answers of earlier runs.
        """
        self.setup, self.journal, self.earlier = setup, journal, earlier
        self.resumed = 0
        self.failures: list[str] = []
        self.resumed_elsewhere = self.failed_elsewhere = 0
        """Counts of the other ranks."""
        self._setup_digest = content_key(setup)
        self._asked: Counter[str] = Counter()
        self._videos: dict[str, str] = {}

    def key(self, ask: Ask) -> str:
        """Hash everything that an answer depends on."""
        return content_key(
            {
                "setup": self._setup_digest,
                "task": [ask.task, ask.version],
                "question": asdict(ask.question),
                "videos": [self._video(path) for path in ask.visuals],
                "options": asdict(ask.options),
            }
        )

    def count(self, ask: Ask) -> int:
        """Count how often this was asked before in this run; answers that are sampled must differ."""
        known = [ask.task, ask.question.doc_key, ask.question.prompt, ask.visuals, asdict(ask.options)]
        self._asked[content_key(known)] += 1
        return self._asked[content_key(known)] - 1

    def has(self, ask: Ask) -> bool:
        """Tell whether an earlier run answered this."""
        return self.earlier is not None and self.key(ask) in self.earlier.answers

    def find(self, ask: Ask) -> Answer | None:
        """Find the answer of an earlier run, and copy it into this run's journal."""
        answer = self.earlier.answers.get(self.key(ask)) if self.earlier else None
        if answer is not None:
            self.resumed += 1
            self._write(ask, answer)
        return answer

    def keep(self, ask: Ask, answer: Answer) -> None:
        """Write a new answer down before anything else happens."""
        if answer.error is not None:
            self.failures.append(f"{ask.subject}: {answer.error}")
        self._write(ask, answer)

    def _write(self, ask: Ask, answer: Answer) -> None:
        if self.journal:
            self.journal.write(self.key(ask), f"{ask.task}:{ask.question.doc_key}", answer)

    def _video(self, path: str) -> str:
        """Stand for a file by its name and content, wherever it lies."""
        if path not in self._videos:
            file = Path(path)
            self._videos[path] = f"{file.name} {fingerprint(file)}" if file.exists() else path
        return self._videos[path]
