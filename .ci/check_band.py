"""Fail unless a sweep's accuracies lie in their bands, and those of the planted bugs outside theirs.

lmms-kvtp sweep --methods "$(python .ci/check_band.py --methods)" --out DIR
python .ci/check_band.py DIR
"""

import json
import sys
from pathlib import Path

from lmms_kvtp.commands.sweep import plan
from lmms_kvtp.leaderboard.runs import read_runs
from lmms_kvtp.leaderboard.stats import accuracy

BAND = json.loads((Path(__file__).parent / "band.json").read_text())
PLANTED = {"planted:Shuffled": "random", "planted:Inverted/softmax+random": "kvtp+random"}
"""A broken part, and the row whose band it must fall out of."""
RATIO = 0.2


def main() -> None:
    """Compare each row with its band."""
    if sys.argv[1:] == ["--methods"]:
        print(",".join([*BAND["rows"], *PLANTED]))
        return
    wrong = []
    for cell in plan([*BAND["rows"], *PLANTED], [RATIO]):
        [run] = read_runs(Path(sys.argv[1]) / cell.folder, cell.name)
        low, high = BAND["rows"][PLANTED.get(cell.method, cell.method)]
        found, planted = accuracy(run).mean, cell.method in PLANTED
        verdict = "inside" if low <= found <= high else "outside"
        print(f"{cell.name:45} {found:5.1f} %, {verdict} {low} to {high}{' (planted bug)' if planted else ''}")
        if (verdict == "outside") != planted:
            wrong.append(cell.name)
    if wrong:
        sys.exit(f"{', '.join(wrong)}: a part is broken, or the band lets broken parts pass; see .ci/band.json")


if __name__ == "__main__":
    main()
