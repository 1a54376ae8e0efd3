"""Shipped weights are held against their manifest; `tiny` stands for the embedded model."""

import hashlib
import json
from pathlib import Path

import pytest

from lmms_kvtp import shipped
from lmms_kvtp.vlms.checkpoint import load
from lmms_kvtp.vlms.checkpoint.config import CheckpointError
from lmms_kvtp.vlms.llava_video import load_llava_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "siglip").mkdir()
    files = {"config.json": "{}", "siglip/weights": "abc"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    manifest = {name: hashlib.sha256(content.encode()).hexdigest() for name, content in files.items()}
    (tmp_path / shipped.MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


def test_an_untouched_folder_passes(folder: Path) -> None:
    assert shipped.checked(folder, "embedded model", "pretrained") == folder


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "siglip" / "weights").write_text("abd")
    with pytest.raises(shipped.ShippedError, match=r"siglip/weights in .* is damaged or edited; reinstall lmms-kvtp"):
        shipped.checked(folder, "embedded model", "pretrained")


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(shipped.ShippedError, match=r"lacks config\.json in "):
        shipped.checked(folder, "embedded model", "pretrained")


def test_an_installation_without_the_model_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "tiny_folder", lambda: tmp_path)
    with pytest.raises(CheckpointError, match=r"no embedded model: .*is missing; reinstall lmms-kvtp, or give"):
        load_llava_video("tiny")


def test_the_name_stands_for_the_checked_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "tiny_folder", lambda: folder)
    monkeypatch.chdir(folder.parent)
    assert load.find_folder("tiny") == folder


def test_the_shipped_model_loads_and_is_marked_as_a_toy() -> None:
    vlm = load_llava_video("tiny")
    assert vlm.toy and vlm.name == "tiny"
    assert vlm.describe()["toy"]
    assert vlm.default_encoder == "tiny"  # by its name, so that no record holds a folder of one machine
    assert load_llava_video(str(shipped.tiny_folder())).toy


@pytest.mark.parametrize("folder", [".", "siglip"])
def test_the_shipped_tokenizers_have_settings_that_transformers_4_reads(folder: str) -> None:
    settings = json.loads((shipped.tiny_folder() / folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not isinstance(settings.get("extra_special_tokens"), list)
