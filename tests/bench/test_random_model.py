"""Models of real sizes with random weights, and time to the first token on them."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from helpers.answers import answers

from lmms_kvtp.bench.first_token import PixelVideo, first_tokens, random_pixels
from lmms_kvtp.bench.random_model import random_llava, random_parts, write_siglip
from lmms_kvtp.cost.flops import TextShape, VisionShape
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.forecast.models import Encoder, find_spec
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import settings_of
from lmms_kvtp.questions import Question
from lmms_kvtp.types import FEATURES, GenerationOptions
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.video.load import video_from_frames
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video

VISION, TEXT = VisionShape(42, 7, 24, 40, 3, 3), TextShape(24, 40, 2, 24)


@pytest.fixture(scope="module")
def vlm():
    return random_llava(find_spec("tiny"), LoadOptions(device="cpu"))


@pytest.fixture
def random_method():
    return build_method(settings_of("random", 0.25), {"encoder": "siglip"})


def test_a_random_model_has_the_tensors_of_a_loaded_one(vlm):
    loaded = load_llava_video("tiny", LoadOptions(device="cpu"))
    sizes = [{name: t.shape for name, t in each.network.state_dict().items()} for each in (vlm, loaded)]
    assert sizes[0] == sizes[1]
    assert (vlm.vision, vlm.llm, vlm.pool, vlm.newlines) == (loaded.vision, loaded.llm, loaded.pool, loaded.newlines)
    weights = vlm.network.state_dict()
    assert weights["llm.model.layers.3.mlp.up_proj.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert weights["llm.model.norm.weight"].eq(1).all() and weights["projector.0.bias"].eq(0).all()


def test_more_weights_than_memory_are_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"llava-video-72b in torch.float32 take 27\d GiB, cpu has .* GiB"):
        random_llava(find_spec("llava-video-72b"), LoadOptions(device="cpu", dtype="float32"))


def test_a_random_siglip_is_read_by_the_encoder_in_its_sizes(tmp_path, vlm):
    encoder = Siglip(str(write_siglip(tmp_path, Encoder(VISION, TEXT, positions=32))), device="cpu")
    assert encoder.vision == VISION and encoder.pixel_spec.size == (42, 42)
    rgb = torch.randint(0, 255, (2, 30, 50, 3), dtype=torch.uint8)
    found = encoder.encode(Frames(rgb, torch.arange(2.0)), FEATURES, vlm.pool)
    assert found.image.shape == (2, 24) and found.keys.shape[1] == vlm.pool.grid[0] * vlm.pool.grid[1]
    assert encoder.logits(found.image, encoder.encode_text(["a red star"])).isfinite().all()


def test_an_unknown_encoder_is_refused_with_near_matches(tmp_path, vlm):
    with pytest.raises(LookupError, match=r"no sizes of encoder 'base-225'; did you mean base-224"):
        random_parts("base-225", find_spec("tiny"), tmp_path, vlm)


def test_pixels_on_the_device_give_the_answer_of_the_frames_they_are_of(vlm, random_method):
    rgb = torch.randint(0, 255, (5, 40, 60, 3), generator=torch.manual_seed(1), dtype=torch.uint8)
    frames = video_from_frames(rgb, key="random pixels")
    pixels = PixelVideo({vlm.pixel_spec: vlm.pixel_spec(rgb)}, chunk_size=2)
    asked, options = [Question("What is it?")], GenerationOptions(max_new_tokens=5)
    texts = []
    for video in (frames, pixels):
        [made] = answers(vlm, random_method, [video], asked, options)
        texts.append((made.text, made.cost.tokens_kept, made.cost.prompt_tokens))
    assert texts[0] == texts[1]
    assert texts[0][0]


def test_methods_take_turns_and_the_warm_rounds_do_not_count(vlm, random_method, monkeypatch):
    order = []
    prune = type(random_method.pruner).prune
    monkeypatch.setattr(
        type(random_method.pruner), "prune", lambda self, *given: order.append(self.seed) or prune(self, *given)
    )
    methods = {str(seed): build_method({**settings_of("random", 0.25), "pruner.seed": seed}, KVTP) for seed in (0, 1)}
    found = first_tokens(vlm, methods, random_pixels([vlm.pixel_spec], 3, vlm.device, vlm.dtype), rounds=2, warm=1)
    assert order == [0, 1, 1, 0, 0, 1]
    for runs in found.values():
        assert len(runs) == 2
        for run in runs:
            assert run.cost.output_tokens == 1 and run.cost.num_frames == 3 and run.cost.peak_bytes is None
            assert sum(run.cost.seconds.values()) <= run.seconds


def test_the_script_runs_end_to_end_at_a_small_geometry(tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.json"
    given = "--model tiny --frames 4 --encoders shared --alone --ratios 0.2 --rounds 1 --device cpu"
    monkeypatch.setattr(sys, "argv", ["first_token.py", *given.split(), "--output", str(out)])
    runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "first_token.py"), run_name="__main__")
    full, stock, pruned = json.loads(out.read_text())["rows"]
    assert (full["method"], pruned["method"]) == ("full", "kvtp+prumerge 20%, shared")
    assert full["ratio"] == full["ceiling"] == 1 and pruned["ceiling"] > 1.1
    assert stock["method"] == "stock" and 1 < stock["ceiling"] < 1.2 and stock["prompt_tokens"] < full["prompt_tokens"]
    assert pruned["prompt_tokens"] < full["prompt_tokens"]
    assert {"vision", "encoder", "scorer", "pruner", "prefill"} <= set(pruned["stages"])
    assert "kvtp+prumerge 20%, shared" in capsys.readouterr().out
