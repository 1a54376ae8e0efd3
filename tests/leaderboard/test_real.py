"""The board of real weights: a file that `lmms-kvtp prove` made, what is refused, and what is shown of the rest."""

import copy
import json
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.harness_files import BASE, COST, OURS, samples, write_pair, write_run
from helpers.small_videos import write_video
from helpers.tags import Tags

from lmms_kvtp.__main__ import main
from lmms_kvtp.leaderboard.discover import LeftOut, read_proofs
from lmms_kvtp.leaderboard.page import real_weights
from lmms_kvtp.leaderboard.runs import read_runs
from lmms_kvtp.leaderboard.verdicts import paired_rows

ROOT = Path(__file__).parents[2]
HOSTILE = "</td></script><script>alert(1)</script><img src=q onerror=alert(2)>\"'{{7*7}}"
FAR, NAN = (
    {
        "on": "clip",
        "checks": [{"name": "x", "difference": 0.01, "allowed": 0.1}, {"name": "y", "difference": d, "allowed": 0.1}],
    }
    for d in (0.2, None)
)


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    """A proof on random weights in the original layout; its paired comparison is of written runs, which is quick."""
    folder = tmp_path_factory.mktemp("proof")
    fields = dict.fromkeys(["mm_use_im_patch_token", "mm_use_im_start_end"], False)
    weights = write_tiny(folder / "random", fields=fields, dtype=torch.float16)
    clip = write_video(folder / "clip.mp4", seconds=2)
    words = ["prove", "--pretrained", str(weights), "--clip", str(clip), "--max-frames", "3", "--tasks", "none"]
    assert main([*words, "--methods", "random", "--out", str(folder / "out")]) == 0
    content = json.loads((folder / "out" / "proof.json").read_text())
    for name, scores, kept in (("full", BASE, 100), ("random 20%", OURS, 20)):
        write_run(folder / name, samples(scores, cost={**COST, "tokens_kept": kept}))
    found, _ = paired_rows([run for name in ("full", "random 20%") for run in read_runs(folder / name, name)])
    content["steps"][-1] = {"name": "paired", "status": "done", "reason": None, "seconds": 1.0}
    content["steps"][-1]["found"] = json.loads(json.dumps(found))
    return content


