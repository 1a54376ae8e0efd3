"""Hold our wrappers of Qwen2.5-VL, Qwen3-VL and InternVL, with all tokens kept, against lmms-eval's own.

python benchmarks/stock_equality.py FOLDER --seed 1 --count 40

Checkpoints are tiny and random, with weights of standard deviation 0.15; videos, settings and questions are drawn by
the seed, and written to FOLDER. Of each question the ids of the prompt, the pixels that the tower reads and the ids of
the answer are compared. InternVL's own wrapper reads videos by PyAV here. Draws that the stock wrapper cannot answer
are counted, with what ours makes of them. `--dtype float32` widens the stock wrapper, which computes in bfloat16.
"""

import argparse
import importlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from lmms_eval.api.instance import Instance
from stock_wrapper import FULL, OURS, by_pyav
from transformers import InternVLVideoProcessor, PreTrainedModel

from lmms_kvtp.harness.requests import STOCK
from lmms_kvtp.vlms import decoding

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.native_checkpoints import FAMILIES, write_native

SIZES = ((64, 48), (32, 32), (96, 64), (64, 416), (416, 64), (130, 98), (320, 180), (48, 96))
"""Width and height of frames."""
LENGTHS = (2, 3, 7, 8, 33, 50, 90, 301)
RATES = (Fraction(5), Fraction(24), Fraction(30000, 1001), Fraction(1))
WORDS = "what where who how when is are the a star person red blue moves left first last behind before in of naïve 猫"
PIXELS = ((4096, 30000), (4096, 12000), (8000, 60000), (20000, 21500), (20000, 20700), (None, None))
WHO = ("ours:", "stock:")
Made = dict[tuple[int, ...], tuple[list[int], torch.Tensor]]
"""Ids of an answer and what the tower reads, by the ids of the prompt."""


