"""`lmms-kvtp bench e2e` on journals."""

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.cost import SampleCost
from lmms_kvtp.model_wrappers.journal import Journal
from lmms_kvtp.pipeline import Answer


def journal(folder, rank, **cost):
    made = Journal.create(folder, "20260102_030405", rank, {})
    if cost:
        made.write(f"key{rank}", f"document{rank}", Answer("A", SampleCost(**cost)))
    return str(made.path)


def test_journals_of_all_ranks_count(tmp_path, capsys):
    files = [journal(tmp_path, rank, seconds={"decode": 1.25 + rank, "prefill": 0.5}) for rank in (0, 1)]
    assert main(["bench", "e2e", *files]) == 0
    written = capsys.readouterr().out
    assert "2 answers" in written
    assert "| decode                      | 3.50    | 77.8      |" in written


@pytest.mark.parametrize(
    ("cost", "message"), [({}, "holds no answers"), ({"swept": True, "seconds": {"decode": 1.0}}, "is of a sweep")]
)
def test_runs_that_say_nothing_of_time_are_refused(tmp_path, capsys, cost, message):
    with pytest.raises(SystemExit):
        main(["bench", "e2e", journal(tmp_path, 0, **cost)])
    assert message in capsys.readouterr().err
