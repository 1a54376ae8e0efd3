"""One run: what its answers depend on, which it had before, where they go, and what failed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run import source as fingerprint
from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.journal import Journal, Record


class Session:
    """Answers are reused only where asked for, and where nothing that they depend on has changed."""

    def __init__(self, setup: Mapping[str, Any], journal: Journal | None, earlier: Record | None) -> None:
        """Begin.

        Args:
            setup: everything that all answers of the run depend on.
            journal: where new answers go; None keeps them nowhere.
            earlier: answers of earlier runs.
        """
        self.setup, self.journal, self.earlier = setup, journal, earlier
        self.resumed = 0
        self.failures: list[str] = []
        self.resumed_elsewhere = self.failed_elsewhere = 0
        """Of the other ranks."""
        self._setup_digest = fingerprint.digest(setup)
        self._asked: Counter[str] = Counter()
        self._videos: dict[str, str] = {}

    def key(self, ask: Ask) -> str:
        """Everything that an answer depends on, as one hash."""
        return fingerprint.digest(
            {
                "setup": self._setup_digest,
                "task": [ask.task, ask.version],
                "question": asdict(ask.question),
                "videos": [self._video(path) for path in ask.visuals],
                "options": asdict(ask.options),
            }
        )

    def count(self, ask: Ask) -> int:
        """How often this was asked before in this run; answers that are sampled must differ."""
        known = [ask.task, ask.question.doc_key, ask.question.prompt, ask.visuals, asdict(ask.options)]
        self._asked[fingerprint.digest(known)] += 1
        return self._asked[fingerprint.digest(known)] - 1

    def has(self, ask: Ask) -> bool:
        """An earlier run answered this."""
        return self.earlier is not None and self.key(ask) in self.earlier.answers

    def find(self, key: str, ask: Ask) -> Answer | None:
        """The answer of an earlier run, which goes into this run's journal, too."""
        answer = self.earlier.answers.get(key) if self.earlier else None
        if answer is not None:
            self.resumed += 1
            self._write(key, ask, answer)
        return answer

    def keep(self, key: str, ask: Ask, answer: Answer) -> None:
        """Write a new answer down before anything else happens."""
        if answer.error is not None:
            self.failures.append(f"{ask.subject}: {answer.error}")
        self._write(key, ask, answer)

    def _write(self, key: str, ask: Ask, answer: Answer) -> None:
        if self.journal:
            self.journal.write(key, f"{ask.task}:{ask.question.doc_key}", answer)

    def _video(self, path: str) -> str:
        """Name and content of a file, wherever it lies."""
        if path not in self._videos:
            file = Path(path)
            self._videos[path] = f"{file.name} {fingerprint.of_path(file)}" if file.exists() else path
        return self._videos[path]