def main() -> None:
    """Compare, print a line for each difference, and a table of counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=40, help="draws of each family")
    parser.add_argument("--family", choices=FAMILIES, help="default: all three")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--batch", type=int, help="ours, in place of a draw from 1, 1, 2 and 3")
    parser.add_argument("--stock-batch", type=int, help="the Qwen wrappers', in place of a draw from 1, 1 and 2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    InternVLVideoProcessor.fetch_videos = by_pyav
    for family in [arguments.family] if arguments.family else FAMILIES:
        counts: Counter[str] = Counter()
        for number in range(arguments.count):
            draw = Draw(family, arguments.folder, f"{arguments.seed}/{family}/{number}", arguments)
            found = draw.compare()
            counts.update({name.partition(";")[0]: count for name, count in found.items()})
            if set(found) != {"equal"}:
                lengths = [len(doc["videos"]) for doc in draw.docs]
                about = {**draw.told, "videos": lengths, "batch": draw.batch, "stock batch": draw.stock_batch}
                print(f"{draw.name}: {dict(found)} {json.dumps(about)}", flush=True)
        print(f"{family}, {arguments.dtype}: {arguments.count} draws: {json.dumps(counts)}", flush=True)


class Draw:
    """A checkpoint, videos, settings and questions."""

    def __init__(self, family: str, folder: Path, name: str, arguments: argparse.Namespace) -> None:
        """Draw them by name."""
        rng = random.Random(name)
        self.family, self.name, self.dtype = family, name, arguments.dtype
        seed, penalty, qwen2 = rng.randrange(3), rng.choice((1.0, 1.05, 1.3)), rng.random() < 0.5
        self.checkpoint = folder / f"{family}_{seed}_{penalty}_{'' if family != 'internvl' or not qwen2 else 'qwen2'}"
        if not self.checkpoint.exists():
            write_native(family, self.checkpoint, seed=100 + seed, penalty=penalty, qwen2=qwen2)
        videos = [write_clip(folder, rng) for _ in range(2)]
        self.told: dict[str, Any] = {"max_num_frames": rng.choice((2, 3, 5, 7, 8, 12, 16, 32, 33))}
        drawn = rng.choice((1, 1, 2)), rng.choice((1, 1, 2, 3))
        self.stock_batch, self.batch = arguments.stock_batch or drawn[0], arguments.batch or drawn[1]
        if family == "internvl":
            self.stock_batch = 1
        else:
            self.told |= dict(zip(("min_pixels", "max_pixels"), rng.choice(PIXELS), strict=True))
            if rng.random() < 0.3:
                self.told["fps"] = rng.choice((0.5, 1, 2, 3.3))
        if family == "qwen3_vl":
            if rng.random() < 0.3:
                self.told["system_prompt"] = rng.choice(("Be brief.", "You watch videos.\nAnswer."))
            if rng.random() < 0.2:
                self.told["enable_thinking"] = False
            if rng.random() < 0.2:
                self.told["total_pixels"] = rng.choice((100_000, 400_000))
        self.told = {key: value for key, value in self.told.items() if value is not None}
        kinds = rng.choices(("one", "none", "two"), (8, 1, 2), k=3)
        self.docs = []
        for number, kind in enumerate(kinds):
            text = " ".join(rng.choices(WORDS.split(), k=rng.randrange(2, 30)))
            options = "\n".join(f"{letter}. {rng.choice(WORDS.split())}" for letter in "ABCD"[: rng.randrange(5)])
            shown = {"one": [rng.choice(videos)], "none": [], "two": videos}[kind]
            self.docs.append({"question": f"{number}: {text}?\n{options}", "videos": [str(path) for path in shown]})
        self.settings: dict[str, Any] = {
            "max_new_tokens": rng.choice((1, 6, 12)),
            "until": rng.choice((["\n\n"], ["A", "e"], [])),
        }
        if rng.random() < 0.15:
            self.settings["num_beams"] = 2

    def requests(self) -> list[Instance]:
        """Ask as the harness does."""
        told = {"task": "clips", "doc_id": 0, "repeats": 1}
        return [
            Instance("generate_until", (doc["question"], turn, dict(self.settings), n, "clips", "test"), n, told)
            for n, doc in enumerate(self.docs)
        ]

    def compare(self) -> Counter[str]:
        """Count what is equal, and what is not."""
        made: list[Made | str] = []
        for ask in (self.ours, self.stock):
            try:
                made.append(ask())
            except Exception as error:  # the draw is one that a wrapper cannot answer: what it says is the result
                made.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        ours, stock = made
        if isinstance(ours, str) or isinstance(stock, str):
            told = [
                f"{who} {says if isinstance(says, str) else 'answers'}" for who, says in zip(WHO, made, strict=True)
            ]
            return Counter([f"refused; {'; '.join(told)}"])
        found: Counter[str] = Counter()
        for ids in stock.keys() | ours.keys():
            if ids not in ours or ids not in stock:
                found["other prompts"] += 1
                continue
            (made, pixels), (theirs, seen) = ours[ids], stock[ids]
            same = pixels.numel() == seen.numel() and torch.allclose(pixels.flatten(), seen.flatten(), atol=1e-5)
            found["equal" if made == theirs and same else "other answers" if same else "other pixels"] += 1
        return found

    def stock(self) -> Made:
        """Let the stock wrapper answer."""
        module, _, name = STOCK[self.family].partition(".")
        wrapper = getattr(importlib.import_module(f"lmms_eval.models.chat.{module}"), name)
        given = {"batch_size": self.stock_batch, **self.told}
        if self.family == "internvl":
            given["num_frames"] = given.pop("max_num_frames")
        with widened(self.dtype):
            model = wrapper(str(self.checkpoint), device="cpu", device_map="cpu", **given)
        model.task_dict = {"clips": {"test": self.docs}}
        made: Made = {}
        generate = model.model.generate
        end = model.tokenizer.eos_token_id

        def recorded(**settings: Any) -> torch.Tensor:
            with watched(model.model) as seen:
                out: torch.Tensor = generate(**settings)
            pixels, first = torch.cat(seen) if seen else torch.zeros(0), 0
            length, shares = settings["input_ids"].shape[1], self.rows(settings)
            for row, (ids, mask) in enumerate(zip(settings["input_ids"], settings["attention_mask"], strict=True)):
                answer = out[row, length:].tolist()
                answer = answer[: answer.index(end) + 1] if end in answer else answer
                made[tuple(ids[mask.bool()].tolist())] = (answer, pixels[first : first + shares[row]])
                first += shares[row]
            return out

        model.model.generate = recorded
        model.generate_until(self.requests())
        return made

    def rows(self, settings: Any) -> list[int]:
        """Count the rows of the tower's input that belong to each prompt of a batch."""
        if self.family == "internvl":
            return [len(settings.get("pixel_values", ()))]
        grids, videos = [int(grid.prod()) for grid in settings.get("video_grid_thw", ())], iter(settings["input_ids"])
        pad, merge, shares = self.pad, 4, []
        for ids in videos:
            count, used = int((ids == pad).sum()), 0
            while count > 0:
                used, count = used + grids[0], count - grids.pop(0) // merge
            shares.append(used)
        return shares

    def ours(self) -> Made:
        """Let our wrapper answer."""
        common = {"pretrained": str(self.checkpoint), "device": "cpu", "journal": "none", "decode_ahead_mib": 0}
        model = OURS[self.family](
            **common, torch_dtype=self.dtype, batch_size=self.batch, share_prefix=False, **FULL, **self.told
        )
        model.task_dict = {"clips": {"test": self.docs}}
        vlm = model.built.vlm
        self.pad = vlm.vision_token
        made: Made = {}
        pixels: dict[str, torch.Tensor] = {}
        for path in {path for doc in self.docs for path in doc["videos"]}:
            with watched(vlm.model) as seen:
                self.look(vlm, path, model.arguments.frames)
            pixels[path] = torch.cat(seen)
        decode = decoding.decode

        def recorded(llm: Any, tokenizer: Any, prompts: Any, *more: Any, **named: Any) -> Any:
            found = decode(llm, tokenizer, prompts, *more, **named)
            for prompt, one in zip(prompts, found, strict=True):
                text = tokenizer.decode(prompt.ids)
                [doc] = [doc for doc in self.docs if doc["question"].strip() in text]
                parts = [pixels[path] for path in doc["videos"]]
                made[tuple(prompt.ids.tolist())] = (one.ids, torch.cat(parts) if parts else torch.zeros(0))
            return found

        decoding.decode = recorded
        try:
            model.generate_until(self.requests())
        finally:
            decoding.decode = decode
        return made

    def look(self, vlm: Any, path: str, options: Any) -> None:
        """Run the tower on a video, in chunks, as a run does."""
        from lmms_kvtp.encode import encode
        from lmms_kvtp.method import build_method, defaults_of
        from lmms_kvtp.video.load import load_video

        encode(vlm, build_method(FULL, defaults_of(vlm)), load_video(path, options))


