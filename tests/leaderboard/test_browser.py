"""The page in a real browser, where there is one: it sorts, filters, logs no error and fits a phone."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.harness_files import COST, read_board, samples, write_base, write_run

from lmms_kvtp.leaderboard.page import SAMPLES, to_html
from lmms_kvtp.leaderboard.provenance import reported
from lmms_kvtp.leaderboard.results import sample_script
from lmms_kvtp.rendering import page as page_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
STEPS = """<script>(() => {
const log = [], body = document.querySelector("#rows tbody");
const name = row => row.cells[0].firstChild.textContent.trim();
const first = () => [...body.rows].filter(row => !row.hidden).map(name);
const heads = [...document.querySelectorAll("#rows thead button")];
const head = title => heads.find(button => button.textContent === title);
head("vision tokens").click(); log.push("tokens down: " + first());
head("vision tokens").click(); log.push("tokens up: " + first());
head("method").click(); log.push("method: " + first());
const words = document.getElementById("words");
const type = text => { words.value = text; words.dispatchEvent(new Event("input")); };
type("GRID skvqa"); log.push("filter: " + first());
type("grid toy"); log.push("filter: " + first());
type("");
const ratio = document.getElementById("ratio"); ratio.value = "25.0%"; ratio.dispatchEvent(new Event("change"));
log.push("ratio: " + first());
const wide = document.documentElement.scrollWidth > window.innerWidth;
log.push("wider than the window: " + wide);
parent.postMessage(log, "*");
})()</script></body>"""
FRAME = """<!DOCTYPE html><body><script>
const paragraph = text => Object.assign(document.createElement("p"), {textContent: text});
addEventListener("message", event => document.body.append(...event.data.map(paragraph)));
</script><iframe src="PAGE" style="border: 0; width: WIDTHpx; height: 800px"></iframe></body>"""


def told(page: Path, width: int) -> list[str]:
    """What the script of a page tells of it in a frame so wide, since no window is as narrow as a phone's."""
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("PAGE", page.name).replace("WIDTH", str(width)))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", "--dump-dom"]
    command += ["--virtual-time-budget=5000", "--enable-logging=stderr", f"file://{frame}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert not [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    return [html.unescape(text) for text in re.findall("<p>(.*?)</p>", run.stdout, re.DOTALL)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    grid = {"pruner": {"class": "lmms_kvtp.pruners.grid:Grid"}}
    write_base(folder / "full", [1, 1, 0, 1])
    write_run(folder / "random", samples([1, 0, 0, 1]))
    cost = {"tokens_before": 100, "tokens_kept": 9, "flops": {"vision": 5}}
    write_run(folder / "grid", samples([1, 0, 0, 0], cost=cost), parts=grid, keep_ratio=0.09)
    path = folder / "index.html"
    path.write_text(to_html(read_board(folder), reported(), {}).replace("</body>", STEPS))
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_sorts_filters_and_fits(page, width):
    assert told(page, width) == [
        "tokens down: all tokens,random,Grid",
        "tokens up: Grid,random,all tokens",
        "method: all tokens,Grid,random",
        "filter: ",
        "filter: Grid",
        "ratio: random",
        "wider than the window: false",
    ]


HOSTILE = "</script><img src=x onerror=document.title='run'>"
LOOK = """<script>(() => {
const log = [by("count").textContent, document.title, String(document.querySelectorAll("img").length)];
const cells = row => [...row.cells].map(cell => cell.textContent).join("|");
const choose = value => {
  by("which").value = value; by("which").dispatchEvent(new Event("change"));
  log.push(by("count").textContent, ...[...by("list").querySelectorAll("tr")].map(cells));
};
choose("differ"); choose("1");
log.push("wider than the window: " + (document.documentElement.scrollWidth > window.innerWidth));
parent.postMessage(log, "*");
})()</script></body>"""


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_single_questions_opens_from_disk_and_runs_no_text_of_a_question(tmp_path, width):
    write_base(tmp_path / "full", [1, 1, 0, 1], told_answers="PQRS")
    rows = samples([1, 0, 0, 1], cost={**COST, "kept_by_frame": [0, 14, 25]})
    for row, answer in zip(rows, ("p", HOSTILE, "r", "s"), strict=True):
        row["filtered_resps"] = [answer]
    write_run(tmp_path / "random", rows)
    (tmp_path / "samples.js").write_text(sample_script(read_board(tmp_path)))
    (tmp_path / "samples.html").write_text(page_of(SAMPLES).replace("</body>", LOOK))
    assert told(tmp_path / "samples.html", width) == [
        "4 of 4 questions",
        "Vision-token pruning: single questions",
        "0",
        "1 of 4 questions",
        "all tokens|Q ✓|",
        f"random, 25%|{HOSTILE} ✗|·▃▆",
        "2 of 4 questions",
        *("all tokens|Q ✓|", f"random, 25%|{HOSTILE} ✗|·▃▆", "all tokens|R ✗|", "random, 25%|r ✗|·▃▆"),
        "wider than the window: false",
    ]
