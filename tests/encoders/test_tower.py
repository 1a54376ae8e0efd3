"""The head on the model's own tower: what it computes, what it costs, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import SiglipModel

from lmms_kvtp.cost.flops import TextShape, VisionShape, pooling_head_flops, text_flops
from lmms_kvtp.encoders.parts.text_side import load_text_side, save_text_side
from lmms_kvtp.encoders.parts.tower_head import HeadShape, TowerHead, load_tower_head
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.encoders.tower import TowerEncoder
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.scorers.parts.fusion import FusionHead
from lmms_kvtp.types import GridPool
from lmms_kvtp.video.frames import Frames

SIGLIP = Path(__file__).parent.parent / "goldens" / "siglip_tiny"
SHAPE = HeadShape(width=24, intermediate=40, heads=3, embed=32)
POOL = GridPool("average", (5, 7))  # 2x3 cells
QUESTION = Question("what is the man doing at the table?")


@pytest.fixture(scope="module")
def siglip() -> SiglipModel:
    return SiglipModel.from_pretrained(SIGLIP, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture
def folder(siglip, tmp_path) -> Path:
    torch.manual_seed(3)
    TowerHead(SHAPE).save(tmp_path)
    save_text_side(tmp_path, siglip.text_model, Siglip(str(SIGLIP)).tokenizer, 1.25, -0.5)
    return tmp_path


def frames(count: int = 4) -> Frames:
    seen = torch.randn(count, 35, 24, generator=torch.manual_seed(count))
    return Frames(torch.zeros(count, 6, 8, 3, dtype=torch.uint8), torch.arange(float(count)), seen)


@torch.no_grad()
def test_a_head_that_starts_from_a_siglip_gives_its_embeddings(siglip):
    vision = siglip.vision_model
    head = TowerHead(HeadShape(32, 48, 4, 32))
    head.start_from(vision)
    pixels = torch.randn(5, 3, 42, 42, generator=torch.manual_seed(1))
    last = vision.encoder(inputs_embeds=vision.embeddings(pixels)).last_hidden_state
    image, attention, keys = head.pool(last)
    found = vision(pixels)
    torch.testing.assert_close(image, found.pooler_output, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(keys, found.last_hidden_state, atol=1e-5, rtol=1e-4)
    wanted = vision.head.attention(vision.head.probe.expand(5, -1, -1), keys, keys)[1][:, 0]
    torch.testing.assert_close(attention, wanted, atol=1e-6, rtol=1e-4)


def test_frames_are_described_from_the_pooled_patches_of_the_models_tower(folder):
    encoder, given = TowerEncoder(str(folder), device="cpu"), frames()
    made = encoder.encode(given, encoder.provides, POOL)
    image, attention, keys = load_tower_head(folder).pool(POOL(given.tower))
    assert torch.equal(made.image, image) and torch.equal(made.keys, keys)
    assert torch.equal(made.probe_attention, attention) and made.image.shape == (4, 32)
    assert made.probe_attention.shape == (4, 6) and not torch.allclose(made.image[0], made.image[1], atol=1e-3)


def test_texts_and_logits_are_those_of_the_text_side(folder, siglip):
    encoder = TowerEncoder(str(folder), device="cpu")
    text = encoder.encode_text(["Who is it?", "a red star"])
    torch.testing.assert_close(text, Siglip(str(SIGLIP), device="cpu").encode_text(["Who is it?", "a red star"]))
    image = encoder.encode(frames(), frozenset({"image"}), POOL).image
    cosine = torch.nn.functional.cosine_similarity(text[:, None], image[None], dim=-1)
    torch.testing.assert_close(encoder.logits(image, text), cosine * torch.tensor(1.25).exp() - 0.5)


def test_the_scorer_reads_frames_in_their_context(folder):
    FusionHead(3, 0.25, 0.5, log_tau=torch.tensor([-0.7, -1.1])).save(folder)
    encoder = TowerEncoder(str(folder), device="cpu")
    made = encoder.encode(frames(7), frozenset({"image"}), POOL)
    text = encoder.encode_text([QUESTION.prompt])
    head = FusionHead.load(folder / "fusion.json", folder / "fusion.safetensors")
    own, local, whole = (encoder.logits(view, text)[0] for view in head.views(made.image))
    wanted = 0.25 * own + 0.25 * local + 0.5 * whole
    torch.testing.assert_close(KVTP().score(made, QUESTION, encoder), wanted, atol=1e-6, rtol=0)


def test_operations_equal_the_closed_forms(folder):
    encoder, count = TowerEncoder(str(folder), device="cpu"), 7
    tower = VisionShape(image_size=0, patch_size=1, hidden=24, intermediate=40, layers=0, heads=3)
    encoder.encode(frames(1), frozenset({"image"}), POOL)  # loads the weights
    with FlopCounterMode(display=False) as counter:
        made = encoder.encode(frames(count), frozenset({"image"}), POOL)
    into_text = count * 2 * 24 * 32
    # the probe is projected once for each frame, scores and mixing are per frame
    assert counter.get_total_flops() == pooling_head_flops(tower, count, patches=6) + into_text
    assert encoder.flops(count, frozenset({"image"}), POOL) == counter.get_total_flops()
    encoder.text_side.tower.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter:
        KVTP().score(made, QUESTION, encoder)
    assert counter.get_total_flops() == KVTP().flops(made, QUESTION, encoder)
    assert KVTP().flops(made, QUESTION, encoder) > text_flops(TextShape(32, 48, 2, 32), [64])


def test_text_sides_come_back_in_half_precision_too(folder, siglip, tmp_path):
    save_text_side(tmp_path / "half", siglip.text_model, Siglip(str(SIGLIP)).tokenizer, 1.25, -0.5, torch.float16)
    whole, half = load_text_side(folder), load_text_side(tmp_path / "half")
    torch.testing.assert_close(half.encode_text(["a cat"]), whole.encode_text(["a cat"]), atol=0.02, rtol=0.02)
    assert half.encode_text(["a cat"]).dtype == torch.float32 and half.scale == 1.25
    sizes = [(path / "text.safetensors").stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[1] < 0.55 * sizes[0]


def test_a_tokenizer_is_written_as_older_versions_of_transformers_read_it(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] != "TokenizersBackend" and not settings.keys() & {"is_local", "local_files_only"}


def test_frames_that_the_model_has_not_seen_are_refused(folder):
    unseen = Frames(torch.zeros(2, 6, 8, 3, dtype=torch.uint8), torch.arange(2.0))
    with pytest.raises(ValueError, match="encoder=tower reads what the model's own tower saw"):
        TowerEncoder(str(folder)).encode(unseen, frozenset({"image"}), POOL)


def test_a_head_of_another_model_is_refused(folder):
    other = Frames(torch.zeros(2, 6, 8, 3, dtype=torch.uint8), torch.arange(2.0), torch.randn(2, 35, 16))
    with pytest.raises(ValueError, match=r"trained on a tower of width 24, this model's has 16; train one with"):
        TowerEncoder(str(folder), device="cpu").encode(other, frozenset({"image"}), POOL)


def test_without_a_checkpoint_the_embedded_models_own_is_read_and_other_models_are_told_how_to_make_one():
    own = Frames(torch.zeros(2, 6, 8, 3, dtype=torch.uint8), torch.arange(2.0), torch.randn(2, 35, 128))
    assert TowerEncoder(device="cpu").encode(own, frozenset({"image"}), POOL).image.shape == (2, 128)
    with pytest.raises(ValueError, match=r"pretrained=tiny was trained on .* 128, this model's has 24; train one with"):
        TowerEncoder(device="cpu").encode(frames(), frozenset({"image"}), POOL)


def test_a_text_side_of_another_width_is_refused(folder):
    encoder = TowerEncoder(str(folder), device="cpu")
    with pytest.raises(ValueError, match="text side of width 32 cannot be compared with frames of width 5"):
        encoder.logits(torch.randn(3, 5), encoder.encode_text(["who?"]))


@pytest.mark.parametrize("damage", ["missing", "short", "shape", "settings"])
@pytest.mark.parametrize(("part", "load"), [("tower_head", load_tower_head), ("text", load_text_side)])
def test_damaged_files_are_named(folder, damage, part, load):
    weights, settings = folder / f"{part}.safetensors", folder / f"{part}.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "short":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "settings":
        settings.write_text("[]")
    else:
        tensors = load_file(weights)
        name = next(name for name in tensors if tensors[name].dim() > 1)
        save_file({**tensors, name: torch.zeros(2, 3)}, weights)
    with pytest.raises(ValueError, match=r"(no head for the model's own tower|no text side of a predictor) in .*"):
        load(folder)
    assert json.loads((folder / "text.json").read_text()) is not None


@pytest.mark.parametrize(
    ("part", "load", "sizes", "told"),
    [
        (
            "tower_head",
            load_tower_head,
            {"width": 3 * 2**16, "intermediate": 3 * 2**16},
            "size mismatch",
        ),  # not: no memory
        ("text", load_text_side, {"hidden_size": 2**17, "intermediate_size": 2**17}, "size mismatch"),
        ("text", load_text_side, {"num_hidden_layers": 10**8}, "100000000 layers of .* tensors"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_anything_is_made_of_them(
    folder, part, load, sizes, told
):
    settings = folder / f"{part}.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | sizes))
    with pytest.raises(ValueError, match=told):
        load(folder)
