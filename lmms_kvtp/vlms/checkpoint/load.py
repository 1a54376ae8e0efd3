"""Checkpoints of LLaVA-Video: folder or hub id -> a network with all its weights."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase, Qwen2Config

from lmms_kvtp.files import is_inside
from lmms_kvtp.rendering import first_few
from lmms_kvtp.shipped import TINY, ShippedError, checked, tiny_folder
from lmms_kvtp.vlms.checkpoint.config import WANTED, CheckpointError, LlavaConfig, TensorNames, read_json, reading
from lmms_kvtp.vlms.checkpoint.devices import Placement
from lmms_kvtp.vlms.checkpoint.hugging_face import read_hugging_face
from lmms_kvtp.vlms.checkpoint.network import EMBEDDINGS, HEAD, Network, build
from lmms_kvtp.vlms.checkpoint.original import read_original
from lmms_kvtp.vlms.load_options import LoadOptions
from lmms_kvtp.vlms.released import released


def choose(ways: Sequence[TensorNames], own: Collection[str], found: Collection[str]) -> TensorNames:
    """Choose the way by which most of a network's tensors are found."""
    return max(ways, key=lambda way: sum(way.name(name) in found for name in own))


INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PATTERNS = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]

LLAVA = "llava_video"
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "internvl")
"""Values of `model_type` that have a back end of that name here; others are LLaVA's, or of a user's package."""
REFUSED = {
    "qwen2_vl": "its positions and tower are others than Qwen2.5-VL's",
    "qwen3_vl_moe": "the operations of its experts are not counted yet",
    "qwen3_5": "its linear attention keeps a state from which no token can be taken back",
    "qwen3_5_moe": "its linear attention keeps a state from which no token can be taken back",
    "video_llama_3": "it drops tokens by itself before anyone else can, so its row of all tokens is none",
    "internvl_chat": "it runs code from the hub; take the checkpoint of the same name that ends in -hf",
    "llavaonevision1_5": "it runs code from the hub, and transformers has no class of its own for it",
    "pllava": "transformers has no class for it, and its weights are an adapter",
    "st_llm_hf": "transformers has no class for it",
}
"""Families without back end, by `model_type`, and why."""

Shape = tuple[int, ...]


def find_folder(pretrained: str, revision: str | None = None) -> Path:
    """Find the folder of a checkpoint: the embedded model, a path, or a download from the Hugging Face hub.

    CheckpointError where neither is there.
    """
    if pretrained == TINY:
        try:
            return checked(tiny_folder(), "embedded model", "pretrained")
        except ShippedError as error:
            raise CheckpointError(str(error)) from error
    path = os.path.expanduser(pretrained)
    if os.path.isdir(path):
        return Path(path)
    if os.path.exists(path):
        raise CheckpointError(f"{pretrained} is a file; {WANTED}: give its folder")
    if revision and len(revision) > 255:
        raise CheckpointError(f"revision={revision[:40]}... is longer than the name of a branch, tag or commit can be")
    try:
        return Path(snapshot_download(pretrained, revision=revision, allow_patterns=PATTERNS))
    except (OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(
            f"{pretrained!r} is no folder here, and the hub gave no model of that name{at}: {error}"
        ) from error


def family_of(folder: Path) -> str:
    """Tell which back end reads a checkpoint, by `model_type` in its config.json.

    CheckpointError where the family is known not to be supported; the message says why.
    """
    path = folder / "config.json"
    kind = str(read_json(path).get("model_type", "")) if path.is_file() else ""
    if kind in REFUSED:
        raise CheckpointError(f"{folder} is of the family {kind}, which has no back end here: {REFUSED[kind]}")
    theirs = {entry.name for entry in entry_points(group="lmms_kvtp.vlms")}
    return kind if kind in FAMILIES or kind in theirs else LLAVA


def family_named(pretrained: str, revision: str | None) -> str | None:
    """Tell the same before a download: by what lies on this machine, or by a released model's name; None for others.

    Raises as `family_of`.
    """
    folder = Path(os.path.expanduser(pretrained))
    if pretrained != TINY and not os.path.isdir(folder):  # which is false for a name that can be none, too
        try:
            cached = try_to_load_from_cache(pretrained, "config.json", revision=revision)
        except ValueError:  # no name of the hub's
            cached = None
        if not isinstance(cached, str):
            return known.family if (known := released(pretrained, LoadOptions())) else None
        folder = Path(cached).parent
    return LLAVA if pretrained == TINY else family_of(folder)


def read_config(folder: Path) -> LlavaConfig:
    """Read config.json in whichever layout it is written.

    CheckpointError names what else the folder holds, or a variant that is not supported.
    """
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"{folder} has no config.json, found {found}; {WANTED}")
    config = read_json(folder / "config.json")
    with reading(folder):
        return (read_hugging_face if "text_config" in config else read_original)(config, folder)


