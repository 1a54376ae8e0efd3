"""Fail unless a harness run left a results file, and samples that carry their cost."""

import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
results = sorted(folder.rglob("*_results.json"))
samples = sorted(folder.rglob("*_samples_*.jsonl"))
if not results or not samples:
    sys.exit(f"no results or samples below {folder}: the harness run failed; run it with --verbosity DEBUG")
rows = [json.loads(line) for line in samples[-1].read_text().splitlines()]
costs = [row["token_counts"][0] for row in rows]
if not costs or not all(cost and 0 < cost["tokens_kept"] < cost["tokens_before"] for cost in costs):
    sys.exit(f"samples without cost in {samples[-1]}")
kept, before = (sum(cost[name] for cost in costs) for name in ("tokens_kept", "tokens_before"))
print(f"{len(rows)} answers, {kept} of {before} vision tokens kept ({kept / before:.1%})")
