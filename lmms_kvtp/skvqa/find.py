"""Where the tasks find their index: a setting, the user's cache, or a message that names the ways on."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lmms_kvtp.files import home, write_whole
from lmms_kvtp.skvqa.entry import Entry
from lmms_kvtp.skvqa.index import dumps_all, files, read
from lmms_kvtp.skvqa.stats import BETA, MIN_FRAMES, Criteria

VARIABLE = "LMMS_KVTP_SKVQA_INDEX"


@dataclass(frozen=True)
class Size:
    """What a data set's evaluation part is made of, for estimates."""

    videos: int
    questions: int


SIZES: Mapping[str, Size] = {
    "videomme": Size(900, 2700),
    "egoschema": Size(500, 500),
    "nextqa": Size(1000, 8564),
}
"""Video-MME, EgoSchema Subset, and the multiple-choice test split of NExT-QA."""

CLIPS_PER_VIDEO = 16
SIGLIP_TERAFLOPS = 85
"""SigLIP so400m at 384 pixels over 128 frames, in closed form (lmms_kvtp/flops.py)."""
CAPTION_TOKENS = 2500
"""Of a caption call: 8 images of about 300 tokens, assumed, and the prompt."""
SCORE_TOKENS = 4000
"""Of a scoring call: 16 captions of about 200 tokens, assumed, and the prompt."""
CAPTION_WORDS, SCORE_WORDS = 200, 150
"""Output tokens of such calls, assumed."""
DOLLARS = (2.5, 10.0)
"""For a million input and output tokens: the example of docs/skvqa.md."""
CAPTION_SECONDS = 1.4
"""Of a 7B model, estimated: 2500 tokens at 15 GFLOP each and 100 TFLOP/s, 200 tokens at 15 GB each and 3 TB/s."""
SCORE_SECONDS = 0.7
"""As above, 16 prompts of 300 tokens."""


class NoIndexError(LookupError):
    """There is no index of a data set; the message names the ways to one."""


def cache_folder() -> Path:
    """Where `lmms-kvtp skvqa install` puts indexes: below $LMMS_KVTP_HOME, else $XDG_CACHE_HOME, else ~/.cache."""
    return home() / "skvqa"


def locate(dataset: str) -> Path:
    """The index file of a data set.

    Raises:
        NoIndexError: there is none.
        FileNotFoundError: the setting names a place without one.
    """
    setting = os.environ.get(VARIABLE, "").strip()
    if setting:
        return _named(setting, dataset)
    cached = cache_folder() / f"{dataset}.jsonl"
    if cached.is_file():
        return cached
    raise NoIndexError(ways_on(dataset))


@lru_cache(maxsize=8)
def load(path: Path, modified: float, dataset: str) -> Mapping[str, Entry]:
    """The entries of a data set in a file, by question id; `modified` is its time stamp.

    Raises:
        IndexFileError: a line is damaged or of another schema, or the file is of another data set.
    """
    return {entry.question_id: entry for entry in read(path, dataset)}


def entries(dataset: str) -> Mapping[str, Entry]:
    """The data set's entries, wherever its index lies; raises as `locate` and `load` do."""
    path = locate(dataset)
    return load(path, path.stat().st_mtime, dataset)


def digest(dataset: str) -> str:
    """Stands for the content of the data set's index file; raises as `locate` does."""
    return hashlib.sha256(locate(dataset).read_bytes()).hexdigest()[:12]


def install(index: Path) -> list[Path]:
    """Check an index and copy it to the cache, one file for each data set; returns these files.

    Raises:
        IndexFileError: it is damaged.
        FileNotFoundError: there is none.
    """
    found = [entry for path in files(index) for entry in read(path)]
    written = []
    for dataset in dict.fromkeys(entry.dataset for entry in found):
        path = cache_folder() / f"{dataset}.jsonl"
        write_whole(path, dumps_all(entry for entry in found if entry.dataset == dataset))
        written.append(path)
    return written


def ways_on(dataset: str) -> str:
    """What to do without an index, with how long it takes."""
    size = SIZES.get(dataset, Size(1000, 1000))
    clips = size.videos * CLIPS_PER_VIDEO
    images = size.videos * SIGLIP_TERAFLOPS
    hours = (clips * CAPTION_SECONDS + size.questions * SCORE_SECONDS) / 3600
    read = (clips * CAPTION_TOKENS + size.questions * SCORE_TOKENS) / 1e6
    written = (clips * CAPTION_WORDS + size.questions * SCORE_WORDS) / 1e6
    return f"""no SparseKV-QA index of {dataset}: {VARIABLE} is not set, and {cache_folder()} has none. Ways on:
- the paper's own labels: lmms-kvtp skvqa import skvqa.json --dataset {dataset} ... (their release's file)
- from images alone, no captions: lmms-kvtp skvqa build --dataset {dataset} --captioner none --scorer siglip ... reads \
{size.videos} videos once, {SIGLIP_TERAFLOPS} TFLOP each ({images / 1000:.0f} PFLOP: {images / 100 / 60:.0f} minutes \
on a GPU that does 100 TFLOP/s, and the time to decode)
- the paper's way: the same without --captioner and --scorer: at most {clips} captions of 8 frames and \
{size.questions} questions to score: about {hours:.0f} hours for a 7B model on one such GPU, free of charge; or, at an \
endpoint, about {read:.0f} million input and {written:.1f} million output tokens, {read * DOLLARS[0]:.0f} + \
{written * DOLLARS[1]:.0f} dollars at {DOLLARS[0]:g} and {DOLLARS[1]:g} dollars a million (estimates, not measured; \
--budget limits what an endpoint may cost)
- no filter: --tasks skvqa_{dataset}_full
then point {VARIABLE} at the file or its folder, or run lmms-kvtp skvqa install FILE; docs/skvqa.md has the commands"""


def _named(setting: str, dataset: str) -> Path:
    path = Path(setting).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / f"{dataset}.jsonl").is_file():
            return path / f"{dataset}.jsonl"
        raise FileNotFoundError(f"{VARIABLE}={setting} is a folder without {dataset}.jsonl")
    if setting.count("/") == 1 and not setting.startswith((".", "/", "~")):
        return _from_hub(setting, dataset)
    raise FileNotFoundError(f"{VARIABLE}={setting} is neither a file nor a folder nor a data set of the hub")


def _from_hub(setting: str, dataset: str) -> Path:
    from huggingface_hub import hf_hub_download

    repository, _, revision = setting.partition("@")
    try:
        return Path(hf_hub_download(repository, f"{dataset}.jsonl", repo_type="dataset", revision=revision or None))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{VARIABLE}={setting} is neither a file nor a folder, and the hub has no {dataset}.jsonl of a data "
            f"set of that name: {error}"
        ) from error


BETA_VARIABLE = "LMMS_KVTP_SKVQA_BETA"
FRAMES_VARIABLE = "LMMS_KVTP_SKVQA_MIN_FRAMES"
MISSING_VARIABLE = "LMMS_KVTP_SKVQA_MISSING"


def criteria() -> Criteria:
    """Beta and the least number of frames.

    Raises:
        ValueError: a variable holds no number, or one that is out of range.
    """
    return Criteria(_number(BETA_VARIABLE, BETA), int(_number(FRAMES_VARIABLE, float(MIN_FRAMES))))


def ignore_missing() -> bool:
    """Missing videos are left to the model.

    Raises:
        ValueError: the variable holds another word.
    """
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
