"""The rows of the papers' tables as model ids."""

from pathlib import Path

import pytest
from lmms_eval import models

from lmms_kvtp.harness.plugin import MODELS
from lmms_kvtp.presets import word_of

ROWS = {
    "llava_video": ("uniform", "uniform", "none", "none", 1.0),
    "llava_video_random": ("uniform", "uniform", "random", "none", 0.2),
    "llava_video_tome": ("uniform", "uniform", "tome", "none", 0.2),
    "llava_video_prumerge": ("uniform", "uniform", "prumerge", "none", 0.2),
    "llava_video_fastv": ("uniform", "uniform", "none", "fastv", 1.0),
    "llava_video_keyvideollm": ("similarity", "hard", "grid", "none", 0.2),
    "llava_video_prunevid": ("uniform", "uniform", "prunevid", "prunevid", 0.5),
    "llava_video_kvtp": ("similarity", "softmax", "prumerge", "none", 0.2),
}
LAYERS = {"layer_pruning.layer": 1}
"""The random model has fewer layers than PruneVid's default counts on."""


def build(name, checkpoint, **settings):
    cls = models.get_model(name)
    return cls(pretrained=str(checkpoint), device="cpu", journal="none", batch_size=1, **settings)


def parts(method):
    described = method.describe()
    return (
        *(word_of(part, described) for part in ("scorer", "allocator", "pruner", "layer_pruning")),
        method.keep_ratio,
    )


def test_every_id_is_tested_and_stands_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in page.splitlines()]
    documented = {row[0]: row for row in rows if row[0] in MODELS and len(row) == 5}
    for name, (scorer, allocator, pruner, layers, ratio) in ROWS.items():
        assert documented[name] == [name, f"siglip, {scorer}, {allocator}", pruner, f"{ratio:g}", layers]
    assert set(ROWS) == {name for name in MODELS if name.startswith("llava_video")}


@pytest.mark.parametrize("name", ROWS)
def test_an_id_is_its_method(name, checkpoint):
    method = build(name, checkpoint, **(LAYERS if name.endswith("prunevid") else {})).built.method
    assert parts(method) == ROWS[name]
    assert method.encoder.pretrained == str(Path(checkpoint) / "siglip")


def test_arguments_override_what_an_id_fills_in(checkpoint):
    changed = build("llava_video_keyvideollm", checkpoint, keep_ratio=0.3, pruner="random", **{"pruner.seed": 5})
    assert parts(changed.built.method) == ("similarity", "hard", "random", "none", 0.3)
    assert changed.built.method.pruner.seed == 5


def test_a_layer_that_the_model_has_not_is_refused_with_the_way_out(checkpoint):
    with pytest.raises(ValueError, match="before layer 11 with scores of layer 10: the model has layers 0 to 3"):
        build("llava_video_prunevid", checkpoint)
