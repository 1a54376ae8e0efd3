"""`lmms-kvtp bench e2e --task` through the harness's own command line."""

import pytest

from lmms_kvtp.__main__ import main


@pytest.mark.slow
def test_a_task_is_run_and_its_stages_stand_beside_their_floors(capfd):
    given = ["--task", "skvqa_synth_quick", "--limit", "2", "--model_args", "pretrained=tiny,keep_ratio=0.2,device=cpu"]
    assert main(["bench", "e2e", *given]) == 0
    written = capfd.readouterr().out
    assert written.startswith("2 answers, the warm-up included: 2 on the first video of a process; matrix products: ")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in written.splitlines() if line.startswith("| ")]
    found = {row[0]: row[1:] for row in rows}
    for stage in ("decode", "vision", "encoder", "prefill"):
        assert float(found[stage][0]) > 0 and float(found[stage][2]) > 0
