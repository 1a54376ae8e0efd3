"""What `lmms-kvtp table` writes of finished runs, and where; that sweeps finish is tests/e2e/test_sweep.py's matter."""

from pathlib import Path

import pytest
from helpers.harness_files import BASE, OURS, samples, write_base, write_run

from lmms_kvtp.__main__ import main
from lmms_kvtp.commands import table
from lmms_kvtp.commands.table import HEADLINE, MORE
from lmms_kvtp.leaderboard.runs import read_runs

OLD = {name: f"<!-- {name} -->\n{name} of old\n<!-- /{name} -->\n" for name in ("headline", "seeds", "table")}


@pytest.fixture(autouse=True)
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of all cells that are asked for stand there already."""

    def sweep(cells, task, common, out, limit):
        for cell in cells:
            if cell.method == "full":
                write_base(out / cell.folder, BASE)
            else:
                write_run(out / cell.folder, samples(OURS), keep_ratio=cell.keep_ratio)
        return [run for cell in cells for run in read_runs(out / cell.folder, cell.name)]

    monkeypatch.setattr(table, "sweep", sweep)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with what an earlier command wrote."""
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "benchmark.md"
    page.write_text("".join(OLD.values()))
    return page


def test_the_main_rows_of_the_page_leave_its_other_table_alone(tmp_path: Path, page: Path) -> None:
    assert main(["table", "--headline", "--out", str(tmp_path / "runs"), "--into", str(tmp_path)]) == 0
    assert OLD["seeds"] in page.read_text()  # there is one checkpoint
    short = page.read_text().partition("<!-- headline -->\n")[2].partition("<!--")[0]
    assert [line.split()[1].rstrip(",") for line in short.splitlines()[2:]] == [
        *HEADLINE,
        *(n.partition(",")[0] for n in MORE),
    ]
    assert OLD["table"] in page.read_text()
    assert page.read_text().count("| kvtp+prumerge 20%") == 1
    assert not list(tmp_path.rglob("*.svg"))


def test_all_rows_take_the_place_of_all_tables(tmp_path: Path, page: Path) -> None:
    where = ["--out", str(tmp_path / "runs"), "--into", str(tmp_path), "--no-figures"]
    assert main(["table", "--ratios", "0.1,0.2", "--checkpoints", "tiny,other", *where]) == 0
    assert not any(text in page.read_text() for text in OLD.values())
    assert page.read_text().count("| kvtp+prumerge 20%") == 3
    assert page.read_text().count("| tome 10%") == 1
