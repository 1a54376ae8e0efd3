"""What every frame encoder promises, checked for each of them by name on a tiny checkpoint."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.encoders.parts.text_side import save_text_side
from lmms_kvtp.encoders.parts.tower_head import HeadShape, TowerHead
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.resolve import available, resolve
from lmms_kvtp.types import FEATURES, FrameFeatures, GridPool
from lmms_kvtp.video.frames import Frames, TowerInside

GOLDENS = Path(__file__).parent.parent / "goldens"
POOL = GridPool("bilinear", (7, 5))  # 4x3 cells
TINY_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 8, "patch_size": 7},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


@pytest.fixture(scope="module", params=available("lmms_kvtp.encoders"))
def encoder(request, tmp_path_factory) -> FrameEncoder:
    cls = resolve("lmms_kvtp.encoders", request.param, FrameEncoder)
    if request.param == "siglip":
        return cls(str(GOLDENS / "siglip_tiny"), device="cpu")
    if request.param == "tower":
        folder = tmp_path_factory.mktemp("tower")
        siglip = Siglip(str(GOLDENS / "siglip_tiny"), device="cpu")
        torch.manual_seed(5)
        TowerHead(HeadShape(width=24, intermediate=40, heads=3, embed=32)).save(folder)
        save_text_side(folder, siglip.model.text_model, siglip.tokenizer, 1.0, -2.0)
        return cls(str(folder), device="cpu")
    if request.param == "own":
        return cls()
    assert request.param == "open_clip", f"give encoder {request.param} a tiny checkpoint here"
    folder = tmp_path_factory.mktemp("open_clip")
    torch.manual_seed(5)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": {}}))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return cls(f"local-dir:{folder}", device="cpu")


def frames(first: int, last: int) -> Frames:
    noise = np.random.default_rng(7).integers(0, 256, (7, 13, 17, 3), dtype=np.uint8)
    seen = torch.randn(7, 35, 24, generator=torch.manual_seed(9))  # by the language model's own tower
    plain = Frames(torch.from_numpy(noise[first:last]), torch.arange(first, last) / 2)
    inside = [TowerInside(seen[i : i + 1, :, :12], seen[i : i + 1, :, 12:], heads=3) for i in range(first, last)]
    return plain.seen(seen[first:last], inside)


@pytest.fixture
def reader(encoder) -> FrameEncoder:
    """An encoder that also reads texts."""
    if "image" not in encoder.provides:
        with pytest.raises(ValueError, match="has no text side"):
            encoder.encode_text(["a red star"])
        pytest.skip("it reads no texts, and says so")
    return encoder


def test_it_provides_known_features(encoder):
    assert frozenset() < encoder.provides <= FEATURES


def test_it_gives_what_was_asked_for_on_the_models_grid_in_float32(encoder):
    for needs in [frozenset({name}) for name in encoder.provides] + [encoder.provides]:
        made = encoder.encode(frames(0, 7), needs, POOL)
        assert {name for name in FEATURES if getattr(made, name) is not None} == needs
        assert made.times.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
        for name in needs:
            feature = getattr(made, name)
            assert feature.dtype == torch.float32 and torch.isfinite(feature).all() and len(feature) == 7
            assert name == "image" or feature.shape[1] == 12
            assert feature.flatten(1).std(dim=0).max() > 0  # frames differ


def test_frames_do_not_depend_on_their_chunk(encoder):
    whole = encoder.encode(frames(0, 7), encoder.provides, POOL)
    parts = FrameFeatures.cat([encoder.encode(frames(i, min(i + 3, 7)), encoder.provides, POOL) for i in (0, 3, 6)])
    for name in encoder.provides:
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=1e-5)


def test_frames_are_not_changed(encoder):
    given = frames(0, 7)
    first = encoder.encode(given, encoder.provides, POOL)
    parts = [given.rgb, given.tower, *map(given.pixels, given.prepared)]
    before = [part.clone() for part in parts]
    second = encoder.encode(given, encoder.provides, POOL)
    assert all(torch.equal(part, kept) for part, kept in zip(parts, before, strict=True))
    for name in encoder.provides:
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_what_it_does_not_provide_is_refused_by_name(encoder):
    with pytest.raises(ValueError, match=f"{type(encoder).__name__} does not provide taste; it has "):
        encoder.encode(frames(0, 2), frozenset({"taste"}), POOL)


def test_texts_are_embedded_one_by_one_in_the_space_of_images(reader):
    both = reader.encode_text(["a red star", "two dogs"])
    alone = torch.cat([reader.encode_text(["a red star"]), reader.encode_text(["two dogs"])])
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-5)
    assert both.dtype == torch.float32 and not torch.allclose(both[0], both[1], atol=1e-3)
    assert both.shape[1] == reader.encode(frames(0, 2), frozenset({"image"}), POOL).image.shape[1]


def test_a_text_of_any_length_is_read_to_its_end(reader):
    long = "the man in the red shirt sits down. " * 20
    rows = reader.encode_text([long])
    assert len(rows) > 1
    assert len(reader.encode_text([long + "and then he sings a song"])) >= len(rows)
    assert not torch.equal(reader.encode_text([long + "and then he sings a song"])[-1], rows[-1])


def test_an_empty_text_is_one_row(reader):
    assert len(reader.encode_text([""])) == 1


def test_logits_are_a_rising_function_of_the_cosine_alone(reader):
    image = torch.randn(5, 8, generator=torch.manual_seed(3))
    text = torch.randn(2, 8, generator=torch.manual_seed(4))
    logits = reader.logits(image, text)
    torch.testing.assert_close(reader.logits(3 * image, 7 * text), logits)
    cosine = torch.nn.functional.cosine_similarity(text[:, None], image[None], dim=-1)
    assert torch.equal(logits.flatten().argsort(), cosine.flatten().argsort())


def test_weights_load_on_first_use(reader):
    encoder = reader
    fresh = type(encoder)("no/such/checkpoint")
    assert fresh.encode(frames(0, 2), frozenset(), POOL).image is None


@pytest.mark.gpu
def test_a_gpu_describes_frames_as_the_cpu_does(encoder):
    own = {field.name for field in dataclasses.fields(encoder)}
    asked = {"device": "cuda", "dtype": "float32"}
    moved = dataclasses.replace(encoder, **{name: value for name, value in asked.items() if name in own})
    seen = frames(0, 7)
    inside = [TowerInside(part.queries.cuda(), part.keys.cuda(), part.heads) for part in seen.inside]
    made = moved.encode(seen.seen(seen.tower.cuda(), inside), encoder.provides, POOL)
    expected = encoder.encode(frames(0, 7), encoder.provides, POOL)
    for name in encoder.provides:
        feature = getattr(made, name)
        assert feature.is_cuda
        torch.testing.assert_close(feature.cpu(), getattr(expected, name), atol=1e-3, rtol=1e-3)
