"""Short names of methods stand for settings that build."""

import pytest

from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import PRESETS, method_settings, settings_of


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_with_its_ratio(preset: str) -> None:
    method = build_method(settings_of(f"{preset}+random", 0.15), KVTP)
    assert method.keep_ratio == 0.15
    assert type(method.pruner).__name__ == "RandomTokens"
    assert method.query_aware == (preset not in ("uniform", "frames"))


def test_a_pruner_alone_has_equal_budgets_and_full_keeps_all() -> None:
    assert settings_of("tome", 0.2) == settings_of("uniform+tome", 0.2)
    full = build_method(settings_of("full", 0.2), KVTP)
    assert full.keep_ratio == 1
    assert not full.needs


def test_scorer_and_allocator_may_be_named() -> None:
    assert settings_of("oracle/aks+my_pkg.parts:Mine", 0.25) == {
        "scorer": "oracle",
        "allocator": "aks",
        "pruner": "my_pkg.parts:Mine",
        "keep_ratio": "0.25",
    }


def test_an_unknown_preset_is_named_with_near_ones() -> None:
    with pytest.raises(LookupError, match=r"'kvpt\+random': no preset named 'kvpt' before the \+; did you mean kvtp"):
        settings_of("kvpt+random", 0.2)


def test_one_argument_is_a_short_name_or_settings_and_a_ratio_beside_it_counts() -> None:
    assert method_settings("tome") == settings_of("tome", 0.2)
    assert method_settings("tome", 0.35) == settings_of("tome", 0.35)
    assert method_settings("pruner=tome,keep_ratio=0.1") == {"pruner": "tome", "keep_ratio": "0.1"}
    assert method_settings("pruner=tome,keep_ratio=0.1", 0.35) == {"pruner": "tome", "keep_ratio": "0.35"}
    assert method_settings("") == {}
