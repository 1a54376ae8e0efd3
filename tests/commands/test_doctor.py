"""`lmms-kvtp doctor --reference`: a model's own logits against other implementations of it."""

import pytest
from checkpoints import write_tiny

from lmms_kvtp.__main__ import main
from lmms_kvtp.vlms import reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("models") / "random", siglip=False)


def doctor(folder, *more):
    return main(["doctor", "--model", str(folder), "--reference", "--model_args", ",".join(["device=cpu", *more])])


def test_a_sound_model_agrees_with_transformers_own_class(folder, capsys):
    assert doctor(folder) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"{folder} in float32 on cpu, without pruning"
    assert second.startswith("ok   transformers' LlavaOnevision: largest difference ")
    assert third == "-    published logits are known of LLaVA-Video-7B-Qwen2 only"


def test_published_logits_that_differ_are_a_failure(folder, capsys, monkeypatch):
    monkeypatch.setattr(reference, "PUBLISHED", {folder.name: ((0.0, 0.0, 0.0),) * 3})
    assert doctor(folder) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("ok ") and lines[2].startswith(f"FAIL published logits of {folder.name}")


def test_settings_reach_the_model(folder, capsys):
    assert doctor(folder, "dtype=bfloat16", "mm_newline_position=no_token") == 0
    assert "in bfloat16 on cpu" in capsys.readouterr().out
    assert doctor(folder, "mm_spatial_pool_mode=average") == 0
    assert "ok   transformers' LlavaOnevision with average pooling: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        doctor(folder, "attention=eager")
    assert "unknown option 'attention'" in capsys.readouterr().err


def test_without_method_and_reference_both_are_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--model", "tiny"])
    assert stopped.value.code == 2
    assert "give --method NAME to examine a method, or --reference to examine the model" in capsys.readouterr().err