def board(folder: Path, **files) -> Tags:
    """The page of some proofs."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return Tags(real_weights(*read_proofs(folder)))


def changed(proof, **steps):
    """A copy in which some fields of some steps are others."""
    new = copy.deepcopy(proof)
    for step in new["steps"]:
        step |= steps.get(step["name"], {})
    return new


def test_the_rows_of_a_proof_stand_on_a_board_of_their_own(proof, tmp_path, capsys):
    board(tmp_path / "real", model__gpu__1=proof)
    write_pair(tmp_path / "runs")
    out = tmp_path / "out"
    assert main(["leaderboard", "--real", str(tmp_path / "real"), "--out", str(out)]) == 0
    assert "real.html: 1 proofs on real weights" in capsys.readouterr().out
    assert [path.name for path in out.iterdir()] == ["real.html"]
    page = Tags((out / "real.html").read_text())
    cost, load = (next(s["found"] for s in proof["steps"] if s["name"] == name) for name in ("cost", "load"))
    seconds = cost["methods"][1]["first_token_seconds"]
    assert page.rows[1][:5] == ["full", "skvqa_synth", "83.3 ± 15.2", "-", "-"]
    row = proof["steps"][-1]["found"]["rows"][1]
    told = [f"{row['accuracy']:.1f} ± {row['stderr']:.1f}", f"-33.3 ± {row['against_all_tokens']['stderr']:.1f}"]
    assert page.rows[2][:5] == ["random 20%", "skvqa_synth", *told, "-50.0 to +0.0"] and told[0].startswith("50.0 ± 25")
    assert page.rows[2][5].startswith("can't tell: -33.3") and page.rows[2][6:9] == ["6", "20", "20.0 %"]
    assert page.rows[2][9] == f"{seconds:.2f}"
    assert f"weights {load['weights'][:12]}" in page.text and "random on " in page.text
    assert "transformers_logits: done" in page.text and "stock_tokens: not run" in page.text
    command = ["leaderboard", str(tmp_path / "runs"), "--real", str(tmp_path / "real"), "--out", str(out)]
    assert main(command) == 0
    index = Tags((out / "index.html").read_text())
    assert ("href", "real.html") in index.attributes and told[1] in index.text
    assert "model__gpu__1" not in index.text


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            {"transformers_logits": {"status": "failed", "reason": "far off", "found": FAR}},
            "No row is shown: the logits",
        ),
        ({"transformers_logits": {"status": "failed", "reason": "NaN", "found": NAN}}, "No row is shown: the logits"),
        ({"transformers_logits": {"status": "not run", "reason": "no time", "found": None}}, "No row is shown"),
        ({"paired": {"status": "not run", "reason": "no data", "found": None}}, "There is no row"),
    ],
)
def test_rows_are_shown_only_where_logits_agree_and_a_task_ran(proof, tmp_path, steps, words):
    page = board(tmp_path / "real", one=changed(proof, **steps))
    [told] = steps.values()
    assert words in page.text and told["reason"] in page.text and page.rows == []


def test_what_is_no_proof_on_real_weights_is_refused_and_named(proof, tmp_path, capsys):
    load = next(step["found"] for step in proof["steps"] if step["name"] == "load")
    bad = {
        "a": (changed(proof, load={"found": {**load, "toy": True}}), "it is of the embedded model"),
        "b": ("{", "not JSON"),
        "c": (changed(proof, load={"found": {**load, "weights": "0123"}}), "$.steps[0]"),
        "d": (json.dumps(proof).replace("83.33333333333334", "NaN", 1), "not a proof"),
        "e": ({**proof, "command": "prove --clip /home/jo/a.mp4"}, "not a proof: $.command"),
    }
    page = board(tmp_path / "real", good=proof, **{name: content for name, (content, _) in bad.items()})
    assert main(["leaderboard", "--real", str(tmp_path / "real"), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().out
    for name, (_, reason) in bad.items():
        assert f"! refused: {name}.json: " in told
        assert reason in next(line for line in told.splitlines() if f"{name}.json" in line)
    assert len(page.rows) == 3 and "Refused" in page.text


def test_other_weights_under_one_name_and_uncommitted_changes_are_marked(proof, tmp_path):
    load = next(step["found"] for step in proof["steps"] if step["name"] == "load")
    clean = {**proof, "dirty": False}
    assert "other weights" not in board(tmp_path / "real", a=clean, b=clean).text
    page = board(tmp_path / "real", b={**changed(proof, load={"found": {**load, "weights": "0" * 64}}), "dirty": True})
    assert page.text.count("another proof of this name is of other weights") == 2
    assert page.text.count("uncommitted changes") == 1


def test_a_step_that_did_not_run_leaves_dashes(proof, tmp_path):
    nothing = {"status": "failed", "reason": "no clip", "found": None}
    cells = board(tmp_path / "real", one=changed(proof, cost=nothing, answers=nothing)).rows[2]
    assert cells[9:] == ["-", "-", "-"]
    gone = dict.fromkeys([step["name"] for step in proof["steps"]], nothing)
    assert "weights that were not loaded" in board(tmp_path / "none", one=changed(proof, **gone)).text


def test_nothing_hostile_in_a_proof_becomes_a_tag(proof):
    def spoil(value):
        if isinstance(value, dict):
            return {key: item if key in ("name", "status") else spoil(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoil(item) for item in value]
        return HOSTILE if isinstance(value, str) else value

    spoiled = spoil(proof)
    steps = {step["name"]: step for step in spoiled["steps"]}
    page = Tags(real_weights([{**spoiled, "file": HOSTILE, "steps": steps}], [LeftOut(HOSTILE, HOSTILE)]))
    assert not {"script", "img"} & {*page.tags} and not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("{{7*7}}") > 10 and len(page.rows) == 3


def test_where_there_is_no_proof_the_page_says_so_and_how_one_is_added(tmp_path):
    page = Tags(real_weights([], []))
    assert "There is none yet" in page.text and "by a pull request" in page.text and "leaderboard/real" in page.text
    assert "script" not in page.tags and page.rows == []


def test_every_proof_in_the_repository_is_shown():
    """There may be none yet."""
    assert read_proofs(ROOT / "leaderboard" / "real")[1] == []


def test_nothing_to_show_and_no_folder_are_named(tmp_path, capsys):
    for words, told in (([], "there is nothing to show; name folders"), (["--real", "nowhere"], "no folder nowhere;")):
        with pytest.raises(SystemExit):
            main(["leaderboard", "--out", str(tmp_path / "out"), *words])
        assert told in capsys.readouterr().err
