"""What layers get besides hidden states, in the forms that only some attention kernels use."""

from types import SimpleNamespace

import pytest
import torch

from lmms_kvtp.layer_pruning.parts.cut import cut_inputs, cut_keys

KEPT = torch.tensor([0, 2, 5, 6])


def inputs_of(mask, length=7):
    angles = torch.arange(length)[None, :, None] * torch.ones(3)
    return {
        "attention_mask": mask,
        "position_embeddings": (angles, -angles),
        "position_ids": torch.arange(length)[None],
        "cache_position": torch.arange(length),
        "use_cache": True,
    }


@pytest.mark.parametrize("axes", [1, 3], ids=["one axis", "three axes"])
def test_positions_are_cut_along_with_the_rows(axes):
    inputs = inputs_of(None)
    if axes == 3:  # time, row and column, as in Qwen2-VL
        inputs["position_ids"] = inputs["position_ids"][None].repeat(3, 1, 1)
        inputs["position_embeddings"] = tuple(part[None].repeat(3, 1, 1, 1) for part in inputs["position_embeddings"])
    cut = cut_inputs(inputs, KEPT, 7)
    cos, sin = cut["position_embeddings"]
    assert cut["attention_mask"] is None
    assert cut["use_cache"] is True
    assert cut["cache_position"].tolist() == KEPT.tolist()
    assert (cut["position_ids"] == torch.arange(4)).all()  # gaps would be read as packed sequences
    assert (cos[..., 0] == KEPT).all()
    assert (sin[..., 0] == -KEPT).all()
    assert cos.shape == (*inputs["position_embeddings"][0].shape[:-2], 4, 3)


def test_a_mask_of_keys_alone_is_cut_in_prefill_and_decoding():
    mask = torch.arange(7)[None]
    assert cut_inputs(inputs_of(mask), KEPT, 7)["attention_mask"].tolist() == [KEPT.tolist()]
    decoding = inputs_of(torch.arange(9)[None])
    cut = cut_keys(decoding, torch.arange(7), KEPT, past=4 + 1, new=1)
    assert cut["attention_mask"].tolist() == [[0, 2, 5, 6, 7, 8]]


def test_columns_of_a_decoding_mask_are_entries_of_the_first_cache():
    first = torch.tensor([0, 1, 2, 4, 5, 6])  # position 3 is gone everywhere
    mask = torch.tensor([0, 1, 2, 4, 5, 6, 70, 71])[None, None, None]
    cut = cut_keys(inputs_of(mask), first, KEPT, past=4 + 1, new=1)
    assert cut["attention_mask"].flatten().tolist() == [0, 2, 5, 6, 70, 71]


def test_masks_of_another_kind_or_length_are_refused():
    with pytest.raises(ValueError, match="cannot cut a SimpleNamespace"):
        cut_inputs(inputs_of(SimpleNamespace()), KEPT, 7)
    with pytest.raises(ValueError, match="has 12 keys, the cache 7; layer pruning wants a dynamic cache"):
        cut_inputs(inputs_of(torch.ones(1, 1, 7, 12)), KEPT, 7)