def turn(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the messages of a document."""
    videos = [{"type": "video", "url": path} for path in doc["videos"]]
    return [{"role": "user", "content": [*videos, {"type": "text", "text": doc["question"]}]}]


@contextmanager
def watched(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect what the tower reads."""
    seen: list[torch.Tensor] = []
    tower = getattr(model.model, "visual", None) or model.model.vision_tower

    def note(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        read = given[0] if given else next(v for k, v in named.items() if k in ("hidden_states", "pixel_values"))
        seen.append(read.float())

    hook = tower.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def widened(dtype: str) -> Iterator[None]:
    """Have models loaded in this number type, whatever their wrapper asks for."""
    given = PreTrainedModel.__dict__["from_pretrained"]

    def wide(cls: Any, *arguments: Any, **named: Any) -> Any:
        named = {**named, "dtype": getattr(torch, dtype)}
        named.pop("torch_dtype", None)
        return given.__func__(cls, *arguments, **named)

    PreTrainedModel.from_pretrained = classmethod(wide)  # type: ignore[assignment]
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = given


def write_clip(folder: Path, rng: random.Random) -> Path:
    """Write a video of changing blocks, unless it is there."""
    (width, height), count, rate, seed = rng.choice(SIZES), rng.choice(LENGTHS), rng.choice(RATES), rng.randrange(3)
    path = folder / f"clip_{width}x{height}_{count}_{float(rate):.2f}_{seed}.mp4"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            if number % 5 == 0:
                blocks = noise.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
            shown = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    main()
