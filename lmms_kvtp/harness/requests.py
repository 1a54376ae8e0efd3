"""Reads a request of the harness: its question, and the generation settings of the task or of `--gen_kwargs`.

Settings are honored, or refused by name. `ask_stock` makes such requests, for the harness's own wrappers.
"""

import gc
import logging
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from transformers import GenerationConfig

from lmms_kvtp.run.asks import Ask, name_visuals, read_question
from lmms_kvtp.settings import parse
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.checkpoint.config import CheckpointError
from lmms_kvtp.vlms.checkpoint.llava_package import llava_package, mend
from lmms_kvtp.vlms.checkpoint.load import family_of, read_config
from lmms_kvtp.vlms.checkpoint.original import ORIGINAL

log = logging.getLogger(__name__)

PADDING = "__padding_only__"
"""Mark of requests that only even out the ranks; nobody reads their answers."""
HONOURED = ("max_new_tokens", "temperature", "top_p", "num_beams", "do_sample", "until", "seed")
OF_SAMPLING = ("top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings of transformers that greedy decoding does not read."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "num_return_sequences": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "use_cache": (True,),
}
"""Values with which settings of transformers change nothing."""


def is_padding(request: Any) -> bool:
    """Tell whether a request only evens out the ranks, so that nobody reads its answer."""
    return bool((request.metadata or {}).get(PADDING))


def read_ask(
    request: Any, doc: Mapping[str, Any], options: GenerationOptions, prompt: str, load: Callable[[], list[Any]]
) -> Ask:
    """Put together one question of a request.

    Args:
        request: of the harness.
        doc: its document.
        options: of decoding.
        prompt: text of this turn.
        load: gets the visuals of this turn.
    """
    doc_id, task, _ = request.args[-3:]
    key = document_key(task, doc_id, doc)
    try:
        visuals = name_visuals(load())
    except Exception as error:  # fails again, and is reported, when the question's turn has come
        visuals = (f"unreadable visuals of {key}: {error}",)
    version = str((request.metadata or {}).get("version", ""))
    return Ask(task, version, read_question(prompt, doc, key), visuals, load, options)


def read_turn(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[Any]]:
    """Read the chat messages of a question: its text, and the videos before it.

    ValueError where they are more than one turn of the user, or hold what no back end lays out: the message says what.
    """
    if len(messages) != 1 or messages[0].get("role") != "user":
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise ValueError(f"the task sends turns of {roles}; this model answers one turn of the user")
    content = messages[0]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    cut = [" from start_time to end_time" * bool(part.get("start_time") or part.get("end_time")) for part in parts]
    kinds = [f"{part['type']}{some}" for part, some in zip(parts, cut, strict=True)]
    if set(kinds) - {"text", "video"} or "video" in kinds[kinds.index("text") if "text" in kinds else len(kinds) :]:
        raise ValueError(
            f"the task sends {', '.join(kinds)}; this model answers texts on whole videos before them, and "
            "images and other orders are not supported yet"
        )
    visuals = [part["url"] for part in parts if part["type"] == "video"]
    return "".join(str(part["text"]) for part in parts if part["type"] == "text"), visuals


def document_key(task: str, doc_id: object, doc: Mapping[str, Any]) -> str:
    """Name a document within a run; our own tasks look its cost up by this."""
    return str(doc.get("kvtp_id") or f"{task}/{doc_id}")


def typed_options(arguments: Any) -> frozenset[str]:
    """List the generation settings that `--gen_kwargs` names."""
    given = str(getattr(arguments, "gen_kwargs", None) or "")
    return frozenset(part.partition("=")[0].strip() for part in given.split(",") if "=" in part)


def read_options(
    settings: Mapping[str, Any], defaults: GenerationOptions, typed: Collection[str] = ()
) -> GenerationOptions:
    """Read the generation settings of one request.

    Decoding is greedy unless a temperature above 0, or `do_sample` with no temperature, asks for sampling;
    `do_sample: false` means greedy, unless it is the task's and `--gen_kwargs` names a temperature.

    Args:
        settings: as the task's YAML and `--gen_kwargs` give them.
        defaults: where they are silent.
        typed: names of those that `--gen_kwargs` gives.

    Raises:
        ValueError: a setting that would change the answer is not supported, or has an impossible value.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    temperature = parse(float, given.get("temperature", 1.0 if given.get("do_sample") else 0.0), "temperature")
    if temperature < 0:
        raise ValueError(f"temperature={temperature} is negative; 0 means greedy decoding")
    if not given.get("do_sample", True) and ("do_sample" in typed or "temperature" not in typed):
        temperature = 0.0
    for name in given.keys() - set(HONOURED):
        _check_other(name, given[name], greedy=temperature == 0)
    top_p = parse(float, given.get("top_p", 1.0), "top_p") if temperature > 0 else 1.0
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} is outside (0, 1]; leave it out, or sample with a temperature above 0")
    until = given.get("until", ())
    return replace(
        defaults,
        max_new_tokens=_at_least_one(given, "max_new_tokens", defaults.max_new_tokens),
        temperature=temperature,
        top_p=None if top_p == 1 else top_p,
        num_beams=_at_least_one(given, "num_beams", defaults.num_beams),
        until=tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
        seed=parse(int, given.get("seed", defaults.seed), "seed"),
    )


def _at_least_one(settings: Mapping[str, Any], name: str, default: int) -> int:
    value: int = parse(int, settings.get(name, default), name)
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")
    return value


def _check_other(name: str, value: Any, greedy: bool) -> None:
    if name not in _of_transformers():
        _say_unused(name, str(value))
    elif value not in NEUTRAL.get(name, ()) and not (greedy and name in OF_SAMPLING):
        raise ValueError(
            f"generation setting {name}={value} would change the answer and is not supported; take it out of "
            f"--gen_kwargs or of the task; supported: {', '.join(HONOURED)}"
        )


@cache
def _of_transformers() -> frozenset[str]:
    """Names of all settings that transformers would read."""
    config: dict[str, Any] = GenerationConfig().to_dict()  # type: ignore[no-untyped-call]
    return frozenset(config)


@cache
def _say_unused(name: str, value: str) -> None:
    log.warning("generation setting %s=%s is no setting of decoding; it is not used", name, value)


STOCK = {"qwen2_5_vl": "qwen2_5_vl.Qwen2_5_VL", "qwen3_vl": "qwen3_vl.Qwen3_VL", "internvl": "internvl_hf.InternVLHf"}
"""Module and class of lmms-eval's own chat wrappers, which compute in bfloat16, by family."""


