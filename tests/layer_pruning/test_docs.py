"""The example of docs/layer_pruning.md runs, and its table names every layer pruner with its defaults."""

import re
from pathlib import Path

import torch

from lmms_kvtp.layer_pruning.base import layer_pruning
from lmms_kvtp.resolve import available

PAGE = (Path(__file__).parents[2] / "docs" / "layer_pruning.md").read_text()


def test_the_example_keeps_every_other_token(llm, make_prompt):
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.S).group(1), names)
    model, prompt = llm("sdpa"), make_prompt()
    with torch.inference_mode(), layer_pruning(model.model.layers, names["EveryOther"]().stages(), prompt) as trace:
        model(inputs_embeds=prompt.embeds[None])
    assert trace.processed[4].tolist() == [0, 1, 2, 3, 5, 6, 8, 9, 11, 13, 14, 15, 16, 17, 18]


def test_every_layer_pruner_is_in_the_table():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.M) == ["none", "fastv", "holitom", "pyramiddrop", "prunevid"]
    assert set(available("lmms_kvtp.layer_pruning")) == {"none", "fastv", "holitom", "pyramiddrop", "prunevid"}
