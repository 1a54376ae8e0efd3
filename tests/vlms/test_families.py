"""Which back end reads a checkpoint, which families are refused, and how a model that is loaded already is taken."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.native_checkpoints import write_native
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from lmms_kvtp import load
from lmms_kvtp.video.load import video_from_frames
from lmms_kvtp.vlms.base import LoadOptions, back_end, load_vlm
from lmms_kvtp.vlms.checkpoint.config import CheckpointError
from lmms_kvtp.vlms.checkpoint.load import REFUSED, family_of, layers_in
from lmms_kvtp.vlms.qwen3_vl import Qwen3VL

THEIRS = """
from lmms_kvtp.vlms.internvl import InternVL


class Mine(InternVL):
    family = "my_family"
"""


def of_kind(folder: Path, kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return folder


@pytest.mark.parametrize("kind", REFUSED)
def test_families_without_back_end_are_refused_by_name_and_reason(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CheckpointError, match=f"family {kind}, which has no back end here: ") as told:
        load_vlm(str(of_kind(tmp_path, kind)))
    assert REFUSED[kind] in str(told.value)


def test_a_package_brings_its_own_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_back_end.py").write_text(THEIRS)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lmms_kvtp.vlms]\nmy_family = their_back_end:Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = of_kind(tmp_path / "checkpoint", "my_family")
    assert back_end(family_of(folder)).__module__ == "their_back_end"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native("qwen3_vl", tmp_path_factory.mktemp("family"))


def test_a_loaded_model_is_taken_and_stays_as_it_is(folder: Path) -> None:
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    before = model.generation_config.to_dict()
    taken = load(model, processor, device="cpu").vlm
    assert isinstance(taken, Qwen3VL) and taken.name == str(folder)
    assert taken.model.lm_head is model.lm_head and model.generation_config.to_dict() == before
    assert before["eos_token_id"] != taken.defaults.eos_token_id == taken.chat.end
    with pytest.raises(ValueError, match="a Qwen3VLForConditionalGeneration with a NoneType: qwen3_vl wants"):
        load(model)


def test_a_checkpoint_without_a_chat_template_or_of_another_class_is_refused(folder: Path, tmp_path: Path) -> None:
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match="qwen2_5_vl wants a Qwen2_5_VLForConditionalGeneration"):
        back_end("qwen2_5_vl").wrap(model, processor, LoadOptions())
    processor.chat_template = None
    with pytest.raises(CheckpointError, match=r"has no chat template; take chat_template\.jinja"):
        load(model, processor)
    with pytest.raises(ValueError, match="min_pixels=9000 is above the most that a frame may have, 8000"):
        vlm = load_vlm(str(folder), LoadOptions(device="cpu", min_pixels=9000, max_pixels=8000))
        vlm.spec(8)


def test_qwen2_5_vl_is_read_as_it_was_released(tmp_path: Path) -> None:
    """With the language model's sizes among the others, older names of tensors, and one file for image and video."""
    now, then = write_native("qwen2_5_vl", tmp_path / "now"), tmp_path / "then"
    shutil.copytree(now, then)
    config = json.loads((now / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters", None) or {**text["rope_scaling"], "rope_theta": text["rope_theta"]}
    text |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    (then / "config.json").write_text(json.dumps({**text, **config, "model_type": "qwen2_5_vl"}))
    tensors = load_file(now / "model.safetensors")
    old = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensors[name]
        for name in tensors
    }
    assert "visual.patch_embed.proj.weight" in old and "model.embed_tokens.weight" in old
    save_file(old, then / "model.safetensors", {"format": "pt"})
    for name in ("processor_config.json", "video_preprocessor_config.json", "chat_template.jinja"):
        (then / name).unlink(missing_ok=True)
    mean = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    sizes = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    kinds = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    (then / "preprocessor_config.json").write_text(json.dumps(mean | sizes | kinds))
    template = AutoProcessor.from_pretrained(now).chat_template
    (then / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert layers_in(then) == layers_in(now) == 5
    rgb = torch.randint(0, 256, (6, 96, 128, 3), generator=torch.manual_seed(0), dtype=torch.uint8)
    said = []
    for folder in (now, then):
        vlm = load_vlm(str(folder), LoadOptions(device="cpu", min_pixels=4096))
        video = video_from_frames(rgb, "clip", 1.0, options=vlm.frames)
        [frames] = video.chunks()
        tokens = replace(vlm.encode(frames), timing=video.timing)
        said.append(vlm.next_token_logits(vlm.assemble([tokens.whole()], "Who is it?")))
    assert torch.equal(*said)
