"""`backend=llava`: LLaVA-NeXT's own package against its recorded arrays and our modules; skipped where it is absent."""

import json
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import checkpoints
from PIL import Image
from torch import Tensor
from transformers import modeling_utils

from lmms_kvtp.doctor.reference import reference_logits, transformers_model
from lmms_kvtp.encode import encode_still
from lmms_kvtp.layer_pruning.fastv import FastV
from lmms_kvtp.types import FrameTokens, GenerationOptions, PackedTokens
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms.checkpoint.config import CheckpointError
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video
from lmms_kvtp.vlms.reading import PrefixCache
from lmms_kvtp.vlms.tiles import StillImage

GOLDENS = Path(__file__).parents[2] / "goldens"
CHECKPOINT = GOLDENS / "llava_tiny9"
FACTS = json.loads((GOLDENS / "llava_ref_tiny9.json").read_text())
RUNS = [run for run in FACTS["runs"] if not run.startswith("trunc")]
TOWER, LOGITS = 2e-5, 5e-5

installed = pytest.mark.skipif(find_spec("llava") is None, reason="LLaVA-NeXT's package is not installed")
theirs = pytest.mark.filterwarnings("ignore")  # of their code: literals compared by `is`, deprecated names


@cache
def golden(name: str) -> Tensor:
    with np.load(GOLDENS / "llava_ref_tiny9.npz") as arrays:
        return torch.from_numpy(arrays[name])


@cache
def load(backend: Any, pool: Any = "bilinear", newline: Any = "grid", dtype: Any = "float32") -> LlavaVideo:
    options = LoadOptions(
        backend=backend, mm_spatial_pool_mode=pool, mm_newline_position=newline, dtype=dtype, device="cpu"
    )
    return load_llava_video(str(CHECKPOINT), options)


def frames() -> Frames:
    rgb = golden("frames_uint8")
    return Frames(rgb, torch.arange(len(rgb)).float())


