"""Means, paired differences and their errors, by the harness's own functions, clustered by video."""

from dataclasses import dataclass

from lmms_eval.api.metrics import clustered_stderr

from lmms_kvtp.leaderboard.runs import Run


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, in points of 100."""

    mean: float
    stderr: float
    count: int

    def __str__(self) -> str:
        """`77.1 ± 1.4`."""
        return f"{self.mean:.1f} ± {self.stderr:.1f}"


def accuracy(run: Run) -> Estimate:
    """Accuracy of a run; questions on one video are one cluster."""
    return _estimate([record.score for record in run.records], [record.video for record in run.records])


def difference(run: Run, baseline: Run) -> Estimate:
    """Accuracy of `run` minus that of `baseline`, question by question.

    Raises:
        ValueError: the runs did not answer the same questions of one task.
    """
    ours, theirs = ([record.question for record in r.records] for r in (run, baseline))
    if run.task != baseline.task or ours != theirs:
        raise ValueError(
            f"{run.name} ({len(ours)} questions of {run.task}) and {baseline.name} ({len(theirs)} of {baseline.task}) "
            "did not answer the same questions; run both on the same task with the same --limit"
        )
    pairs = zip(run.records, baseline.records, strict=True)
    return _estimate([a.score - b.score for a, b in pairs], [record.video for record in run.records])


def _estimate(values: list[float], clusters: list[str]) -> Estimate:
    mean = sum(values) / len(values) if values else float("nan")
    return Estimate(100 * mean, 100 * clustered_stderr(values, clusters), len(values))
