"""From --model_args to a method."""

import pytest
import torch

from lmms_kvtp.method import KVTP, build_method, build_part


def test_silence_means_kvtp_with_prumerge_at_twenty_percent():
    method = build_method({}, KVTP)
    names = {part: value["class"] for part, value in method.describe().items() if isinstance(value, dict)}
    assert names["scorer"] == "lmms_kvtp.scorers.kvtp:KVTP" and not method.scorer.fusion
    assert names["allocator"] == "lmms_kvtp.allocators.softmax:Softmax"
    assert names["pruner"] == "lmms_kvtp.pruners.prumerge:PruMerge"
    assert method.keep_ratio == 0.2
    assert method.query_aware


def test_fields_are_set_by_name_and_recorded():
    method = build_method({"allocator.temperature": "0.5", "pruner": "random", "pruner.seed": "7"}, KVTP)
    record = method.describe()
    assert record["allocator"]["temperature"] == 0.5
    assert record["pruner"]["seed"] == 7


def test_a_default_of_one_encoder_never_reaches_another():
    defaults = {**KVTP, "encoder.pretrained": "somewhere"}
    assert build_method({}, defaults).encoder.pretrained == "somewhere"
    assert build_method({"encoder": "open_clip", "pruner": "random"}, defaults).encoder.pretrained != "somewhere"


def test_a_word_stands_for_a_component_and_a_number_beside_it_wins():
    plain = build_method({"scorer": "similarity", "scorer.clip_size": "3"}, KVTP).scorer
    assert (plain.fusion, plain.clip_size) == (False, 3)


def test_settings_of_a_word_in_the_defaults_never_reach_the_component_itself():
    assert not build_method({}, {**KVTP, "scorer": "similarity"}).scorer.fusion
    assert build_part("scorer", "kvtp").fusion


def test_a_scorer_brings_the_encoder_that_it_goes_with_unless_another_is_named():
    defaults = {**KVTP, "encoder.pretrained": "somewhere"}
    shared = build_method({"scorer": "shared", "encoder.pretrained": "tiny_shared"}, defaults).encoder
    assert type(shared).__name__ == "TowerEncoder" and shared.pretrained == "tiny_shared"
    assert build_method({"scorer": "shared"}, defaults).encoder.pretrained == "tiny_shared"
    named = build_method({"scorer": "shared", "encoder": "siglip"}, defaults).encoder
    assert type(named).__name__ == "Siglip"


def test_a_method_without_needs_computes_no_features():
    method = build_method({"scorer": "uniform", "allocator": "uniform", "pruner": "random"}, KVTP)
    assert method.needs == frozenset()
    assert not method.query_aware


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prunner": "tome"}, "unknown setting 'prunner'; did you mean pruner"),
        ({"pruner.sed": "1", "pruner": "random"}, "pruner=random has no setting 'sed'; did you mean seed"),
        ({"allocator": "sofmax"}, "no BudgetAllocator named 'sofmax'; did you mean softmax"),
        ({"scorer": "similariti"}, "no FrameScorer named 'similariti'; did you mean similarity.*available: .*shared"),
        ({"pruner": "prumerge_plus", "pruner.sed": "1"}, "pruner=prumerge_plus has no setting 'sed'"),
        ({"keep_ratio": "0"}, r"keep_ratio=0.0 is outside \(0, 1\]"),
        ({"keep_ratio": "1.5"}, r"keep_ratio=1.5 is outside \(0, 1\]"),
        ({"keep_ratio": "-0.2"}, r"keep_ratio=-0.2 is outside \(0, 1\]"),
        ({"keep_ratio": "nan"}, r"keep_ratio=nan is outside \(0, 1\]"),
        ({"keep_ratio": "most"}, "keep_ratio='most' is not a number"),
        ({"allocator.temperature": "hot"}, "allocator.temperature='hot' is not a number"),
    ],
)
def test_what_is_wrong_is_named(settings, message):
    with pytest.raises((ValueError, LookupError), match=message):
        build_method(settings, KVTP)


def test_parts_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"PruMerge need .*keys.*which encoder OpenClip does not provide"):
        build_method({"encoder": "open_clip"}, KVTP)


def test_the_total_is_rounded_down_and_never_zero():
    method = build_method({"keep_ratio": "0.3", "pruner": "random"}, KVTP)
    assert method.total(num_frames=5, capacity=12) == 18
    assert method.total(num_frames=1, capacity=9) == 2
    with pytest.raises(ValueError, match=r"keep_ratio=0\.3 of 1 frames x 3 tokens is less than one token"):
        method.total(num_frames=1, capacity=3)


def test_a_ratio_that_is_exact_in_decimals_is_exact():
    method = build_method({"keep_ratio": "0.29", "pruner": "random"}, KVTP)
    assert method.total(num_frames=100, capacity=1) == 29  # 0.29 * 100 is 28.999999999999996


def test_budgets_sum_to_the_total():
    method = build_method({"pruner": "random"}, KVTP)
    budgets = method.budgets(torch.tensor([3.0, 0.0, 9.0, 1.0, -2.0]), capacity=13)
    assert budgets.sum() == 13
    assert budgets.argmax() == 2


def test_a_setting_that_a_word_fixes_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"scorer=similarity is kvtp with fusion=False; name scorer=kvtp to set it"):
        build_part("scorer", "similarity", {"scorer.fusion": "true"})
