"""`lmms-kvtp doctor`: what it says of a method, and of a model's logits against other implementations of it."""

import json

import pytest
from helpers.checkpoints import write_tiny
from helpers.harness_files import ALL, samples, write_run

from lmms_kvtp.__main__ import main
from lmms_kvtp.doctor import reference


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
    assert "unknown argument 'attention'" in capsys.readouterr().err


def test_without_method_and_reference_both_are_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--model", "tiny"])
    assert stopped.value.code == 2
    assert "give --method NAME to examine a method, or --reference to examine the model" in capsys.readouterr().err


@pytest.mark.slow
def test_the_embedded_model_passes_every_gate_on_as_many_videos_and_frames_as_are_looked_at_by_default(capsys):
    assert main(["doctor", "--method", "random"]) == 0
    assert "| baseline accuracy | passed |" in capsys.readouterr().out


def test_a_gate_that_fails_is_shown_and_ends_in_an_error(tmp_path, capsys):
    command = ["doctor", "--method", "grid", "--keep-ratio", "0.3", "--videos", "1", "--frames", "4"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "| passed |" in shown and "| -      |" in shown and "FAILED" not in shown
    record = json.loads((tmp_path / "grid_gates.json").read_text())
    assert (record["method"]["keep_ratio"], len(record["gates"])) == (0.3, 11)
    settings = {"parts": ALL, "keep_ratio": 1.0, "model": "lmms-lab/LLaVA-Video-7B-Qwen2", "frames": 64}
    baseline = write_run(tmp_path / "full", samples([0] * 100), "videomme", **settings)
    assert main([*command, "--baseline", str(baseline), "--out", str(tmp_path / "with.json")]) == 1
    assert "| published accuracy | FAILED |" in capsys.readouterr().out
    assert json.loads((tmp_path / "with.json").read_text())["gates"][-1]["passed"] is False
