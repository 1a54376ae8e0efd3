"""--model_args: stock names keep their meaning or are refused with a reason; a typo gets near matches."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import write_tiny

from lmms_kvtp.run.build import build
from lmms_kvtp.run.options import ONLY, parse_arguments


def test_defaults_are_the_published_model_and_128_frames():
    arguments = parse_arguments({})
    assert arguments.run.pretrained == "lmms-lab/LLaVA-Video-7B-Qwen2"
    assert (arguments.frames.max_frames_num, arguments.frames.fps) == (128, 1)
    assert (arguments.run.on_error, arguments.run.max_new_tokens, arguments.run.allow_toy) == ("raise", 1024, False)
    assert arguments.load.mm_spatial_pool_mode is None
    assert arguments.method == {}


def test_a_command_of_the_stock_wrapper_is_understood():
    stock = {
        "pretrained": "some/model",
        "conv_template": "qwen_1_5",
        "torch_dtype": "bfloat16",
        "max_frames_num": 64,
        "video_fps": 2,
        "mm_spatial_pool_mode": "average",
        "mm_spatial_pool_stride": 2,
        "mm_newline_position": "no_token",
        "mm_resampler_location": "after",
        "overwrite": True,
        "force_sample": True,
        "add_time_instruction": True,
        "video_decode_backend": "pyav",
        "attn_implementation": "eager",
        "truncation": True,
        "delay_load": False,
        "batch_size": "1",
    }
    arguments = parse_arguments(stock)
    assert arguments.run.pretrained == "some/model"
    assert (arguments.load.dtype, arguments.load.attn_implementation) == ("bfloat16", "eager")
    assert (arguments.load.mm_spatial_pool_mode, arguments.load.mm_newline_position) == ("average", "no_token")
    frames = arguments.frames
    assert (frames.max_frames_num, frames.fps, frames.backend) == (64, 2, "pyav")
    assert frames.force_sample and frames.add_time_instruction


def test_every_argument_of_the_stock_wrapper_has_an_answer():
    spec = find_spec("lmms_eval")
    assert spec and spec.origin
    tree = ast.parse((Path(spec.origin).parent / "models" / "simple" / "llava_vid.py").read_text())
    init = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    names = [argument.arg for argument in init.args.args if argument.arg != "self"]
    assert len(names) > 20
    for name in names:
        try:
            parse_arguments({name: "2"})
        except ValueError as error:
            assert name in str(error)  # a refused value; an unknown name would be a LookupError


@pytest.mark.parametrize(("name", "value"), [(name, "something else") for name in ONLY])
def test_impossible_settings_of_the_stock_wrapper_are_refused_with_the_reason(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} is not possible.*{ONLY[name][1][:20]}"):
        parse_arguments({name: value})


def test_settings_of_the_method_are_passed_on():
    settings = {"keep_ratio": 0.1, "pruner": "tome", "allocator.temperature": 3.0, "scorer": "their.module:Scorer"}
    assert parse_arguments(settings).method == settings


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("max_frame_num", "max_frames_num"), ("keep_ration", "keep_ratio"), ("prunner", "pruner"), ("resum", "resume")],
)
def test_a_typo_is_an_error_that_names_what_was_meant(wrong, meant):
    with pytest.raises(LookupError, match=f"unknown argument '{wrong}'; did you mean.* {meant}"):
        parse_arguments({wrong: 1})


@pytest.mark.parametrize("name", ["dtype", "newlines", "scorrer.checkpoint"])
def test_names_that_are_ours_only_inside_are_unknown(name):
    with pytest.raises(LookupError, match="unknown argument"):
        parse_arguments({name: "auto"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_frames_num": "many"}, "max_frames_num='many' is not a whole number"),
        ({"max_frames_num": 0}, "max_frames_num=0"),
        ({"on_error": "ignore"}, "on_error='ignore' is not one of raise, skip"),
        ({"video_seconds": "inf"}, r"video_seconds=inf is not above 0 and at most 1e\+06; give seconds"),
        ({"video_seconds": 1e7}, r"video_seconds=1e\+07 is not above 0 and at most"),
        ({"frame_cache_gib": "inf"}, "frame_cache_gib=inf is not above 0 and finite"),
        ({"allow_toy": "perhaps"}, "allow_toy='perhaps' is not true or false"),
        ({"fps": 1, "video_fps": 2}, "video_fps=2 contradicts fps=1"),
        ({"device": "cpu", "device_map": "cuda:1"}, "device_map=cuda:1 contradicts device=cpu"),
        ({"device_map": "everywhere"}, "device_map='everywhere' is not one of auto, balanced"),
        ({"overwrite": False, "mm_spatial_pool_mode": "max"}, "leave out mm_spatial_pool_mode=max or overwrite"),
    ],
)
def test_wrong_values_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(settings)


def test_device_map_of_one_device_is_that_device():
    assert parse_arguments({"device_map": "cuda:1"}).load.device == "cuda:1"
    assert parse_arguments({"device_map": "cpu", "device": "cpu"}).load.device == "cpu"
    assert parse_arguments({"device_map": "auto", "max_memory": "cpu=1GB"}).load.device_map == "auto"


def test_at_least_one_process_decodes_ahead():
    assert parse_arguments({}).run.decode_ahead_processes == "auto"
    assert parse_arguments({"decode_ahead_processes": "3"}).run.decode_ahead_processes == 3
    with pytest.raises(ValueError, match="decode_ahead_processes=0 is below 1; decode_ahead_mib=0 decodes nothing"):
        parse_arguments({"decode_ahead_processes": "0"})


def test_the_batch_size_is_a_positive_number():
    assert parse_arguments({"batch_size": "1"}).run.batch_size == 1
    assert parse_arguments({"batch_size": "4", "max_batch_size": 9}).run.batch_size == 4
    for wrong, message in (("auto", "batch_size='auto' is not a whole number"), ("0", "batch_size=0 is below 1")):
        with pytest.raises(ValueError, match=message):
            parse_arguments({"batch_size": wrong})


def test_one_word_sets_what_the_paper_runs_and_arguments_win_over_it(tmp_path):
    device, checkpoint = torch.device("cpu"), str(write_tiny(tmp_path))
    given = {"pretrained": checkpoint, "settings": "paper"}

    def built(defaults=(), **more):
        return build(parse_arguments({**given, **more}), device, dict(defaults))

    paper = built()
    assert (paper.vlm.pool.mode, paper.vlm.newlines.position, paper.vlm.newlines.policy) == (
        "average",
        "grid",
        "release",
    )
    method = paper.method
    assert (method.allocator.temperature, method.allocator.floor, method.scorer.queries) == (2.0, 0, "raw")
    assert paper.setup["settings"] == "paper"
    ours = built(newline="row", **{"allocator.temperature": 4, "scorer.queries": "normalized"})
    assert ours.vlm.newlines.policy == "row" and ours.vlm.pool.mode == "average"
    assert (ours.method.allocator.temperature, ours.method.scorer.queries) == (4.0, "normalized")
    whole_frames = built({"scorer": "similarity", "allocator": "hard", "pruner": "grid"}).method
    assert whole_frames.describe()["allocator"].keys() == {"class"}  # which has no temperature
    plain = build(parse_arguments({"pretrained": checkpoint}), device, {})
    assert plain.method.allocator.floor == 1 and plain.vlm.newlines.policy == "auto"
    with pytest.raises(ValueError, match="settings='papers' is not one of default, paper"):
        parse_arguments({"settings": "papers"})


def test_published_command_lines_of_llava_are_understood_and_batch_size_auto_has_a_way_out():
    parse_arguments({"conv_template": "qwen_1_5", "model_name": "llava_qwen"})
    with pytest.raises(ValueError, match="batch_size='auto' is not a whole number"):
        parse_arguments({"batch_size": "auto"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"method": "fastv", "keep_ratio": 0.1}, {"layer_pruning": "fastv", "layer_pruning.ratio": "0.1"}),
        ({"method": "llava_video_fastv"}, {"layer_pruning.ratio": "0.2", "keep_ratio": "1"}),
        ({"method": "kvtp+tome", "allocator.floor": 0}, {"pruner": "tome", "keep_ratio": "0.2", "allocator.floor": 0}),
        ({"method": "vidcom2", "pruner": "vidcom2"}, {"scorer": "vidcom2", "allocator": "vidcom2"}),
        ({"method": "full"}, {"pruner": "none", "keep_ratio": "1"}),
    ],
)
def test_one_argument_names_a_whole_method(given, expected):
    found = parse_arguments({"pretrained": "tiny", **given}).method
    assert {name: found[name] for name in expected} == expected


def test_a_named_method_and_a_setting_that_contradict_each_other_are_refused():
    with pytest.raises(
        ValueError, match=r"pruner=random contradicts method=kvtp\+tome, which has pruner=tome; leave one"
    ):
        parse_arguments({"pretrained": "tiny", "method": "kvtp+tome", "pruner": "random"})
    with pytest.raises(ValueError, match=r"keep_ratio=0\.2 contradicts method=full, which has keep_ratio=1"):
        parse_arguments({"pretrained": "tiny", "method": "full", "keep_ratio": 0.2})
