"""The index that a task reads: where it is, how it got there, and what to do without one."""

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from lmms_kvtp.files import home, write_whole
from lmms_kvtp.skvqa.entry import Entry
from lmms_kvtp.skvqa.index import index_files, on_scale, read_entries, to_bytes
from lmms_kvtp.skvqa.stats import BETA, MIN_FRAMES, Criteria

VARIABLE = "LMMS_KVTP_SKVQA_INDEX"
BETA_VARIABLE = "LMMS_KVTP_SKVQA_BETA"
FRAMES_VARIABLE = "LMMS_KVTP_SKVQA_MIN_FRAMES"
MISSING_VARIABLE = "LMMS_KVTP_SKVQA_MISSING"
SIZES: Mapping[str, tuple[int, int]] = {"videomme": (900, 2700), "egoschema": (500, 500), "nextqa": (1000, 8564)}
"""Videos and questions of Video-MME, EgoSchema Subset, and the multiple-choice test split of NExT-QA, for estimates."""

CLIPS_PER_VIDEO = 16
SIGLIP_TERAFLOPS = 85
"""TFLOP of SigLIP so400m at 384 pixels over 128 frames (lmms_kvtp/cost/flops.py)."""
CAPTION, SCORE = (2500, 200, 1.4), (4000, 150, 1.4)
"""Input tokens, output tokens and seconds of a call. Assumed are 8 images of about 300 tokens and the prompt for a
caption, 16 captions of about 200 tokens and the prompt for a score; seconds are those of a 7B model, at 15 GFLOP for an
input token and 100 TFLOP/s, and at 15 GB for an output token and 3 TB/s."""
DOLLARS = (2.5, 10.0)
"""Price of a million input and output tokens in the example of docs/skvqa.md."""


class NoIndexError(LookupError):
    """There is no index of a data set; the message names the ways to get one."""


def cache_folder() -> Path:
    """Name the folder of installed indexes, below $LMMS_KVTP_HOME, else $XDG_CACHE_HOME, else ~/.cache."""
    return home() / "skvqa"


def locate_index(dataset: str) -> Path:
    """Find the index file of a data set.

    NoIndexError where there is none, FileNotFoundError where the setting names no place for one.
    """
    if setting := os.environ.get(VARIABLE, "").strip():
        return _named(setting, dataset)
    cached = cache_folder() / f"{dataset}.jsonl"
    if cached.is_file():
        return cached
    raise NoIndexError(ways_on(dataset))


def task_entries(dataset: str) -> Mapping[str, Entry]:
    """Read the data set's entries by question id; raises as `locate_index`, `read_entries` and `on_scale`."""
    path = locate_index(dataset)
    return _load(path, path.stat().st_mtime, dataset)


@lru_cache(maxsize=8)
def _load(path: Path, modified: float, dataset: str) -> Mapping[str, Entry]:
    """Read a file once for each time stamp `modified`: the tasks ask for it again and again."""
    return {entry.question_id: entry for entry in on_scale(read_entries(path, dataset), path)}


def index_digest(dataset: str) -> str:
    """Hash the data set's index file; raises as `locate_index` does."""
    return hashlib.sha256(locate_index(dataset).read_bytes()).hexdigest()[:12]


def install_index(index: Path) -> list[Path]:
    """Check an index and copy it to the cache; returns its files there, one for each data set.

    Raises as `index_files`, `read_entries` and `on_scale`.
    """
    found = [entry for path in index_files(index) for entry in on_scale(read_entries(path), path)]
    written = []
    for dataset in dict.fromkeys(entry.dataset for entry in found):
        path = cache_folder() / f"{dataset}.jsonl"
        write_whole(path, to_bytes(entry for entry in found if entry.dataset == dataset))
        written.append(path)
    return written


def ways_on(dataset: str) -> str:
    """Say what to do without an index, and how long that takes."""
    videos, questions = SIZES.get(dataset, (1000, 1000))
    clips = videos * CLIPS_PER_VIDEO
    images = videos * SIGLIP_TERAFLOPS
    read, written, seconds = (clips * one + questions * other for one, other in zip(CAPTION, SCORE, strict=True))
    read, written, hours = read / 1e6, written / 1e6, seconds / 3600
    text = Path(__file__).with_name("ways_on.txt").read_text(encoding="utf-8")
    dollars = (read * DOLLARS[0], written * DOLLARS[1])
    return text.rstrip("\n").format(
        **{"dataset": dataset, "variable": VARIABLE, "cache": cache_folder(), "videos": videos, "clips": clips},
        **{"questions": questions, "teraflops": SIGLIP_TERAFLOPS, "petaflops": images / 1000},
        **{"minutes": images / 100 / 60, "hours": hours, "read": read, "written": written},
        **{"dollars": dollars, "prices": DOLLARS},
    )


def _named(setting: str, dataset: str) -> Path:
    path = Path(setting).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / f"{dataset}.jsonl").is_file():
            return path / f"{dataset}.jsonl"
        raise NoIndexError(f"{VARIABLE}={setting} is a folder without {dataset}.jsonl")
    if setting.count("/") != 1 or setting.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{VARIABLE}={setting} is neither a file nor a folder nor a data set of the hub")
    from huggingface_hub import hf_hub_download

    repository, _, revision = setting.partition("@")
    try:
        return Path(hf_hub_download(repository, f"{dataset}.jsonl", repo_type="dataset", revision=revision or None))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{VARIABLE}={setting} is neither a file nor a folder, and the hub has no {dataset}.jsonl of a data "
            f"set of that name: {error}"
        ) from error


def task_criteria() -> Criteria:
    """Read beta and the least number of frames from the environment; ValueError for no number, or out of range."""
    return Criteria(_number(BETA_VARIABLE, BETA), int(_number(FRAMES_VARIABLE, float(MIN_FRAMES))))


def ignore_missing() -> bool:
    """Tell whether missing videos are left to the model; ValueError where the variable holds another word."""
    word = os.environ.get(MISSING_VARIABLE, "error")
    if word not in ("error", "ignore"):
        raise ValueError(f"{MISSING_VARIABLE}={word!r}: wanted error or ignore")
    return word == "ignore"


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable, "").strip()
    try:
        return float(text) if text else default
    except ValueError as error:
        raise ValueError(f"{variable}={text!r} is not a number") from error
