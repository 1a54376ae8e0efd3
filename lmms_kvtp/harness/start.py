"""Begins a run: where its journal goes, and what it resumes from."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_eval.utils import get_datetime_str
from loguru import logger

from lmms_kvtp.embedded import cache
from lmms_kvtp.harness.plugin import run_folder
from lmms_kvtp.run.journal import Journal, Session, read
from lmms_kvtp.run.options import RunOptions


def open_session(run: RunOptions, setup: Mapping[str, Any], command: Namespace | None, rank: int) -> Session:
    """Read what is resumed from, and start the journal of this process.

    Args:
        run: settings.
        setup: everything that all answers depend on.
        command: the harness's command line; None when the run was started from Python.
        rank: of this process.

    Raises:
        FileNotFoundError: there is nothing to resume from.
        OSError: the journal's folder cannot be written.
    """
    earlier = read(Path(run.resume)) if run.resume else None
    folder = journal_folder(run.journal, command)
    if folder is None:
        return Session(setup, None, earlier)
    stamp = get_datetime_str(timezone=getattr(command, "timezone", "UTC"))  # as in the names of the results
    journal = Journal.create(folder, stamp, rank, setup)
    logger.info(f"answers are written to {journal.path} as they come")
    return Session(setup, journal, earlier)


def journal_folder(wanted: str, command: Namespace | None) -> Path | None:
    """Where the journal goes; None for nowhere."""
    if wanted == "none":
        return None
    if wanted != "auto":
        return Path(wanted)
    return run_folder(command) or cache.folder().parent / "journals"


def say_resumed(run: RunOptions, session: Session, count: int) -> None:
    """Say how many answers come from an earlier run, and why there are none if so."""
    if session.earlier is None:
        return
    logger.info(f"resumed {count} answers from {run.resume}")
    changed = session.earlier.difference(session.setup)
    if changed and not count and session.earlier.answers:
        logger.warning(
            f"{len(session.earlier.answers)} answers in {run.resume} are not used: "
            f"that run differs in {', '.join(changed)}"
        )