def layers_in(folder: Path) -> int:
    """Count the layers of the language model, by config.json; raises as `read_config` and `family_of` do."""
    if family_of(folder) == LLAVA:
        return int(read_config(folder).llm["num_hidden_layers"])
    with reading(folder):
        config = read_json(folder / "config.json")
        return int(config.get("text_config", config)["num_hidden_layers"])  # Qwen2.5-VL was released without


def layers_named(pretrained: str, revision: str | None) -> int:
    """Count the same by name, of a released model before a download; raises as `find_folder` and `layers_in` do."""
    known = released(pretrained, LoadOptions())
    return known.llm.layers if known else layers_in(find_folder(pretrained, revision))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint. Raises CheckpointError if there is none, or it lacks the chat markers."""
    with reading(folder, "has no tokenizer"):
        # a config is given because the folder's own has a model_type that transformers does not know
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, config=Qwen2Config())
        missing = [marker for marker in ("<|im_start|>", "<|im_end|>") if marker not in tokenizer.get_vocab()]
    if missing:
        raise CheckpointError(f"the tokenizer of {folder} lacks {', '.join(missing)}; {WANTED}")
    return tokenizer


def load_generation_config(folder: Path) -> GenerationConfig:
    """Load the decoding defaults of a checkpoint; transformers' own where it has none."""
    if (folder / "generation_config.json").is_file():
        with reading(folder):
            return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_dict({})


def load_network(folder: Path, config: LlavaConfig, vocabulary: int, attention: str, placement: Placement) -> Network:
    """Read all weights, one tensor at a time, straight to where they belong.

    CheckpointError where a shard is missing or broken, or keys or shapes are not those of the layout.
    """
    rows = int(config.llm["vocab_size"])
    if vocabulary > rows:
        raise CheckpointError(f"the tokenizer of {folder} has {vocabulary} entries, config.json says {rows}")
    with reading(folder):
        network = build(config, vocabulary, attention)
    files = weight_files(folder)
    found, own = _shapes(files), list(network.state_dict())
    chosen = choose(config.tensor_names, own, found)
    names, unused = {chosen.name(name): name for name in own}, set(chosen.unused)
    if config.llm["tie_word_embeddings"]:
        names.pop(chosen.name(HEAD))
        unused.add(chosen.name(HEAD))
    check_layout(expected_shapes(network, names, rows), found, unused, folder)
    with placement.onto(network) as put:
        for file in files:
            with _opened(file) as shard:
                for key in filter(names.__contains__, shard.keys()):
                    cut = names[key] in (EMBEDDINGS, HEAD)
                    put(names[key], shard.get_slice(key)[:vocabulary] if cut else shard.get_tensor(key))
    return network


def expected_shapes(network: Network, names: Mapping[str, str], rows: int) -> dict[str, Shape]:
    """Find the shapes that a checkpoint of `network` has, whose vocabulary of `rows` entries may be larger.

    `names` are those in the network, by those in the checkpoint.
    """
    own = network.state_dict()
    shapes = {key: tuple(own[name].shape) for key, name in names.items()}
    return {key: (rows, *shape[1:]) if names[key] in (EMBEDDINGS, HEAD) else shape for key, shape in shapes.items()}


def check_layout(expected: Mapping[str, Shape], found: Mapping[str, Shape], unused: set[str], where: Path) -> None:
    """Hold a checkpoint's tensors against the layout: each is read or known to be unused, none is missing.

    CheckpointError names the missing, unexpected and misshaped ones.
    """
    problems = {
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected) - unused),
        "misshaped": [
            f"{key} {found[key]} instead of {shape}"
            for key, shape in sorted(expected.items())
            if key in found and found[key] != shape
        ],
    }
    if any(problems.values()):
        lines = [f"{kind} ({len(keys)}): {first_few(keys, 6)}" for kind, keys in problems.items() if keys]
        raise CheckpointError(
            f"the tensors of {where} are not those that its config.json describes; {'; '.join(lines)}"
        )


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold a checkpoint's tensors; CheckpointError where there are none, or some are missing."""
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            found = ", ".join(sorted(path.name for path in folder.iterdir())[:8])
            raise CheckpointError(f"{folder} has neither {INDEX} nor {SINGLE}, found {found}; {WANTED}")
        return [folder / SINGLE]
    with reading(folder):
        files = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        missing = [name for name in files if not (is_inside(name) and (folder / name).is_file())]
    if missing:
        shown = first_few(missing, 6)
        raise CheckpointError(f"{folder} lacks {len(missing)} of {len(files)} shards of {INDEX}: {shown}")
    return [folder / name for name in files]


def _shapes(files: list[Path]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for file in files:
        with _opened(file) as shard:
            shapes |= {key: tuple(shard.get_slice(key).get_shape()) for key in shard.keys()}  # noqa: SIM118
    return shapes


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as shard:
            yield shard
    except SafetensorError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
