"""What training does around its steps."""

import pytest
import torch

from benchmarks.embedded_model.loop import no_denormals

SMALL = 1e-40


def test_small_numbers_are_zero_in_there_and_nowhere_else():
    number = torch.full((8,), SMALL)
    with pytest.raises(RuntimeError, match="a stage that fails"), no_denormals():
        assert (number * 0.5).tolist() == [0.0] * 8
        raise RuntimeError("a stage that fails")
    assert (number * 0.5).tolist() != [0.0] * 8
