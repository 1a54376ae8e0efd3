"""Print `names=a,b`: methods that run the components whose files differ from a commit; five at most.

python .ci/changed.py origin/main
"""

import subprocess
import sys
from pathlib import PurePath

ROWS = {
    "pruners": ("{0}", "kvtp+{0}"),
    "scorers": ("{0}/softmax+random",),
    "allocators": ("similarity/{0}+random",),
    "layer_pruning": ("{0}",),
    "encoders": ("kvtp+prumerge", "similarity+prumerge"),
}
"""What to run for a component, by its folder."""
SHARED = ("kvtp+prumerge", "kvtp+tome", "vidcom2", "fastv")
"""What to run where a change is in what components share."""


def rows(files: list[str]) -> list[str]:
    """Methods that run the changed files, each once."""
    found: dict[str, None] = {}
    for file in files:
        _, part, *rest = PurePath(file).parts
        name = PurePath(rest[-1]).stem
        if part not in ROWS or not file.endswith(".py") or name in ("__init__", "none"):
            continue
        shared = len(rest) > 1 or name == "base"
        found |= dict.fromkeys(SHARED if shared else [row.format(name) for row in ROWS[part]])
    return list(found)


if __name__ == "__main__":
    command = ["git", "diff", "--name-only", "--diff-filter=AM", f"{sys.argv[1]}...HEAD", "--", "lmms_kvtp"]
    changed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    print(f"names={','.join(rows(changed)[:5])}")
