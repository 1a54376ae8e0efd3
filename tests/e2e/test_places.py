"""Commands where nothing can be written but one folder: each works, or ends in one line that names the way out."""

import os
import subprocess
import sys

import pytest
from helpers.harness_files import write_pair
from helpers.places import READ_ONLY, mounted
from helpers.skvqa_lookalikes import write_json, write_video

PLACES = {"TMPDIR": "tmp", "HF_HOME": "hf", "LMMS_KVTP_HOME": "home", "MPLCONFIGDIR": "matplotlib"}
"""Variables that say where files go, and folders for them."""


@pytest.fixture
def read_only(tmp_path):
    """Runs `lmms-kvtp` where only `tmp_path` can be written; `named`: whether PLACES are below it."""

    def run(*arguments, named):
        own = {name: str(tmp_path / place) for name, place in PLACES.items()} if named else {}
        for place in own.values():
            os.makedirs(place, exist_ok=True)
        others = {name: value for name, value in os.environ.items() if name not in (*PLACES, "XDG_CACHE_HOME")}
        command = [*mounted(READ_ONLY, tmp_path), sys.executable, "-P", "-m", "lmms_kvtp", *map(str, arguments)]
        environment = {**others, "HOME": "/", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **own}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_system_without_a_place_for_temporary_files_names_the_variable(read_only, tmp_path):
    done = read_only("leaderboard", write_pair(tmp_path / "runs"), "--out", tmp_path / "page", named=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("lmms-kvtp leaderboard: No usable temporary directory found in [")
    assert done.stderr.endswith("; set TMPDIR to a writable folder\n") and "Traceback" not in done.stderr


COMMANDS = {
    "doctor": ["--method", "random", "--videos", "1", "--frames", "8"],
    "compare": [
        "--data",
        "asked.jsonl",
        "--methods",
        "random",
        "--ratios",
        "0.2",
        "--max-new-tokens",
        "2",
        "--out",
        "c",
    ],
    "train": [
        "predictor",
        "--synthetic",
        "6",
        "--pretrained",
        "tiny",
        "--parts",
        "head",
        "--epochs",
        "1",
        "--out",
        "p",
    ],
    "demo": ["--limit", "1", "--out", "d"],
    "bench": ["e2e", "--random-weights", "tiny", "--encoder", "shared", "--frames", "8", "--rounds", "1"],
    "reproduce": ["table2"],
}
"""Commands that write, or measure, with files and folders below the one that can be written."""


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_work_where_variables_name_their_places(name, read_only, tmp_path):
    film = write_video(tmp_path / "film.mp4", 1)
    write_json(tmp_path / "asked.jsonl", {"video": str(film), "question": "What color is it?\nA. red\nB. blue"})
    given = [tmp_path / word if word in ("asked.jsonl", "c", "p", "d") else word for word in COMMANDS[name]]
    done = read_only(name, *given, named=True)
    assert done.returncode == 0, done.stderr[-2000:]
