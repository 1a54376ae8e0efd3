"""A model split by accelerate, number types, and memory that runs out."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.checkpoints import write_tiny
from torch import Tensor

from lmms_kvtp.device import OutOfMemoryError, check_dtype, find_device, place, told
from lmms_kvtp.types import GenerationOptions, PackedTokens, Prompt
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video
from lmms_kvtp.vlms.reading import PrefixCache

OPTIONS = GenerationOptions(max_new_tokens=5)


def frames(count: int) -> Frames:
    rgb = torch.randint(0, 256, (count, 20, 30, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Frames(rgb, torch.arange(count).float())


def prompt(vlm: LlavaVideo, count: int = 3, text: str = "What?") -> Prompt:
    tokens = vlm.encode(frames(count))
    place = torch.arange(count * tokens.capacity)
    embeds = tokens.embeds.reshape(len(place), -1)
    sizes = torch.ones(len(place))
    packed = PackedTokens(embeds, place // tokens.capacity, place % tokens.capacity, sizes, tokens.grid, count)
    return vlm.assemble([packed], text)


def split(folder: Path, tmp_path: Path, memory: str = "cpu=150KB", **options: str) -> LlavaVideo:
    return load_llava_video(
        str(folder),
        LoadOptions(
            device="cpu", device_map="auto", max_memory=memory, offload_folder=str(tmp_path / "rest"), **options
        ),
    )


@pytest.mark.parametrize("strategy", ["auto", "sequential"])
def test_a_model_split_over_memory_and_disk_answers_alike(
    tiny_folder: Path, vlm: LlavaVideo, tmp_path: Path, strategy: str
) -> None:
    options = LoadOptions(device="cpu", device_map=strategy, max_memory="cpu=150KB", offload_folder=str(tmp_path))
    parts = load_llava_video(str(tiny_folder), options)
    kinds = {weight.is_meta for weight in parts.network.parameters()}
    assert kinds == {True, False} and (tmp_path / "index.json").is_file()
    assert not parts.network.newline.is_meta
    assert (parts.device.type, parts.dtype) == ("cpu", torch.float32)
    asked, alone = prompt(parts), prompt(vlm)
    assert torch.equal(asked.embeds, alone.embeds)
    torch.testing.assert_close(parts.next_token_logits(asked), vlm.next_token_logits(alone), atol=1e-5, rtol=0)
    made, expected = parts.generate([asked, asked], OPTIONS), vlm.generate([alone, alone], OPTIONS)
    assert [one.text for one in made] == [one.text for one in expected]


def test_a_split_model_shares_prefixes(tiny_folder: Path, vlm: LlavaVideo, tmp_path: Path) -> None:
    parts, prefix = split(tiny_folder, tmp_path), PrefixCache()
    questions = [prompt(parts, text=text) for text in ("What?", "Which one?")]
    made = [parts.generate([one], OPTIONS, prefix=prefix)[0] for one in questions]
    assert made[1].reused > 90
    assert made[1].text == vlm.generate([questions[1]], OPTIONS)[0].text


def test_number_types_hold_on_all_parts(tiny_folder: Path, tmp_path: Path) -> None:
    parts = split(tiny_folder, tmp_path, "cpu=75KB", dtype="bfloat16")
    assert {str(weight.dtype) for weight in parts.network.parameters() if not weight.is_meta} == {"torch.bfloat16"}
    whole = load_llava_video(str(tiny_folder), LoadOptions(device="cpu", dtype="bfloat16"))
    assert torch.equal(parts.next_token_logits(prompt(parts)), whole.next_token_logits(prompt(whole)))


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "tied", siglip=False, llm={"tie_word_embeddings": True})
    parts, whole = split(folder, tmp_path, "cpu=2MB"), load_llava_video(str(folder))
    assert parts.network.llm.lm_head.weight is parts.network.llm.model.embed_tokens.weight
    assert torch.equal(parts.next_token_logits(prompt(parts)), whole.next_token_logits(prompt(whole)))


def test_too_little_memory_needs_a_folder(tiny_folder: Path) -> None:
    options = LoadOptions(device="cpu", device_map="auto", max_memory="cpu=150KB")
    with pytest.raises(ValueError, match=r"does not fit in the memory of device_map=auto.*set offload_folder=FOLDER"):
        load_llava_video(str(tiny_folder), options)


@pytest.mark.parametrize("memory", ["cpu", "cpu=many", "cpu=1GB;0"])
def test_memory_that_cannot_be_read_is_named(tiny_folder: Path, memory: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"max_memory={memory}: .* is not of the form"):
        split(tiny_folder, tmp_path, memory)


def test_memory_without_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match="max_memory=cpu=1GB goes with device_map=auto"):
        LoadOptions(max_memory="cpu=1GB")


def test_layers_are_never_cut(tiny_folder: Path, tmp_path: Path) -> None:
    parts = split(tiny_folder, tmp_path)
    for layer in parts.layers:
        assert len({weight.is_meta for weight in layer.parameters()}) == 1


def test_the_cpu_of_a_rank_has_no_number() -> None:
    assert find_device("cpu:1") == torch.device("cpu")


def test_a_number_type_that_the_machine_lacks_is_refused(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = F.layer_norm

    def lacking(x: Tensor, shape: tuple[int, ...]) -> Tensor:
        if x.dtype == torch.float16:
            raise RuntimeError("\"LayerNormKernelImpl\" not implemented for 'Half'")
        return real(x, shape)

    monkeypatch.setattr(F, "layer_norm", lacking)
    with pytest.raises(
        ValueError, match=r"dtype=float16: this torch cannot compute in it on cpu .*'Half'\); use bfloat"
    ):
        load_llava_video(str(tiny_folder), LoadOptions(dtype="float16", device="cpu"))
    monkeypatch.undo()
    assert load_llava_video(str(tiny_folder), LoadOptions(dtype="float16", device="cpu")).dtype == torch.float16


def test_a_gpu_without_bfloat16_computes_in_float32_and_says_so_once(monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "An Old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    there = torch.device("cuda")
    assert [place("cuda", "auto") for _ in range(2)] == [(there, torch.float32)] * 2
    [said] = [record.getMessage() for record in caplog.records if "Old GPU" in record.getMessage()]
    assert said.startswith("dtype=auto is float32 here: An Old GPU has no bfloat16 of its own")
    assert place("cuda", "float16") == (there, torch.float16)
    with pytest.raises(ValueError, match=r"dtype=bfloat16: An Old GPU has no .* is slow; use float16 or float32"):
        check_dtype(there, torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert place("cuda", "auto") == (there, torch.bfloat16)


def test_memory_that_runs_out_is_one_line_with_sizes_and_a_way_out(vlm: LlavaVideo) -> None:
    asked = prompt(vlm)

    def greedy(*_: object) -> None:
        torch.empty(2**50)

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.25 GiB. GPU 0 has\n many details")

    for module, hook, message in (
        (
            vlm.network.tower,
            greedy,
            r"the vision tower on 7 frames, 7 at a time, wanted \d{16} bytes more; lower vision",
        ),
        (
            vlm.layers[1],
            exhausted,
            rf"reading 2 x {asked.length} positions \(3 frames\) wanted 20\.25 GiB more; lower b",
        ),
    ):
        handle = module.register_forward_pre_hook(hook)
        with pytest.raises(OutOfMemoryError, match=rf"^out of memory: {message}.*$") as caught:
            _ = vlm.see(frames(7)) if module is vlm.network.tower else vlm.generate([asked, asked], OPTIONS)
        handle.remove()
        assert "\n" not in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), told("nothing", "nothing"):
        raise RuntimeError("shapes differ")
