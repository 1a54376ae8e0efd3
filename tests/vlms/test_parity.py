"""Every array that the reference code of LLaVA-Video left on its tiny checkpoint (tests/goldens/README.md)."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmms_kvtp.types import FrameTokens, GenerationOptions, GridPool, PackedTokens, Prompt
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms import decoding
from lmms_kvtp.vlms.base import PromptTooLongError
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video

GOLDENS = Path(__file__).parent.parent / "goldens"
CHECKPOINT = GOLDENS / "llava_tiny9"
FACTS = json.loads((GOLDENS / "llava_ref_tiny9.json").read_text())
RUNS = [run for run in FACTS["runs"] if not run.startswith("trunc")]
DECODED = [run for run in RUNS if "greedy_ids_rep1.0" in FACTS["runs"][run]]
TOWER, LOGITS = 2e-5, 5e-5


@cache
def golden(name: str) -> Tensor:
    with np.load(GOLDENS / "llava_ref_tiny9.npz") as arrays:
        return torch.from_numpy(arrays[name])


def arrays_of(suffix: str) -> list[str]:
    with np.load(GOLDENS / "llava_ref_tiny9.npz") as arrays:
        return [name for name in arrays.files if name.endswith(suffix)]


@cache
def load(pool: str, newline: str) -> LlavaVideo:
    options: dict[str, Any] = {"mm_spatial_pool_mode": pool, "mm_newline_position": newline}
    return load_llava_video(str(CHECKPOINT), LoadOptions(**options, device="cpu"))


def frames() -> Frames:
    rgb = golden("frames_uint8")
    return Frames(rgb, torch.arange(len(rgb)).float())


def all_of(tokens: FrameTokens) -> PackedTokens:
    """Every token, packed by hand."""
    count, capacity, width = tokens.embeds.shape
    return PackedTokens(
        embeds=tokens.embeds.reshape(count * capacity, width),
        frame=torch.arange(count).repeat_interleave(capacity),
        patch=torch.arange(capacity).repeat(count),
        size=torch.ones(count * capacity),
        grid=tokens.grid,
        num_frames=count,
    )


@cache
def prompt_of(run: str) -> tuple[LlavaVideo, Prompt]:
    facts = FACTS["runs"][run]
    vlm = load(facts["pool"], facts["newline"])
    question = FACTS["question"]
    if facts["prompt"] == "text_only":
        return vlm, vlm.assemble([], question)
    text = f"{FACTS['time_instruction']}\n{question}" if facts["prompt"] == "time" else question
    return vlm, vlm.assemble([all_of(vlm.encode(frames()))], text)


def close(made: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(made, expected, atol=tolerance, rtol=0)


def test_tower_and_projector() -> None:
    network, pixels = load("bilinear", "grid").network, golden("pixel_values")
    with torch.inference_mode():
        close(network.tower.embeddings(pixels), golden("tower_embeddings"), TOWER)
        close(network.tower(pixels), golden("tower_features"), TOWER)
        close(network.projector(network.tower(pixels)), golden("projected"), TOWER)


@pytest.mark.parametrize("mode", ["bilinear", "average", "max"])
def test_pooled_features(mode: str) -> None:
    vlm = load(mode, "grid")
    tokens = vlm.encode(frames())
    close(tokens.embeds, golden(f"pooled_{mode}"), TOWER)
    assert tokens.grid == ((5, 5) if mode == "bilinear" else (4, 4))
    close(GridPool(mode, (9, 9))(golden("projected")), golden(f"pooled_{mode}"), 1e-6)


@pytest.mark.parametrize("prompt", ["plain", "time", "text_only"])
def test_token_ids(prompt: str) -> None:
    question, instruction = FACTS["question"], FACTS["time_instruction"]
    text = f"{instruction}\n{question}" if prompt == "time" else question
    before, behind = load("bilinear", "grid").chat.around(text, visuals=prompt != "text_only")
    visual = [-200] if prompt != "text_only" else []
    assert [*before, *visual, *behind] == golden(f"input_ids_{prompt}")[0].tolist()


@pytest.mark.parametrize("array", arrays_of("visual_sequence"))
def test_visual_sequences(array: str) -> None:
    run = array.split("/")[0]
    _, prompt = prompt_of(run)
    expected = golden(array)
    start = FACTS["runs"][run]["image_at"]
    close(prompt.embeds[start : start + len(expected)], expected, TOWER)
    assert prompt.length == FACTS["runs"][run]["seq_len"]


@pytest.mark.parametrize("array", [name for name in arrays_of("inputs_embeds") if not name.startswith("trunc")])
def test_inputs_of_the_language_model(array: str) -> None:
    _, prompt = prompt_of(array.split("/")[0])
    close(prompt.embeds[None], golden(array), TOWER)


@pytest.mark.parametrize("run", RUNS)
def test_logits_of_the_first_answer_token(run: str) -> None:
    vlm, prompt = prompt_of(run)
    close(vlm.next_token_logits(prompt), golden(f"{run}/logits_last"), LOGITS)


@pytest.mark.parametrize("run", DECODED)
@pytest.mark.parametrize("setting", ["rep1.0", "rep1.05", "default_generation_config"])
def test_greedy_tokens(run: str, setting: str) -> None:
    vlm, prompt = prompt_of(run)
    options = GenerationOptions(max_new_tokens=24)
    config = decoding.settings(vlm.defaults, vlm.chat.end, vlm.chat.pad, options)
    assert config.repetition_penalty == 1.05
    if setting == "rep1.0":
        config.repetition_penalty = None
    [decoded] = decoding.decode(vlm.network.llm, vlm.tokenizer, [prompt], config, options)
    assert decoded.ids == FACTS["runs"][run][f"greedy_ids_{setting}"]


def test_every_array_is_compared() -> None:
    with np.load(GOLDENS / "llava_ref_tiny9.npz") as arrays:
        names = set(arrays.files)
    compared = {f"{run}/logits_last" for run in RUNS}
    compared |= {*arrays_of("visual_sequence"), *arrays_of("inputs_embeds")}
    compared |= {f"pooled_{mode}" for mode in ("bilinear", "average", "max")}
    compared |= {f"input_ids_{prompt}" for prompt in ("plain", "time", "text_only")}
    compared |= {"tower_embeddings", "tower_features", "projected", "frames_uint8", "pixel_values"}
    elsewhere = {"big_frame_uint8", "big_pixel_values"}  # tests/video/test_pixels.py
    unused = {"tower_post_layernorm", "trunc_plain_bilinear_grid/logits_last", *arrays_of("scores_top2_gap")}
    assert names == compared | elsewhere | unused
    assert {(FACTS["runs"][run]["pool"], FACTS["runs"][run]["newline"]) for run in RUNS} == {
        (pool, newline)
        for pool in ("bilinear", "average", "max")
        for newline in ("grid", "frame", "one_token", "no_token")
    }


def test_where_the_reference_cuts_off_the_question_we_raise(tmp_path: Path) -> None:
    cut = golden("trunc_plain_bilinear_grid/inputs_embeds")[0]
    vlm, whole = prompt_of("plain_bilinear_grid")
    close(whole.embeds[: len(cut)], cut, TOWER)  # all that the reference kept: no question, no assistant header
    shutil.copytree(CHECKPOINT, tmp_path / "short")
    config = json.loads((CHECKPOINT / "config.json").read_text()) | {"tokenizer_model_max_length": len(cut)}
    (tmp_path / "short" / "config.json").unlink()
    (tmp_path / "short" / "config.json").write_text(json.dumps(config))
    short = load_llava_video(str(tmp_path / "short"))
    with pytest.raises(PromptTooLongError, match=r"214 positions \(64 of text\).*limit is 120") as caught:
        short.assemble([all_of(vlm.encode(frames()))], FACTS["question"])
    assert (caught.value.length, caught.value.limit, caught.value.text_tokens) == (214, 120, 64)


@pytest.mark.parametrize("run", RUNS)
def test_bfloat16_is_near_the_reference_in_bfloat16(run: str) -> None:
    """Informative: roundings differ between versions, so this only finds gross errors."""
    vlm = load_bf16(FACTS["runs"][run]["pool"], FACTS["runs"][run]["newline"])
    facts = FACTS["runs"][run]
    visuals = [] if facts["prompt"] == "text_only" else [all_of(vlm.encode(frames()))]
    text = FACTS["question"]
    prompt = vlm.assemble(visuals, f"{FACTS['time_instruction']}\n{text}" if facts["prompt"] == "time" else text)
    with np.load(GOLDENS / "llava_ref_tiny9_bf16.npz") as arrays:
        expected = torch.from_numpy(arrays[f"{run}/logits_last"])
    made = vlm.next_token_logits(prompt)
    assert prompt.embeds.dtype == torch.bfloat16
    assert (made - expected).norm() < 0.03 * expected.norm()


@cache
def load_bf16(pool: str, newline: str) -> LlavaVideo:
    options: dict[str, Any] = {"mm_spatial_pool_mode": pool, "mm_newline_position": newline}
    return load_llava_video(str(CHECKPOINT), LoadOptions(**options, dtype="bfloat16", device="cpu"))
