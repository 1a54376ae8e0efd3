"""How often verdicts are wrong, by simulation: coverage of intervals, size of tests and power, on clustered questions.

    python benchmarks/verdicts.py

In each setting pairs of runs are drawn whose truth is known, and go through the functions that pages use. A question's
outcome (lost, gained, or unchanged) is that of its video with the probability `alike`, else its own. Writes
benchmarks/results/verdicts.json.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.stats

from lmms_kvtp.leaderboard.runs import Run, ScoredAnswer
from lmms_kvtp.leaderboard.stats import bootstrap_interval, difference, equality, flips, holm, p_value

RESULTS = Path(__file__).parent / "results" / "verdicts.json"
DRAWS, FAMILY, MARGIN = 2000, 5, 3.0
SETTINGS = [(25, 4, 0.3), (105, 4, 0.3), (150, 1, 0.0)]
"""Videos, questions on each, and how alike the questions on one video are."""
CHANGES = (0.0, 0.05)
"""Share of questions that are lost and as many that are gained, beside the difference itself."""


def drawn(
    rng: np.random.Generator, videos: int, each: int, alike: float, lost: float, gained: float
) -> tuple[Run, Run]:
    """A run and its baseline."""
    shared = rng.random((videos, each)) < alike
    place = np.where(shared, rng.random((videos, 1)), rng.random((videos, each))).ravel()
    change = np.where(place < lost, -1.0, np.where(place < lost + gained, 1.0, 0.0))
    base = np.where(change < 0, 1.0, np.where(change > 0, 0.0, rng.random(change.size) < 0.7))
    made = [
        tuple(
            ScoredAnswer(f"q{i}", f"v{i // each}", "", float(score), None, None)
            for i, score in enumerate(scores.tolist())
        )
        for scores in (base + change, base)
    ]
    return Run("x", "task", made[0], {}), Run("y", "task", made[1], {})


def found(run: Run, base: Run, videos: int) -> float:
    """The p-value of a difference, as `leaderboard.verdicts.compare` makes it."""
    changes = flips(run, base)
    return max(p_value(difference(run, base), videos), changes.p_value if changes else 0.0)


def plain_tost(run: Run, base: Run, videos: int) -> float:
    """Two one-sided tests with the clustered error alone, for comparison."""
    gap = difference(run, base)
    if not gap.stderr:
        return float(abs(gap.mean) >= MARGIN)
    return float(scipy.stats.t(videos - 1).sf((MARGIN - abs(gap.mean)) / gap.stderr))


def rows(draws: int) -> Iterator[dict[str, float]]:
    """One line for each setting and share of changes."""
    for videos, each, alike in SETTINGS:
        for change in CHANGES:
            rng = np.random.default_rng([videos, each, round(10 * alike), round(100 * change)])
            setting = (videos, each, alike)
            covered, at_margin, plain, equal, nulls, resolved = 0, 0, 0, 0, [], []
            for _ in range(draws):
                low, high = bootstrap_interval(*drawn(rng, *setting, change + 0.08, change + 0.02))  # 6 points are lost
                covered += low <= -6.0 <= high
                nulls.append(found(*drawn(rng, *setting, change + 0.03, change + 0.03), videos))
                edge = drawn(rng, *setting, change + MARGIN / 100, change)
                at_margin += equality(*edge, MARGIN)[0] < 0.05
                plain += plain_tost(*edge, videos) < 0.05
                p_equal, least = equality(*drawn(rng, *setting, change + 0.01, change + 0.01), MARGIN)
                equal += p_equal < 0.05
                resolved.append(least)
            families = [nulls[start : start + FAMILY] for start in range(0, draws, FAMILY)]
            yield {
                "videos": videos,
                "questions_each": each,
                "alike": alike,
                "change_beside": change,
                "coverage_95": covered / draws,
                "size_difference_5": float(np.mean(np.array(nulls) < 0.05)),
                f"any_of_{FAMILY}_after_holm": float(np.mean([min(holm(one)) < 0.05 for one in families])),
                "size_equality_5": at_margin / draws,
                "size_plain_tost_5": plain / draws,
                "equal_rows_found_equal": equal / draws,
                "resolvable_points": round(float(np.median(resolved)), 2),
            }


def main() -> None:
    """Draw, print each setting, and write the results of a full run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=DRAWS)
    draws = parser.parse_args().draws
    began, lines = time.perf_counter(), []
    for line in rows(draws):
        lines.append(line)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        report = {"draws": draws, "margin": MARGIN, "error_of_a_share": round(math.sqrt(0.05 * 0.95 / draws), 4)}
        if draws == DRAWS:
            RESULTS.write_text(json.dumps({**report, "rows": lines}, indent=1) + "\n")
    sys.stderr.write(f"{time.perf_counter() - began:.0f} s\n")


if __name__ == "__main__":
    main()
