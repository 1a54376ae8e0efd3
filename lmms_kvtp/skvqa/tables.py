"""Annotation files: parquet, CSV, JSON and JSON Lines, or folders of them, row by row."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
SUFFIXES = (".parquet", ".csv", ".json", ".jsonl")


class TableError(ValueError):
    """An annotation file cannot be read; the message names it, its row, and the cause."""


def rows(path: Path) -> Iterator[tuple[Path, int, Row]]:
    """File, number and content of each row, files in order of their names.

    A JSON file holds a list of objects, or one object whose values are objects: their names become the field "_key".

    Raises:
        TableError: no such file, or one that cannot be read.
    """
    if not path.exists():
        raise TableError(f"no annotations at {path}")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    if not files:
        raise TableError(f"no annotations in {path}: wanted files ending in {', '.join(SUFFIXES)}")
    for file in files:
        try:
            for number, row in enumerate(_read(file), start=1):
                if not isinstance(row, Mapping):
                    raise TableError(f"{file}, row {number} is a {type(row).__name__}, not an object")
                yield file, number, row
        except (ValueError, OSError) as error:
            raise error if isinstance(error, TableError) else TableError(f"cannot read {file}: {error}") from error


def _read(file: Path) -> Iterator[Any]:
    if file.suffix == ".parquet":
        from pyarrow import parquet

        for batch in parquet.ParquetFile(file).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    elif file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as handle:
            yield from csv.DictReader(handle)
    elif file.suffix == ".jsonl":
        with file.open(encoding="utf-8") as handle:
            yield from (json.loads(line) for line in handle if line.strip())
    else:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            found = [{"_key": key, **value} if isinstance(value, dict) else value for key, value in found.items()]
        if not isinstance(found, list):
            raise TableError(f"{file} holds a {type(found).__name__}, not a list of questions")
        yield from found
