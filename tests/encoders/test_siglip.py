import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import SiglipModel

from lmms_kvtp.cost.flops import VisionShape, pooling_head_flops, vision_flops
from lmms_kvtp.encoders.base import pool_patches
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.types import FEATURES, GridPool
from lmms_kvtp.video.frames import Frames

GOLDENS = Path(__file__).parent.parent / "goldens"
TINY = GOLDENS / "siglip_tiny"
LIMIT, END = 64, 1
POOL = GridPool("average", (6, 4))  # 3x2 cells of the 3x3 patches


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(GOLDENS / "kvtp_predictor.npz").items()}


@pytest.fixture(scope="module")
def encoder() -> Siglip:
    return Siglip(str(TINY), device="cpu")


@pytest.fixture(scope="module")
def eager() -> SiglipModel:
    return SiglipModel.from_pretrained(TINY, attn_implementation="eager", dtype=torch.float32).eval()


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "siglip"))


def frames(count: int = 5) -> Frames:
    noise = np.random.default_rng(7).integers(0, 256, (count, 13, 17, 3), dtype=np.uint8)
    return Frames(torch.from_numpy(noise), torch.arange(float(count)))


def maps(encoder: Siglip, golden: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return encoder.describe(golden["pixel_values"], frozenset({name}))[name]


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


def test_image_features_equal_the_reference(encoder, golden):
    close(maps(encoder, golden, "image"), golden["image_features"])


@pytest.mark.parametrize("chunk", ["chunk0", "chunk1"])
def test_text_features_and_logits_equal_the_reference(encoder, golden, chunk):
    text = encoder.embed_ids(golden[f"input_ids_{chunk}"])
    close(text, golden[f"text_features_{chunk}"])
    close(encoder.logits(golden["image_features"], text), golden[f"hf_logits_per_text_{chunk}"])


@torch.no_grad()
def test_probe_attention_is_the_mean_over_heads_of_the_pooling_heads_softmax(encoder, golden, eager):
    hidden = eager.vision_model(golden["pixel_values"]).last_hidden_state
    head = eager.vision_model.head
    query, key, _ = (
        torch.nn.functional.linear(x, w, b)
        for x, w, b in zip(
            (head.probe.expand(19, -1, -1), hidden, hidden),
            head.attention.in_proj_weight.chunk(3),
            head.attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    heads = zip(query.split(8, dim=-1), key.split(8, dim=-1), strict=True)  # width 32, 4 heads
    wanted = torch.stack([(q @ k.mT / 8**0.5).softmax(-1)[:, 0] for q, k in heads]).mean(0)
    close(maps(encoder, golden, "probe_attention"), wanted)


@torch.no_grad()
def test_column_attention_and_keys_are_those_of_the_layer_before_the_last(encoder, golden, eager):
    attentions, keys = [], []
    for layer in eager.vision_model.encoder.layers:
        layer.self_attn.register_forward_hook(lambda module, args, output: attentions.append(output[1]))
        layer.self_attn.k_proj.register_forward_hook(lambda module, args, output: keys.append(output))
    eager.vision_model(golden["pixel_values"])
    wanted = attentions[-2].mean(dim=(1, 2))  # [T, heads, query, key]
    assert not torch.allclose(wanted, attentions[-1].mean(dim=(1, 2)), atol=1e-3)
    close(maps(encoder, golden, "column_attention"), wanted)
    close(maps(encoder, golden, "layer_keys"), torch.stack(keys[-2].chunk(4, dim=2)).mean(dim=0))  # 4 heads


@torch.no_grad()
def test_keys_are_the_input_of_the_pooling_head_or_its_own_keys(encoder, golden, eager):
    hidden = eager.vision_model(golden["pixel_values"]).last_hidden_state
    attention = eager.vision_model.head.attention
    close(maps(encoder, golden, "keys"), hidden)
    projected = Siglip(str(TINY), device="cpu", key_source="projected")
    close(maps(projected, golden, "keys"), hidden @ attention.in_proj_weight[32:64].T + attention.in_proj_bias[32:64])


@torch.no_grad()
def test_patch_text_is_the_pooling_head_without_attention_over_other_patches(encoder, golden, eager):
    hidden = eager.vision_model(golden["pixel_values"]).last_hidden_state
    head = eager.vision_model.head
    values = hidden @ head.attention.in_proj_weight[64:].T + head.attention.in_proj_bias[64:]
    mixed = head.attention.out_proj(values)
    close(maps(encoder, golden, "patch_text"), mixed + head.mlp(head.layernorm(mixed)))


def test_attention_and_keys_are_pooled_as_the_reference_intends():
    stored = np.load(GOLDENS / "kvtp_pruners.npz")
    keys = np.random.RandomState(12).randint(-64, 65, size=(5, 729, 1152)).astype(np.float32) / 16
    pool = GridPool("average", (27, 27))
    attention = pool_patches(torch.from_numpy(stored["head_attention"]), (27, 27), pool)
    close(attention, torch.from_numpy(stored["pooled_attention"]), 1e-8)
    rows = pool_patches(torch.from_numpy(keys), (27, 27), pool).double().sum(-1)
    close(rows, torch.from_numpy(stored["pooled_keys_intended_rowsum_f64"]), 1e-3)


def test_features_lie_on_the_language_models_grid(encoder, golden):
    made = encoder.encode(frames(), FEATURES, POOL)
    patches = encoder.describe(frames().pixels(encoder.pixel_spec), FEATURES)
    for name in FEATURES - {"image"}:
        square = patches[name].reshape(5, 3, 3, -1)
        cells = [square[:, row, column : column + 2].mean(dim=1) for row in range(3) for column in range(2)]
        close(getattr(made, name).reshape(5, 6, -1), torch.stack(cells, dim=1))


def test_only_what_was_asked_for_is_computed(encoder):
    made = encoder.encode(frames(), frozenset({"keys"}), POOL)
    assert {name for name in FEATURES if getattr(made, name) is not None} == {"keys"}
    assert torch.equal(made.times, frames().times)


def test_nothing_is_loaded_for_a_method_that_needs_nothing():
    made = Siglip("no/such/checkpoint").encode(frames(), frozenset(), POOL)
    assert made.image is None


def test_an_unknown_feature_is_refused_by_name(encoder):
    with pytest.raises(ValueError, match=r"Siglip does not provide colour; it has .*probe_attention"):
        encoder.encode(frames(), frozenset({"colour", "image"}), POOL)


def test_no_hook_stays_behind(encoder):
    encoder.encode(frames(), FEATURES, POOL)
    assert not any(module._forward_hooks for module in encoder.model.modules())
    with pytest.raises(RuntimeError):
        encoder.describe(torch.zeros(1, 3, 5, 5), FEATURES)
    assert not any(module._forward_hooks for module in encoder.model.modules())


def test_all_features_cost_one_pass_of_the_tower():
    encoder = Siglip(str(TINY), device="cpu", attn_implementation="eager")
    encoder.encode(frames(), frozenset({"image"}), POOL)
    shape = VisionShape(image_size=42, patch_size=14, hidden=32, intermediate=48, layers=2, heads=4)
    once = vision_flops(shape, 5) + pooling_head_flops(shape, 5)
    for needs, extra in [
        ({"image"}, 0),
        ({"image", "keys", "layer_keys", "probe_attention"}, 0),
        ({"column_attention"}, 2 * 81 * 32),
    ]:
        with FlopCounterMode(display=False) as counter:
            encoder.encode(frames(), frozenset(needs), POOL)
        assert counter.get_total_flops() == once + 5 * extra


def test_half_precision_gives_float32_features(encoder):
    half = Siglip(str(TINY), device="cpu", dtype="bfloat16").encode(frames(), FEATURES, POOL)
    whole = encoder.encode(frames(), FEATURES, POOL)
    for name in FEATURES:
        assert getattr(half, name).dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(getattr(half, name), getattr(whole, name), dim=-1).min() > 0.999


def test_text_is_lowered_ended_and_padded_to_the_models_length(encoder):
    ids = encoder.tokenizer("a red star").input_ids
    padded = torch.tensor([ids + [END] * (LIMIT - len(ids))])
    close(encoder.encode_text(["A Red STAR"]), encoder.embed_ids(padded))
    assert ids[-1] == END


@pytest.mark.parametrize(("letters", "rows"), [(0, 1), (LIMIT - 1, 1), (LIMIT, 2), (2 * LIMIT - 2, 2)])
def test_a_text_over_the_limit_becomes_several_rows(encoder, letters, rows):
    assert encoder.encode_text(["x" * letters]).shape == (rows, 32)


def test_a_long_question_is_cut_between_sentences_and_every_piece_is_a_text_of_its_own(encoder):
    sentences = ["What is the man in the red shirt doing at the table?", "Choices: eating soup, reading a book."]
    close(encoder.encode_text([" ".join(sentences)]), encoder.encode_text(sentences))


def test_the_release_cuts_tokens_and_never_pads(encoder):
    release = Siglip(str(TINY), device="cpu", text_chunks="release")
    text = "q" * 70
    ids = torch.tensor([encoder.tokenizer(text).input_ids])
    wanted = torch.cat([encoder.embed_ids(ids[:, :LIMIT]), encoder.embed_ids(ids[:, LIMIT:])])
    assert ids.shape == (1, 71)
    close(release.encode_text([text]), wanted)


def test_siglips_own_sentencepiece_tokenizer_is_read_and_padded(checkpoint):
    if transformers.__version__ < "5":
        why = "transformers < 5 reads the file by sentencepiece's protobuf code, which wants a newer protobuf than this"
        pytest.importorskip("sentencepiece.sentencepiece_model_pb2", reason=why, exc_type=Exception)
    corpus = checkpoint / "corpus.txt"
    corpus.write_text("what is the man in the red shirt doing\nwhere does the star appear\n" * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(checkpoint / "spiece"), vocab_size=40, model_type="bpe",
        pad_id=-1, bos_id=-1, eos_id=1, unk_id=2, control_symbols=["<pad>"], minloglevel=2,
    )  # fmt: skip
    (checkpoint / "tokenizer.json").unlink()
    stored = {"tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>", "model_max_length": 64}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(stored))
    encoder = Siglip(str(checkpoint), device="cpu")
    ids = encoder.tokenizer("the red star").input_ids
    assert ids[-1] == END and len(ids) > 1
    padded = torch.tensor([ids + [END] * (LIMIT - len(ids))])
    close(encoder.encode_text(["The red STAR!"]), encoder.embed_ids(padded))
    assert len(encoder.encode_text(["what is the man in the red shirt doing, and where? " * 5])) > 1


def test_pixels_follow_the_checkpoints_preprocessing(checkpoint, encoder):
    assert encoder.pixel_spec.size == (42, 42)
    stored = {"size": {"height": 42, "width": 42}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (checkpoint / "preprocessor_config.json").write_text(json.dumps({**stored, "resample": 2}))
    spec = Siglip(str(checkpoint), device="cpu").pixel_spec
    assert (spec.mean, spec.std, spec.resample) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 2)


def test_companion_files_lie_beside_the_weights(checkpoint):
    (checkpoint / "fusion.json").write_text("{}")
    assert Siglip(str(checkpoint)).companion("fusion.json") == checkpoint / "fusion.json"
    assert Siglip(str(checkpoint)).companion("fusion.safetensors") is None


def test_a_checkpoint_without_some_weights_is_refused_by_their_names(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    del weights["vision_model.head.probe"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, such as vision_model\.head\.probe"):
        _ = Siglip(str(checkpoint), device="cpu").model


@pytest.mark.parametrize("change", [{"model_type": "clip"}, {"vision_config": {"vision_use_head": False}}])
def test_a_checkpoint_of_another_kind_is_refused(checkpoint, change):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=r"siglip is a \w+ checkpoint; encoder=siglip reads SigLIP"):
        _ = Siglip(str(checkpoint), device="cpu").model


@pytest.mark.parametrize("given", ["", '{"model_type": "llava_qwen"}'])
def test_what_is_no_checkpoint_is_named(tmp_path, given):
    if given:
        (tmp_path / "config.json").write_text(given)
    with pytest.raises(ValueError, match=rf"{tmp_path} is no folder or hub id of a SigLIP: .*; give one"):
        assert Siglip(str(tmp_path), device="cpu").model
