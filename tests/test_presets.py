"""Short names of methods stand for settings that build."""

import importlib
import re

import pytest

from lmms_kvtp.layer_pruning.base import check_stages
from lmms_kvtp.layer_pruning.fastv import FastV
from lmms_kvtp.layer_pruning.holitom import HoliTomLayers
from lmms_kvtp.layer_pruning.prunevid import PruneVidLayers
from lmms_kvtp.layer_pruning.pyramiddrop import PyramidDrop
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import IDS, PRESETS, RECIPES, WORDS, method_settings, recipe_of, settings_of, word_of


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
    assert method_settings("name=tome,keep_ratio=0.1,encoder=siglip") == {
        **settings_of("tome", 0.1),
        "encoder": "siglip",
    }
    assert method_settings("vidcom2,layer_pruning=fastv") == {**settings_of("vidcom2", 0.2), "layer_pruning": "fastv"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("full,layer_pruning=fastv", "full keeps all tokens and has no settings"),
        ("llava_video,keep_ratio=0.5", "full keeps all tokens and has no settings"),
        ("fastv,layer_pruning.ratio=0.3", "layer_pruning.ratio=0.2 follows from the share of tokens; give that"),
        ("tome,encoder", "'encoder' in method 'encoder' is not of the form name=value"),
    ],
)
def test_a_setting_that_the_name_fixes_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        method_settings(text)


def test_a_model_id_is_the_method_that_its_row_runs() -> None:
    from lmms_kvtp.harness.plugin import CHAT, MODELS

    paths = {alias: path for name, (path, others) in {**MODELS, **CHAT}.items() for alias in (name, *others)}
    assert set(IDS) == {name for name in paths if not name.endswith("sweep")}
    for name in IDS:
        module, _, cls = paths[name].rpartition(".")
        own = build_method({}, {**KVTP, **getattr(importlib.import_module(module), cls).defaults})
        share = 0.5 if name == "llava_video_fastv" else 0.2
        assert build_method(settings_of(name, share), KVTP) == own


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("layers", [6, 28, 80])
def test_every_recipe_builds_at_the_depth_of_a_model_and_is_known_again(name: str, layers: int) -> None:
    method = build_method(settings_of(name, 0.2, layers), KVTP)
    check_stages(method.layer_pruning.stages(), layers)
    assert recipe_of(method.describe()) == name
    assert recipe_of(build_method(settings_of("kvtp+random", 0.2), KVTP).describe()) is None


def test_recipes_have_the_published_settings_at_their_published_ratios() -> None:
    vidcom2 = {"scorer": "vidcom2", "allocator": "vidcom2", "pruner": "vidcom2", "keep_ratio": "0.25"}
    assert settings_of("vidcom2", 0.25) == vidcom2
    flashvid, prunevid, holitom = (build_method(settings_of(n, 0.2), KVTP) for n in ("flashvid", "prunevid", "holitom"))
    assert flashvid.keep_ratio == 0.25 and flashvid.layer_pruning == FastV(layer=20, ratio=0.3)
    assert pytest.approx(0.2) == (20 * 0.25 + 8 * 0.3 * 0.25) / 28  # the mean over the layers
    assert prunevid.keep_ratio == 0.5 and prunevid.layer_pruning == PruneVidLayers(layer=10, alpha=0.4)
    assert holitom.keep_ratio == 0.2 and holitom.layer_pruning == HoliTomLayers(layer=18, ratio=0.5)
    assert build_method(settings_of("fastv", 0.5), KVTP).layer_pruning == FastV(layer=2, ratio=0.5)
    assert build_method(settings_of("pyramiddrop", 0.125), KVTP).layer_pruning == PyramidDrop()
    places = {name: build_method(settings_of(name, 0.2), KVTP).positions for name in RECIPES}
    assert {name for name, rule in places.items() if rule == "kept"} == {"vcast", "fastvid"}
    assert places.pop("evs") == "evs" and "evs" not in places.values()


def test_a_part_of_a_recipe_alone_is_named_behind_a_plus() -> None:
    assert settings_of("uniform+vidcom2", 0.2)["scorer"] == "uniform"
    assert "layer_pruning" not in settings_of("uniform+prunevid", 0.2)
    assert "positions" not in settings_of("uniform+fastvid", 0.2)
    assert method_settings("prunevid", 0.2, 6)["layer_pruning.layer"] == "2"


def test_a_recipe_that_cannot_keep_as_much_says_what_it_can() -> None:
    with pytest.raises(ValueError, match=r"method flashvid: a ratio of 0\.9 is keep_ratio=1\.125 here.*at most 0\.8"):
        settings_of("flashvid", 0.9)
    assert settings_of("flashvid", 0.8)["keep_ratio"] == settings_of("prunevid", 0.4)["keep_ratio"] == "1"
