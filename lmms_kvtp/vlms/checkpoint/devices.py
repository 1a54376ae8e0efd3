"""Where the tensors of a network go: to one device, or split over several by accelerate."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import convert_file_size_to_int, get_balanced_memory, offload_weight, save_offload_index
from torch import Tensor, nn

from lmms_kvtp.vlms.checkpoint.network import Network

Put = Callable[[str, Tensor], None]
WHOLE = ("Qwen2DecoderLayer", "SiglipEncoderLayer", "SiglipVisionEmbeddings")
"""Modules that are never split over devices."""


@dataclass(frozen=True)
class Placement:
    """Devices and number type of a network."""

    device: torch.device
    dtype: torch.dtype
    strategy: str | None = None
    """accelerate's name for a way to split; None for `device` alone."""
    max_memory: str | None = None
    """Memory of each device, such as `0=40GiB;1=40GiB;cpu=100GiB`; None for what is free."""
    offload_folder: str | None = None
    """Folder for weights that fit in no memory."""

    @contextmanager
    def onto(self, network: Network) -> Iterator[Put]:
        """Give a function that puts a tensor where it belongs; behind the block the network is ready to run.

        ValueError where there is too little memory, or `max_memory` cannot be read.
        """
        tied = bool(network.llm.config.tie_word_embeddings)
        if self.strategy is None:
            yield lambda name, tensor: _put(network, name, tensor.to(self.device, self.dtype))
            if tied:
                network.llm.tie_weights()
            network.to(self.device)  # buffers; the parameters are there
            return
        devices = self._plan(network)
        folder, index = self._folder(devices), dict[str, object]()

        def put(name: str, tensor: Tensor) -> None:
            if (device := _device_of(name, devices)) == "disk":
                offload_weight(tensor.to(self.dtype), name, str(folder), index)
                device = "meta"  # what is fetched later gets the type of what stands here
            _put(network, name, tensor.to(device, self.dtype))

        yield put
        if tied:
            network.llm.tie_weights()
        if folder is not None:
            save_offload_index(index, str(folder))
        with warnings.catch_warnings():
            # newline is no module, and must still have its entry
            warnings.filterwarnings("ignore", r".*do not match any submodules in the model: \['newline'\]")
            dispatch_model(network, devices, offload_dir=folder and str(folder))

    def _plan(self, network: Network) -> dict[str, str | int]:
        memory = read_memory(self.max_memory)
        if self.strategy != "sequential":
            memory = get_balanced_memory(
                network, memory, list(WHOLE), self.dtype, low_zero=self.strategy == "balanced_low_0"
            )
        devices: dict[str, str | int] = infer_auto_device_map(network, memory, list(WHOLE), self.dtype)
        main = min((device for device in devices.values() if device not in ("cpu", "disk")), default="cpu", key=str)
        return devices | {"newline": main}  # it is read without a forward pass that could fetch it

    def _folder(self, devices: Mapping[str, str | int]) -> Path | None:
        if "disk" not in devices.values():
            return None
        if self.offload_folder is None:
            raise ValueError(
                f"the model does not fit in the memory of device_map={self.strategy}, max_memory={self.max_memory}: "
                "set offload_folder=FOLDER for what is left, which is slow, or give more memory"
            )
        Path(self.offload_folder).mkdir(parents=True, exist_ok=True)
        return Path(self.offload_folder)


def _put(network: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, last = name.rpartition(".")
    setattr(network.get_submodule(owner), last, nn.Parameter(tensor, requires_grad=False))


def _device_of(name: str, devices: Mapping[str, str | int]) -> str | int:
    """Find the device of the longest part of a tensor's name that has one."""
    parts = name.split(".")
    heads = (".".join(parts[:count]) for count in range(len(parts), -1, -1))
    return next(devices[head] for head in heads if head in devices)


def read_memory(text: str | None) -> dict[str | int, int] | None:
    """Read the bytes of each device from text like `0=40GiB;1=40GiB;cpu=100GiB`; None for what is free.

    ValueError where it is not of that form.
    """
    if text is None:
        return None
    memory: dict[str | int, int] = {}
    for part in text.split(";"):
        device, _, size = (piece.strip() for piece in part.partition("="))
        try:
            memory[int(device) if device.isdigit() else device] = convert_file_size_to_int(size)
        except ValueError as error:
            raise ValueError(f"max_memory={text}: {part!r} is not of the form 0=40GiB or cpu=100GiB") from error
    return memory
