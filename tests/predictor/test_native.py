"""What reads the towers of Qwen-VL and InternVL: their own attention and keys, and predictors trained on them."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.native_checkpoints import FAMILIES, write_native
from helpers.small_videos import write_colors
from torch import Tensor

from lmms_kvtp.encode import encode
from lmms_kvtp.encoders.own import OwnTower
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.method import build_method, defaults_of
from lmms_kvtp.pipeline import finish, prepare
from lmms_kvtp.predictor.examples import Example
from lmms_kvtp.predictor.features import FeatureCache
from lmms_kvtp.predictor.model import Objective
from lmms_kvtp.predictor.recipe import Recipe
from lmms_kvtp.predictor.towers import SharedTowers
from lmms_kvtp.predictor.train import train_predictor
from lmms_kvtp.questions import Question
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.load import load_video, video_from_frames
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import LoadOptions, load_vlm
from lmms_kvtp.vlms.native import NativeVLM

SIGLIP = Path(__file__).parents[1] / "goldens" / "siglip_tiny"
COLORS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}


@pytest.fixture(scope="module", params=FAMILIES)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativeVLM:
    folder = write_native(request.param, tmp_path_factory.mktemp(request.param) / request.param)
    least = {} if request.param == "internvl" else {"min_pixels": 4096}
    loaded = load_vlm(str(folder), LoadOptions(device="cpu", attn_implementation="eager", **least))
    assert isinstance(loaded, NativeVLM)
    return loaded


def in_rows(vlm: NativeVLM, patches: Tensor, rows: int, columns: int) -> Tensor:
    """Bring what a tower of Qwen has for each patch of a step into rows, one by one."""
    cells, side = product(range(0, rows, 2), range(0, columns, 2)), vlm.vision.window or max(rows, columns)
    windows = sorted(cells, key=lambda cell: (cell[0] // side, cell[1] // side))  # stable: rows first in a window, too
    order = [(y + dy, x + dx) for y, x in windows for dy in (0, 1) for dx in (0, 1)]
    back = torch.empty_like(patches)
    for at, (y, x) in enumerate(order):
        back[y * columns + x] = patches[at]
    return back


def test_attention_and_keys_are_those_of_the_towers_last_layer_row_by_row(
    vlm: NativeVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = torch.randint(0, 256, (4, 192, 320, 3), generator=torch.manual_seed(0), dtype=torch.uint8)
    video = video_from_frames(rgb, "clip", 1.0, options=vlm.frames)
    uniform = {"scorer": "uniform", "allocator": "uniform", "pruner": "visionzip", "keep_ratio": "0.5"}
    method = build_method(uniform, defaults_of(vlm))
    assert isinstance(method.encoder, OwnTower)
    encoded = encode(vlm, method, video)
    intern = vlm.family == "internvl"
    tower = vlm.model.model.vision_tower if intern else vlm.model.model.visual
    module: Any = tower.encoder.layer[-1].attention if intern else tower.blocks[-1].attn
    paid, keys, softmax = list[Tensor](), list[Tensor](), torch.nn.functional.softmax
    hook = (module.k_norm if intern else module.qkv).register_forward_hook(lambda *given: keys.append(given[-1]))

    def seen(*given: Any, **named: Any) -> Tensor:
        paid.append(softmax(*given, **named))
        return paid[-1]

    [frames] = video.chunks()
    monkeypatch.setattr(torch.nn.functional, "softmax", seen)  # of eager attention, which towers do not return
    vlm.look(frames, vlm.spec(4))
    hook.remove()
    steps, pool = encoded.tokens.num_frames, vlm.pooling(*frames.pixels(vlm.spec(4)).shape[-2:])
    rows, found = encoded.features, encoded.features.column_attention
    if intern:  # the class token has no cell, so the patches share what it would get
        own = paid[-1][..., 1:, 1:]
        received = (own / own.sum(dim=-1, keepdim=True)).mean(dim=(1, 2))
        wanted = torch.stack(keys[-1][:, 1:].chunk(module.num_heads, dim=2)).mean(dim=0)
        assert rows.layer_keys is not None
        torch.testing.assert_close(rows.layer_keys, pool(wanted), atol=1e-6, rtol=1e-4)
    else:
        received = torch.stack([in_rows(vlm, each.mean(dim=(0, 1, 2)), *pool.patches) for each in paid[-steps:]])
    assert found is not None and found.std() > 1e-5
    torch.testing.assert_close(found, pool(received[..., None])[..., 0], atol=1e-6, rtol=1e-4)


def test_a_predictor_is_trained_on_the_tower_and_scores_the_steps_of_a_run(vlm: NativeVLM, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    encoder, examples, options = Siglip(str(SIGLIP), device="cpu"), [], FrameOptions(chunk_size=4)
    for number in range(10):
        shown = torch.randint(0, 3, (5,), generator=draw).repeat_interleave(2)[:9].tolist()  # an odd number of frames
        path = write_colors(tmp_path / f"{number}.mp4", [list(COLORS.values())[color] for color in shown])
        spans = [tuple((float(t), t + 1.0, 5.0) for t in range(9) if shown[t] == color) for color in range(3)]
        asked = [
            Question("", refined=f"find {name}", spans=own) for name, own in zip(COLORS, spans, strict=True) if own
        ]
        examples.append(Example(str(path), tuple(asked), options))
    towers = SharedTowers(vlm, encoder)
    seen, unusable = FeatureCache(towers.viewer, tmp_path / "features").encode(examples)
    steps = -(-9 // vlm.frames_per_step)
    assert not unusable and {len(video.image) for video in seen} == {steps}
    assert {video.labels().shape[1] for video in seen} == {steps} == {len(video.times) for video in seen}
    recipe = Recipe(epochs=8, lr=3e-3, objective=Objective(level="frame"))
    report = train_predictor(towers, seen[:7], seen[7:], recipe, tmp_path / "predictor")
    assert report["validation_after"]["auroc"] > 0.9 > report["validation_before"]["auroc"]
    method = build_method(
        {"predictor": str(tmp_path / "predictor"), "pruner": "random", "keep_ratio": "0.4"}, defaults_of(vlm)
    )
    question = replace(seen[8].example.questions[0], prompt="Where is it?")
    video = load_video(examples[8].source, options)
    ready = prepare(vlm, method, [encode(vlm, method, video)], question)
    [weighed] = ready.weighed
    assert weighed is not None
    key = seen[8].labels()[0] > 0
    assert weighed.relevance[key].min() > weighed.relevance[~key].max()
    [answer] = finish(vlm, method, [ready], GenerationOptions(2))
    assert answer.cost.tokens_kept == int(0.4 * answer.cost.tokens_before) and answer.cost.flops["encoder"] > 0