def ask_stock(
    folder: Path,
    video: Path,
    questions: Sequence[str],
    frames: FrameOptions,
    device: torch.device,
    dtype: str,
    max_new_tokens: int,
) -> list[list[int]]:
    """Let lmms-eval's own wrapper of a family answer questions about a video, greedily and with all tokens.

    Frames, preprocessing, prompt and decoding are the wrapper's and its model's; of LLaVA-Video, pooling and newlines
    are the checkpoint's, where the wrapper has defaults of its own.

    Args:
        folder: of a checkpoint: of a family in `STOCK`, or of LLaVA-Video in the original layout.
        video: the file.
        questions: whole texts.
        frames: of these the number counts, and of LLaVA-Video the rate and `force_sample`.
        device: of the model.
        dtype: float16 or bfloat16, for LLaVA-Video.
        max_new_tokens: most tokens of an answer.

    Returns:
        Ids of each answer's tokens.

    Raises:
        CheckpointError: the checkpoint is in Hugging Face's layout of LLaVA.
        ValueError: LLaVA-NeXT's package is not installed.
        RuntimeError: the wrapper could not read the video.
    """
    made, family = list[list[int]](), family_of(folder)
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        if family in STOCK:
            wrapper = _chat_wrapper(family, folder, frames, device)
        else:
            wrapper = _llava_vid(stack, folder, frames, device, dtype)
        generate = wrapper.model.generate

        def recorded(**settings: Any) -> torch.Tensor:
            ids: torch.Tensor = generate(**settings)
            made.append(ids[0, settings["input_ids"].shape[1] if "input_ids" in settings else 0 :].tolist())
            return ids

        wrapper.model.generate = recorded
        wrapper.task_dict = {"clip": {"test": [str(video)] * len(questions)}}
        for number, text in enumerate(questions):
            content = [{"type": "video", "url": str(video)}, {"type": "text", "text": text}]
            turns, settings = [{"role": "user", "content": content}], {"max_new_tokens": max_new_tokens}
            shown = (settings, lambda path: [path]) if wrapper.is_simple else (lambda _, turns=turns: turns, settings)
            told = {"task": "clip", "doc_id": number, "repeats": 1}
            wrapper.generate_until([Instance("generate_until", (text, *shown, number, "clip", "test"), number, told)])
        del wrapper, generate, recorded
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if len(made) < len(questions):
        raise RuntimeError(
            f"lmms-eval's own wrapper answered {len(made)} of {len(questions)} questions; its messages stand above"
        )
    return made


def _chat_wrapper(family: str, folder: Path, frames: FrameOptions, device: torch.device) -> Any:
    module, _, name = STOCK[family].partition(".")
    wrapper = getattr(import_module(f"lmms_eval.models.chat.{module}"), name)
    count = {"num_frames" if family == "internvl" else "max_num_frames": frames.max_frames_num}
    return wrapper(str(folder), device=str(device), device_map=str(device), **count)


def _llava_vid(stack: ExitStack, folder: Path, frames: FrameOptions, device: torch.device, dtype: str) -> Any:
    config = read_config(folder)
    if config.tensor_names != (ORIGINAL,):
        raise CheckpointError("llava_vid reads the original layout, this checkpoint is in Hugging Face's")
    scratch = stack.enter_context(tempfile.TemporaryDirectory())
    stack.enter_context(llava_package(config))
    from lmms_eval.models.simple.llava_vid import LlavaVid

    named = Path(scratch) / "llava_qwen"  # the package knows a family by its folder's name
    named.symlink_to(folder.resolve(), target_is_directory=True)
    wrapper = LlavaVid(
        str(named),
        torch_dtype=dtype,
        device=str(device),
        device_map="auto" if device.type == "cpu" else str(device),  # otherwise it wants a GPU
        conv_template="qwen_1_5",
        max_frames_num=frames.max_frames_num,
        video_fps=round(frames.fps or 1),
        mm_spatial_pool_mode=config.pool_mode,
        mm_newline_position=config.newline_position,
        force_sample=frames.force_sample,
    )
    mend(wrapper.model)
    return wrapper