def some_of(tokens: FrameTokens, step: int = 1) -> PackedTokens:
    """Every token, or each `step`-th."""
    count, capacity, width = tokens.embeds.shape
    place = torch.arange(0, count * capacity, step)
    embeds = tokens.embeds.reshape(-1, width)[place]
    return PackedTokens(embeds, place // capacity, place % capacity, torch.ones(len(place)), tokens.grid, count)


def close(made: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(made, expected, atol=tolerance, rtol=0)


@installed
@theirs
def test_its_modules_are_its_own_and_give_the_recorded_features() -> None:
    network, pixels = load("llava").network, golden("pixel_values")
    modules = [network.tower.siglip, network.llm.model]
    assert [type(module).__module__.split(".")[0] for module in modules] == ["llava", "llava"]
    with torch.inference_mode():
        close(network.tower(pixels), golden("tower_features"), TOWER)
        close(network.projector(network.tower(pixels)), golden("projected"), TOWER)


@installed
@theirs
@pytest.mark.parametrize("run", RUNS)
def test_logits_and_answers_are_the_recorded_ones_and_ours(run: str) -> None:
    facts = FACTS["runs"][run]
    text = FACTS["question"]
    if facts["prompt"] == "time":
        text = f"{FACTS['time_instruction']}\n{text}"
    made = []
    for backend in ("llava", "transformers"):
        vlm = load(backend, facts["pool"], facts["newline"])
        visuals = [] if facts["prompt"] == "text_only" else [some_of(vlm.encode(frames()))]
        prompt = vlm.assemble(visuals, text)
        made.append(vlm.next_token_logits(prompt))
    close(made[0], golden(f"{run}/logits_last"), LOGITS)
    close(made[0], made[1], LOGITS)
    if "greedy_ids_rep1.05" in facts:
        [answer] = load("llava", facts["pool"], facts["newline"]).generate([prompt], GenerationOptions(24))
        ids = facts["greedy_ids_default_generation_config"]
        assert answer.text == vlm.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert answer.num_tokens == len(ids)


@installed
@theirs
def test_half_precision_and_pruned_prompts_agree_with_ours() -> None:
    for dtype, tolerance in (("bfloat16", 0.03), ("float16", 0.01)):
        logits = []
        for backend in ("llava", "transformers"):
            vlm = load(backend, dtype=dtype)
            assert {weight.dtype for weight in vlm.network.parameters()} == {getattr(torch, dtype)}
            prompt = vlm.assemble([some_of(vlm.encode(frames()), step=4)], FACTS["question"])
            logits.append(vlm.next_token_logits(prompt))
        assert 0 < (logits[0] - logits[1]).norm() < tolerance * logits[1].norm()


@installed
@theirs
def test_batches_shared_prefixes_and_layer_pruning_work_on_its_language_model() -> None:
    stages = FastV(layer=1, ratio=0.5).stages()
    logits, texts = [], []
    for backend in ("llava", "transformers"):
        vlm = load(backend)
        packed = some_of(vlm.encode(frames()))
        prompts = [vlm.assemble([packed], text) for text in (FACTS["question"], "And then? What is behind it?")]
        logits.append(vlm.next_token_logits(prompts[0], stages))
        options, prefix = GenerationOptions(6), PrefixCache()
        batch = [made.text for made in vlm.generate(prompts, options)]
        shared = [vlm.generate([prompt], options, prefix=prefix)[0] for prompt in prompts]
        assert [made.text for made in shared] == batch and shared[1].reused > 150
        texts.append(batch)
    close(logits[0], logits[1], LOGITS)
    assert texts[0] == texts[1]


@installed
@theirs
def test_it_is_the_reference_for_our_modules() -> None:
    [check] = reference_logits(load("llava"))
    assert check.name == "LLaVA-NeXT's own package" and check.passed and 0 < check.difference < LOGITS


@installed
@theirs
def test_loading_leaves_transformers_and_the_package_as_they_were() -> None:
    from llava.model.multimodal_encoder import siglip_encoder

    before = dict(vars(modeling_utils)), dict(vars(siglip_encoder)), dict(vars(siglip_encoder.SigLipVisionModel))
    load_llava_video(str(CHECKPOINT), LoadOptions(backend="llava", device="cpu", dtype="bfloat16"))
    after = vars(modeling_utils), vars(siglip_encoder), vars(siglip_encoder.SigLipVisionModel)
    assert before == tuple(map(dict, after))


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> LlavaVideo:
    """By the package, at the true geometry, which its code for images insists on."""
    pairs = [[384 * columns, 384 * rows] for columns in (1, 2, 3) for rows in (1, 2)]
    fields = {"image_aspect_ratio": "anyres_max_2", "image_grid_pinpoints": pairs, "torch_dtype": "bfloat16"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "IMAGE_SIZE", 384)
        patch.setattr(checkpoints, "PATCH_SIZE", 14)
        folder = checkpoints.write_tiny(
            tmp_path_factory.mktemp("true"), siglip=False, fields=fields, dtype=torch.bfloat16
        )
    return load_llava_video(str(folder), LoadOptions(backend="llava", device="cpu", dtype="float32"))


@installed
@theirs
@pytest.mark.parametrize(
    "sizes", [[(500, 300)], [(800, 760)], [(250, 700)], [(1150, 384)], [(90, 40)], [(500, 300), (250, 700)]]
)
def test_images_are_cut_and_laid_out_as_by_its_own_code(tiled: LlavaVideo, sizes: list[tuple[int, int]]) -> None:
    from llava.mm_utils import process_images
    from llava.model.llava_arch import LlavaMetaForCausalLM

    class Shell(LlavaMetaForCausalLM):  # type: ignore[misc]
        """Its preparation of inputs, around the modules that are loaded."""

        model, config, device = tiled.network.llm.model, tiled.network.llm.model.config, torch.device("cpu")

        def get_model(self) -> Any:
            return self.model

    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)) for width, height in sizes]
    shell, alone = Shell(), len(images) == 1
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        if not alone:  # as its evaluation code does with several images
            patch.setattr(shell.config, "image_aspect_ratio", "pad")
        pixels = list(process_images(images, shell.get_vision_tower().image_processor, shell.config))
        before, behind = tiled.chat.around("What is it?", visuals=True)
        between = [id for _ in images[1:] for id in (*tiled.chat.plain(" "), -200)]
        ids = torch.tensor([[*before, -200, *between, *behind]])
        made = shell.prepare_inputs_labels_for_multimodal(
            ids, None, None, None, None, pixels, modalities=["image"] * len(images), image_sizes=sizes
        )
    pictures = [StillImage("noise", torch.from_numpy(np.array(image)), alone) for image in images]
    assert tiled.tiling
    for picture, theirs in zip(pictures, pixels, strict=True):
        torch.testing.assert_close(tiled.pixel_spec(tiled.tiling.pieces(picture)), theirs.reshape(-1, 3, 384, 384))
    whole = [encode_still(tiled, picture).whole for picture in pictures]
    prompt = tiled.assemble([packed for packed in whole if packed], "What is it?")
    close(prompt.embeds[None], made[4], 1e-4)  # of values up to 100


@pytest.mark.skipif(find_spec("llava") is not None, reason="LLaVA-NeXT's package is installed")
def test_without_the_package_the_way_out_is_named() -> None:
    with pytest.raises(ValueError, match=r"backend=llava: LLaVA-NeXT cannot be imported .*or leave backend out"):
        load_llava_video(str(CHECKPOINT), LoadOptions(backend="llava", device="cpu", dtype="bfloat16"))


def test_what_it_cannot_load_is_refused(tmp_path: Path, vlm: LlavaVideo) -> None:
    half = LoadOptions(backend="llava", device="cpu", dtype="bfloat16")
    transformers_model(vlm).save_pretrained(tmp_path / "hf")
    for file in CHECKPOINT.glob("*token*"):
        shutil.copy(file, tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"backend=llava reads the original layout.*Hugging Face's"):
        load_llava_video(str(tmp_path / "hf"), half)
    with pytest.raises(ValueError, match="device_map=balanced: backend=llava splits by device_map=auto only"):
        load_llava_video(str(CHECKPOINT), LoadOptions(backend="llava", device_map="balanced", dtype="bfloat16"))
    shutil.copytree(CHECKPOINT, tmp_path / "single")
    config = json.loads((CHECKPOINT / "config.json").read_text()) | {"torch_dtype": "float32"}
    (tmp_path / "single" / "config.json").unlink()
    (tmp_path / "single" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"dtype=float32: LLaVA-NeXT's loader knows bfloat16 and float16.*in float32"):
        load_llava_video(str(tmp_path / "single"), LoadOptions(backend="llava", device="cpu", dtype="float32"))
