"""Forecasts of models that transformers has a class for, without weights, against runs with them."""

import copy
import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.native_checkpoints import FAMILIES, write_native

from lmms_kvtp.__main__ import main
from lmms_kvtp.cost.flops import merged_flops
from lmms_kvtp.cost.meter import counting
from lmms_kvtp.encode import encode
from lmms_kvtp.forecast.forecast import forecast
from lmms_kvtp.forecast.models import find_sizes, pool_of
from lmms_kvtp.method import build_method, defaults_of
from lmms_kvtp.pipeline import finish, prepare
from lmms_kvtp.presets import settings_of
from lmms_kvtp.pruners.parts.packing import pack
from lmms_kvtp.questions import Question
from lmms_kvtp.types import TEXT, FrameTokens, GenerationOptions
from lmms_kvtp.video.load import video_from_frames
from lmms_kvtp.vlms.base import LoadOptions, load_vlm
from lmms_kvtp.vlms.released import SIZES, Released

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "released_sizes.py"))
HEIGHT, WIDTH, FRAMES = 200, 330, 9
METHODS = {"all tokens": ("full", 1.0), "tome": ("tome", 0.4), "fastv": ("fastv", 0.5), "maxmin": ("maxmin", 0.2)}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(request.param, tmp_path_factory.mktemp(request.param) / request.param)


@pytest.mark.parametrize("name", METHODS)
def test_a_forecast_is_the_cost_of_the_run(folder: Path, name: str) -> None:
    least = {} if folder.name == "internvl" else {"min_pixels": 4096, "max_pixels": 40000}
    options = LoadOptions(device="cpu", **least)
    vlm, sizes = load_vlm(str(folder), options), find_sizes(str(folder), options)
    method = build_method(settings_of(*METHODS[name], 5), {**defaults_of(vlm), "encoder": "siglip"})
    rgb = torch.randint(0, 256, (FRAMES, HEIGHT, WIDTH, 3), generator=torch.manual_seed(0), dtype=torch.uint8)
    video = video_from_frames(rgb, "clip", 1.0, options=replace(vlm.frames, max_frames_num=FRAMES, chunk_size=4))
    ready = prepare(vlm, method, [encode(vlm, method, video)], Question("What is it?"))
    [answer] = finish(vlm, method, [ready], GenerationOptions(3))
    ran, text = answer.cost, int((ready.prompt.role == TEXT).sum())
    pool = pool_of(sizes, None, ran.num_frames, (HEIGHT, WIDTH))
    told = forecast(sizes, method, ran.num_frames, pool, text_tokens=text, output_tokens=ran.output_tokens)
    names = ("num_frames", "tokens_before", "tokens_kept", "tokens_structural", "prompt_tokens", "layer_lengths")
    assert {n: getattr(told.cost, n) for n in names} == {n: getattr(ran, n) for n in names}
    assert told.cost.flops == {stage: count for stage, count in ran.flops.items() if count}
    assert told.cost.prefill_flops_causal == ran.prefill_flops_causal
    assert sizes.parameters == sum(p.numel() for p in vlm.model.parameters())
    assert sizes.limit == vlm.limit and not told.unknown


