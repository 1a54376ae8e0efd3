"""Short names of methods stand for settings that build."""

import pytest

from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import PRESETS, WORDS, method_settings, settings_of, word_of


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


@pytest.mark.parametrize(("part", "word"), [(part, word) for part, words in WORDS.items() for word in words])
def test_a_method_built_by_a_word_is_known_by_it(part: str, word: str) -> None:
    own = {"predictor": "tiny_shared" if word == "shared" else "none"} if part == "scorer" else {}
    described = build_method({part: word, **own}, {**KVTP, "pruner": "random"}).describe()
    assert word_of(part, described) == word
    trained = {"predictor": "tiny"} if part == "scorer" else {}
    plain = build_method({part: WORDS[part][word].component, **trained}, {**KVTP, "pruner": "random"}).describe()
    assert word_of(part, plain) == WORDS[part][word].component


def test_a_trained_part_does_not_fit_the_word_of_an_untrained_one() -> None:
    trained = build_method({"scorer": "kvtp", "scorer.fusion": "false", "scorer.checkpoint": "tiny"}, KVTP).describe()
    assert word_of("scorer", trained) == "kvtp"


def test_an_unknown_preset_is_named_with_near_ones() -> None:
    with pytest.raises(LookupError, match=r"'kvpt\+random': no preset named 'kvpt' before the \+; did you mean kvtp"):
        settings_of("kvpt+random", 0.2)


def test_one_argument_is_a_short_name_or_settings_and_a_ratio_beside_it_counts() -> None:
    assert method_settings("tome") == settings_of("tome", 0.2)
    assert method_settings("tome", 0.35) == settings_of("tome", 0.35)
    assert method_settings("pruner=tome,keep_ratio=0.1") == {"pruner": "tome", "keep_ratio": "0.1"}
    assert method_settings("pruner=tome,keep_ratio=0.1", 0.35) == {"pruner": "tome", "keep_ratio": "0.35"}
    assert method_settings("") == {}
