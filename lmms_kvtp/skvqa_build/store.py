"""Finished calls by the hash of what was asked, so that a build can be resumed and its cost counted."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmms_kvtp.files import fingerprint

BUSY_SECONDS = 60.0
"""Seconds that a builder waits for another that is writing."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".json", ".txt", ".model")
"""Suffixes of weights, configurations and tokenizers: an index beside them changes no answer."""


class StoreError(OSError):
    """The store cannot be read or written."""


@dataclass(frozen=True)
class Usage:
    """Calls and tokens of one step with one model."""

    step: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Store:
    """A SQLite file: an answer is on disk when `put` returns, and several builders may share the file."""

    path: Path

    def __post_init__(self) -> None:
        """Make the file if need be; StoreError where it cannot be written, or is something else."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._explained(error) from error
        with self._open() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, step TEXT NOT NULL, model TEXT NOT NULL, "
                "text TEXT NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL)"
            )

    def get(self, key: str) -> str | None:
        """Read the text of a finished call; None where it is not finished."""
        with self._open() as connection:
            row = connection.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(
        self, key: str, text: str, step: str, model: str = "", input_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        """Store a finished call; the first of two with one key stays. StoreError where the file cannot be written."""
        row = (key, step, model, text, input_tokens, output_tokens)
        with self._open() as connection:
            connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)

    def usage(self) -> list[Usage]:
        """Sum up calls and tokens by step and model, over all starts of the build."""
        query = "SELECT step, model, COUNT(*), SUM(input_tokens), SUM(output_tokens) FROM answers GROUP BY 1, 2"
        with self._open() as connection:
            return [Usage(*row) for row in connection.execute(query + " ORDER BY 1, 2")]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> StoreError:
        return StoreError(
            f"cannot use the store {self.path}: {error}; free some space there, or choose another --out. "
            "Finished calls in it are kept"
        )


def weights_of(checkpoint: str | Path) -> str:
    """A fingerprint of a model that runs here, so that the calls of one are not taken for another's.

    Empty where `checkpoint` is not a folder: a hub's id names its weights itself.
    """
    folder = Path(checkpoint)
    return fingerprint(folder, counts=lambda file: file.suffix in WEIGHTS) if folder.is_dir() else ""