def test_the_command_counts_them_and_refuses_what_is_llava_videos(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["flops", "--model", str(folder), "--method", "vidcom2", "--keep-ratio", "0.25"]
    assert main([*given, "--frames", "16", "--size", "360", "640"]) == 0
    shown = capsys.readouterr().out
    tokens = {"qwen2_5_vl": 8 * 13 * 23, "qwen3_vl": 8 * 11 * 20, "internvl": 16 * 16}[folder.name]
    between = {"qwen2_5_vl": 0, "qwen3_vl": 8 * 15 + 3, "internvl": 9 * 10 + 7 * 11 + 15}[folder.name]
    assert (
        f"16 frames: {tokens // 4} of {tokens} vision tokens, {between} newlines or places of text between them"
        in shown
    )
    for more, told in (
        (["--pool", "average"], "pooling average"),
        (["--profiler", "thop"], "thop runs LLaVA"),
    ):
        with pytest.raises(SystemExit):
            main([*given, *more])
        assert told in capsys.readouterr().err


ONE_EACH = ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen3-VL-2B-Instruct", "OpenGVLab/InternVL3-1B-hf")
PUBLISHED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33_452_718_336,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "OpenGVLab/InternVL3-8B-hf": 7.94e9,
    "OpenGVLab/InternVL3_5-8B-HF": 8.53e9,
}
"""Parameters, of the headers of the released weights (Qwen), or of the model cards, to two places of a billion."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_released_models_have_their_sizes_without_a_download(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    sizes = find_sizes(name)
    places = -7 if isinstance(PUBLISHED[name], float) else None
    assert isinstance(sizes, Released) and round(sizes.parameters, places) == PUBLISHED[name]
    if "7B" in name or "Qwen3-VL-8B" in name:
        assert main(["flops", "--model", name, "--method", "full", "--frames", "32"]) == 0
        text = {"qwen2_5_vl": 0, "qwen3_vl": 5 * 8 + 11 * 9}[sizes.family]  # <0.5 seconds>, 10.5 one more; 2 marks
        assert f"11520 of 11520 vision tokens, {text} newlines or places" in capsys.readouterr().out


@pytest.mark.parametrize("name", ONE_EACH)
def test_released_sizes_are_those_of_the_classes(name: str) -> None:
    told = SCRIPT["sizes"](SCRIPT["model"](name, LoadOptions()))
    assert json.loads(json.dumps(told)) == json.loads(SIZES.read_text())[name]


@pytest.mark.slow
def test_the_file_of_released_sizes_is_what_its_script_writes() -> None:
    known = {name: SCRIPT["sizes"](SCRIPT["model"](name, LoadOptions())) for name in SCRIPT["configs"]()}
    assert json.loads(json.dumps(known)) == json.loads(SIZES.read_text())


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("empty", ["keep", "drop"])
@pytest.mark.parametrize("steps", [1, 12, 103])
def test_a_released_prompt_is_laid_out_as_the_processor_does(name: str, empty: str, steps: int) -> None:
    options = LoadOptions(empty=empty if "2.5" not in name else "keep")
    sizes, model = find_sizes(name, options), SCRIPT["model"](name, options)
    grid = (16, 16) if "Intern" in name else (2, 3)
    tokens = FrameTokens(torch.empty(steps, math.prod(grid), 1), grid)
    kept = torch.rand(steps, 1, generator=torch.manual_seed(steps)) < 0.6
    for mask in (kept, ~kept, torch.ones(steps, 1) > 0, torch.zeros(steps, 1) > 0):
        packed = pack(tokens, tokens.embeds, mask & (torch.arange(tokens.capacity) != 2))
        assert sizes.roles(packed).tolist() == model.roles(packed).tolist()


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize(
    "given", [{}, {"max_pixels": 300_000}, {"min_pixels": 500_000, "max_pixels": 900_000}, {"total_pixels": 9_000_000}]
)
def test_frames_of_a_released_model_have_the_processors_size(name: str, given: dict[str, int]) -> None:
    options = LoadOptions(**given)
    sizes, model = find_sizes(name, options), SCRIPT["model"](name, options)
    for frames, shape in ((1, (720, 1280)), (32, (360, 640)), (768, (1080, 608))):
        told, own = sizes.spec(frames), model.spec(frames)
        assert told == replace(own, mean=told.mean, std=told.std)
        assert pool_of(sizes, None, frames, shape) == model.pooling(*own.target(*shape))


def test_towers_of_released_widths_need_the_operations_that_they_say() -> None:
    """Four of their layers, of which one sees the whole step."""
    for name in ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen3-VL-2B-Instruct"):
        sizes = SCRIPT["model"](name, LoadOptions())
        config = copy.deepcopy(sizes.model.config.vision_config)
        config.depth, config.fullatt_block_indexes, config._attn_implementation = 4, [3], "eager"
        config.deepstack_visual_indexes = [0, 1, 2]
        with torch.device("meta"):
            tower = type(sizes.model.model.visual)._from_config(config)
        tower = tower.to_empty(device="cpu")
        shape, side = replace(sizes.tower_shape(config)), 3 * 2 * sizes.vision.patch_size**2
        with counting() as found, torch.inference_mode():
            tower(torch.zeros(12 * 10, side), grid_thw=torch.tensor([[1, 12, 10]]))
        assert found.flops == sum(merged_flops(shape, (12, 10), 1))
