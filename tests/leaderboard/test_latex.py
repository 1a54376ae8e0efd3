"""The LaTeX table compiles, where there is a LaTeX, and prints every name as it is."""

import shutil
import subprocess

import pytest
from helpers.harness_files import BASE, OURS, read_board, samples, write_base, write_run

from lmms_kvtp.leaderboard.tables import to_latex

LATEX = shutil.which("pdflatex")
pytestmark = pytest.mark.skipif(LATEX is None, reason="no LaTeX here")
PAGE = r"""\documentclass{article}
\usepackage{booktabs}
\begin{document}
Table~\ref{tab:t-input-x-a-b-1} says:
\input{table}
\end{document}
"""
NAMES = ("\\input{x}", "[2cm] low", "*star", "a_b^c~d$e$#1&2%", "<b>|`x`", "{", "\\write18{touch hacked}")


def test_the_table_compiles_and_prints_hostile_names_as_they_are(tmp_path):
    task = "t}\\input{x}$a_b$%1"
    write_base(tmp_path / "full", BASE, task)
    for number, name in enumerate(NAMES):
        write_run(tmp_path / str(number), samples(OURS), task, {"pruner": {"class": f"evil:{name}"}})
    (tmp_path / "table.tex").write_text(to_latex(read_board(tmp_path)))
    (tmp_path / "page.tex").write_text(PAGE)
    for _ in range(2):  # the second knows the table's number
        command = [LATEX, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "page.tex"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert run.returncode == 0, run.stdout[-2000:]
    assert "undefined" not in run.stdout and not (tmp_path / "hacked").exists()
    if reader := shutil.which("pdftotext"):
        text = subprocess.run([reader, "-layout", "page.pdf", "-"], cwd=tmp_path, capture_output=True, text=True).stdout
        words = " ".join(text.split())
        assert "Table 1 says:" in words and "Table 1: Accuracy in %" in words
        drawn = {95: " ", 94: "\u02c6", 126: "\u02dc"}  # an underscore is a line, and two others are accents alone
        for name in NAMES:
            assert f"{name.translate(drawn)} 25.0%" in words, words
