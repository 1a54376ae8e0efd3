"""The ledger of a whole answer against torch's counter, on a random model of the original layout in eager mode."""

import pytest
from helpers.answers import answers
from helpers.checkpoints import IMAGE_SIZE, LLM, write_tiny
from helpers.rotary import rotary_flops
from helpers.small_videos import Clip

from lmms_kvtp.api import Model
from lmms_kvtp.cost.flops import pooling_head_flops, prefill_flops, projector_flops, vision_flops
from lmms_kvtp.cost.meter import counting
from lmms_kvtp.questions import Question
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    folder = write_tiny(tmp_path_factory.mktemp("model"))
    return Model(load_llava_video(str(folder), LoadOptions(attn_implementation="eager", device="cpu")))


def ask(model: Model, method: str):
    chosen = model.method(f"{method},encoder.attn_implementation=eager,encoder.device=cpu")
    chosen.encoder.forget_texts()
    if chosen.needs:
        # the counter does not see into the fused inference path of nn.MultiheadAttention
        chosen.encoder.model.vision_model.head.attention.train()
    clip, question = Clip(7, IMAGE_SIZE, IMAGE_SIZE, chunk_size=5), Question(prompt="what color is it?")
    return next(answers(model.vlm, chosen, [clip], [question], GenerationOptions(max_new_tokens=4)))


@pytest.mark.parametrize(
    "pruner",
    [
        "prumerge",
        "tome",
        "random",
        "visionzip",
        "cdpruner",
        "cdpruner,scorer=uniform",
        "flashvid",
        "random,layer_pruning=fastv,layer_pruning.layer=1",
        "random,layer_pruning=pyramiddrop,layer_pruning.layers=0:1,layer_pruning.ratios=.5:.25",
        "prunevid,layer_pruning=prunevid,layer_pruning.layer=0",
    ],
)
def test_all_stages_together_are_what_torch_counts(model, pruner):
    ask(model, f"pruner={pruner},keep_ratio=0.3")  # the weights load
    with counting() as found, rotary_flops(model.vlm.rotary) as rotary:
        cost = ask(model, f"pruner={pruner},keep_ratio=0.3").cost
    assert set(cost.flops) >= {"vision", "projector", "encoder", "scorer", "prefill", "generate"}
    assert cost.flops_total == found.flops - rotary.flops


def test_each_stage_has_its_closed_form(model):
    cost, vlm = ask(model, "pruner=random,keep_ratio=0.3").cost, model.vlm
    assert cost.flops["vision"] == vision_flops(vlm.vision, 7)
    assert cost.flops["projector"] == projector_flops(vlm.vision, vlm.llm, 7)
    whole = vision_flops(model.method().encoder.vision, 7) + pooling_head_flops(vlm.vision, 7)
    assert cost.flops["encoder"] == whole  # one layer more than the model's own tower, and the head
    assert cost.flops["prefill"] == prefill_flops(vlm.llm, cost.layer_lengths)
    n = cost.prompt_tokens
    pairs = n * (n - 1) // 2
    per_pair = 4 * LLM["hidden_size"] * LLM["num_hidden_layers"]
    assert cost.flops["prefill"] - cost.prefill_flops_causal == per_pair * pairs
    assert "pruner" not in cost.flops  # no matrix products


def test_the_baseline_pays_for_no_helper(model):
    cost = ask(model, "scorer=uniform,allocator=uniform,pruner=none,keep_ratio=1").cost
    assert set(cost.flops) == {"vision", "projector", "prefill", "generate"}


def test_every_stage_has_its_seconds(model):
    cost = ask(model, "pruner=prumerge,keep_ratio=0.3").cost
    named = ("preprocess", "vision", "encoder", "scorer", "pruner", "prefill")
    assert cost.first_token_seconds == pytest.approx(sum(cost.seconds[stage] for stage in named))
    assert min(cost.seconds[stage] for stage in named) > 0
