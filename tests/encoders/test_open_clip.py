import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from lmms_kvtp.cost.meter import counting, unfused
from lmms_kvtp.encoders.open_clip import OpenClip
from lmms_kvtp.types import GridPool
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.video.pixels import ResizedPixels

POOL = GridPool("average", (6, 4))
CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 8, "patch_size": 7},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
SIGLIP = {
    "embed_dim": 32,
    "init_logit_bias": -3,
    "custom_text": True,
    "vision_cfg": CLIP["vision_cfg"],
    "text_cfg": {**CLIP["text_cfg"], "no_causal_mask": True, "pool_type": "last"},
}
SQUASH = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}


def written(folder: Path, config: dict, preprocess: dict) -> str:
    """A folder with a tiny random model as open_clip saves it."""
    torch.manual_seed(5)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> OpenClip:
    return OpenClip(written(tmp_path_factory.mktemp("clip"), CLIP, {}), device="cpu")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> OpenClip:
    return OpenClip(written(tmp_path_factory.mktemp("siglip"), SIGLIP, SQUASH), device="cpu")


def frames() -> Frames:
    noise = np.random.default_rng(7).integers(0, 256, (5, 13, 37, 3), dtype=np.uint8)
    return Frames(torch.from_numpy(noise), torch.arange(5.0))


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_scores_are_open_clips_own(name, request):
    encoder = request.getfixturevalue(name)
    model, preprocess = open_clip.create_model_from_pretrained(encoder.pretrained)
    pixels = torch.stack([preprocess(Image.fromarray(frame.numpy())) for frame in frames().rgb])
    output = model(pixels, open_clip.get_tokenizer(encoder.pretrained)(["a red star"]))
    image, text, scale, *bias = output
    wanted = text @ image.T * scale + (bias[0] if bias else 0)
    described = encoder.encode(frames(), frozenset({"image"}), POOL).image
    found = encoder.logits(described, encoder.encode_text(["a red star"]))
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    assert found.std() > 1e-3


def test_models_that_squash_share_the_preprocessing_of_other_towers(siglip, clip):
    assert siglip.pixel_spec == ResizedPixels((28, 28), (0.5,) * 3, (0.25,) * 3, Image.Resampling.BILINEAR.value)
    assert clip.pixel_spec.resize_mode == "shortest"
    assert hash(clip.pixel_spec) == hash(OpenClip(clip.pretrained, device="cpu").pixel_spec)


@pytest.mark.parametrize(("words", "rows"), [(14, 1), (15, 2), (28, 2), (29, 3)])
def test_a_text_over_the_limit_becomes_several_rows(clip, words, rows):
    assert len(clip.encode_text(["cat " * words])) == rows  # 16 positions, two of them for start and end


def test_half_precision_gives_float32_features(clip):
    half = OpenClip(clip.pretrained, device="cpu", dtype="bfloat16")
    image = half.encode(frames(), frozenset({"image"}), POOL).image
    assert image.dtype == half.encode_text(["a star"]).dtype == torch.float32
    wanted = clip.encode(frames(), frozenset({"image"}), POOL).image
    assert torch.nn.functional.cosine_similarity(image, wanted).min() > 0.99


def test_names_give_a_model_and_its_weights():
    assert OpenClip("ViT-B-32/laion2b_s34b_b79k")._source == ("ViT-B-32", "laion2b_s34b_b79k")
    assert OpenClip("ViT-B-32//tmp/own.pt")._source == ("ViT-B-32", "/tmp/own.pt")
    assert OpenClip("open_clip:ViT-SO400M-14-SigLIP-384")._source == ("ViT-SO400M-14-SigLIP-384", "webli")
    assert OpenClip("hf-hub:timm/ViT-B-16-SigLIP")._source == ("hf-hub:timm/ViT-B-16-SigLIP", "")


def test_a_name_without_one_set_of_weights_lists_them_or_near_names():
    with pytest.raises(ValueError, match=r"names no weights; write ViT-B-32/tag .*: .*openai.*laion2b_s34b_b79k"):
        _ = OpenClip("ViT-B-32").model
    with pytest.raises(ValueError, match=r"did you mean ViT-B-32"):
        _ = OpenClip("ViT-B-33").model


def test_weights_that_do_not_load_are_named(tmp_path, clip):
    with pytest.raises(ValueError, match=r"encoder\.pretrained=ViT-B-32/nothing did not load: .*not a known tag"):
        _ = OpenClip("ViT-B-32/nothing", device="cpu").model
    with pytest.raises(ValueError, match=r"did not load"):
        _ = OpenClip(f"local-dir:{tmp_path}/none", device="cpu").model


def test_companion_files_lie_in_the_folder(clip):
    folder = Path(clip.pretrained.removeprefix("local-dir:"))
    assert clip.companion("open_clip_config.json") == folder / "open_clip_config.json"
    assert clip.companion("fusion.json") is None
    assert OpenClip(f"ViT-B-32/{folder}/open_clip_pytorch_model.bin").companion("open_clip_config.json").is_file()
    assert OpenClip("ViT-B-32/openai").companion("fusion.json") is None


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_operations_are_what_torch_counts_when_attention_is_not_fused(name, request):
    encoder = request.getfixturevalue(name)
    with unfused(), counting() as found:
        features = encoder.encode(frames(), frozenset({"image"}), POOL)
    assert found.flops == encoder.flops(5, frozenset({"image"}), POOL) > 0
    assert encoder.flops(5, frozenset(), POOL) == 0
    texts = ["a short one", "a sentence of many words " * 9]
    with unfused(), counting() as found:
        encoder.logits(features.image, encoder.encode_text(texts))
    assert found.flops == encoder.relevance_flops(5, texts)


def test_counting_leaves_fused_attention_as_it_was(clip):
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    with pytest.raises(OSError), unfused():
        raise OSError
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == before
