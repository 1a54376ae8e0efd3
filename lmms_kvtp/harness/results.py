"""The two ends of a run in the harness: its journal at the start; counts, failures and throughput at the end."""

from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.utils import get_datetime_str
from loguru import logger

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.files import home
from lmms_kvtp.harness.plugin import run_folder
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.rendering import first_few, visible
from lmms_kvtp.run.journal import Journal, Session, read
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.run.source import of_encoder
from lmms_kvtp.shipped import TOY


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
        ValueError: the name of the output folder is no text.
    """
    out = str(run_folder(command) or "")
    if out != visible(out):  # the harness would leave an empty file, and exit with 0
        raise ValueError(f"--output_path {visible(out)} has characters that are no text; choose another folder")
    earlier = read(Path(run.resume)) if run.resume else None
    folder = journal_folder(run.journal, command)
    if folder is None:
        return Session(setup, None, earlier)
    stamp = get_datetime_str(timezone=getattr(command, "timezone", "UTC"))  # as in the names of the results
    journal = Journal.create(folder, stamp, rank, setup)
    logger.info(f"answers are written to {journal.path} as they come")
    return Session(setup, journal, earlier)


def journal_folder(wanted: str, command: Namespace | None) -> Path | None:
    """Find the folder of the journal; None where there is to be none."""
    if wanted == "none":
        return None
    if wanted != "auto":
        return Path(wanted)
    return run_folder(command) or home() / "journals"


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


@dataclass
class CostCounts(TokenCounts):  # type: ignore[misc]
    """Token counts with the ledger of each answer beside them: `token_counts` of a sample file."""

    answers: tuple[Answer, ...] = ()
    """One answer, or in a conversation one for each turn."""
    toy: bool = False
    """The embedded model made the answers."""

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON: the harness's counts, the cost, and an error or a TOY mark where there is one."""
        values: dict[str, Any] = super().to_dict()
        ledgers = [one.cost.to_dict() if one.error is None else {"error": one.error} for one in self.answers]
        values |= ledgers[0] if len(ledgers) == 1 else {"rounds": ledgers}
        return values | ({"toy": True} if self.toy else {})


def result(answers: Sequence[Answer], toy: bool) -> GenerationResult:
    """Wrap answers for the harness. `input_tokens` is what the language model's prefill really processed."""
    costs = [answer.cost for answer in answers if answer.error is None]
    counts = CostCounts(
        input_tokens=sum(cost.prompt_tokens for cost in costs) if costs else None,
        output_tokens=sum(cost.output_tokens for cost in costs) if costs else None,
        answers=tuple(answers),
        toy=toy,
    )
    return GenerationResult("".join(answer.text for answer in answers[-1:]), counts)


CIRCULAR = "circular: the index was made by the encoder that this row scores with"
"""Note on a task whose questions were scored by the method's own encoder: they suit it, whatever it is worth."""


def notes_on(method: Method, tasks: Mapping[str, Iterable[Sequence[str] | None]]) -> dict[str, str]:
    """Say of each task what a reader of its scores must know.

    Encoders are the same if their weights are, under any name; by their names only where no fingerprint is known.

    Args:
        method: that answers.
        tasks: name and fingerprint of the encoder that scored a question for the task's index, by task; None where
            captions were scored.
    """
    listed = {task: {tuple(one) for one in encoders if one} for task, encoders in tasks.items()}
    asked = method.scorer.query_aware and method.allocator.query_aware
    if not any(listed.values()) or not (asked and method.scorer.needs & method.encoder.provides):
        return {}
    own, name = of_encoder(method.encoder), getattr(method.encoder, "pretrained", "")
    return {
        task: CIRCULAR
        for task, encoders in listed.items()
        if any(weights == own if weights and own else other == name for other, weights in encoders)
    }


def report(answers: Sequence[Answer], failures: Sequence[str], toy: bool) -> None:
    """Say what failed, and give the harness its throughput summary.

    Args:
        answers: of all processes.
        failures: subject and cause of each sample that failed.
        toy: the embedded model made them.
    """
    if failures:
        shown = first_few(failures, 5, "\n  ")
        logger.error(f"{len(failures)} samples could not be answered; they count as empty answers:\n  {visible(shown)}")
    costs = [answer.cost for answer in answers if answer.error is None]
    patched = round(sum(cost.frames_patched / cost.questions_on_video for cost in costs))  # once for each video
    if patched:
        seen = sum(cost.frames_patched > 0 for cost in costs)
        logger.warning(f"{patched} frames are damaged, and a codec patched them; {seen} answers saw some")
    if costs:
        _log_throughput(costs, len(failures), patched)
    if toy:
        logger.warning(TOY)


def _log_throughput(costs: Sequence[SampleCost], failed: int, patched: int) -> None:
    seconds = sum(cost.seconds_total for cost in costs)
    smaller = sum(cost.smaller_batch for cost in costs)
    tokens = sum(cost.output_tokens for cost in costs)
    means = {
        "num_requests": len(costs),
        "samples_that_could_not_be_read": failed,
        "frames_that_could_not_be_read": patched,
        "vision_tokens_kept": sum(cost.tokens_kept for cost in costs) / len(costs),
        "keep_ratio_actual": sum(cost.keep_ratio_actual for cost in costs) / len(costs),
        **({"answers_in_smaller_batches": smaller} if smaller else {}),
    }
    log_metrics(seconds, tokens, tokens / seconds if seconds else 0.0, means)
