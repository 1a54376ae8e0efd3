"""From checked arguments to a model and a method, and to the record of everything that answers depend on."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator

from lmms_kvtp import __version__
from lmms_kvtp.device import find_device
from lmms_kvtp.files import content_key
from lmms_kvtp.layer_pruning.base import check_stages
from lmms_kvtp.method import KVTP, PARTS, PREDICTOR, Method, build_method, check_predictor, defaults_of
from lmms_kvtp.run.options import PAPER, Arguments
from lmms_kvtp.run.source import of_settings, of_source, of_weights
from lmms_kvtp.shipped import TINY
from lmms_kvtp.video.cache import makers
from lmms_kvtp.vlms.base import VideoVLM, load_vlm
from lmms_kvtp.vlms.checkpoint.load import find_folder
from lmms_kvtp.vlms.load_options import LoadOptions

CODE = (
    *("lmms_kvtp.encode", "lmms_kvtp.pipeline", "lmms_kvtp.run.asks", "lmms_kvtp.harness.requests"),
    "lmms_kvtp.video.load",
)
"""Modules that every answer passes through, beside those of the model and of the method's parts."""


@dataclass(frozen=True)
class Built:
    """A model and a method, ready to answer."""

    vlm: VideoVLM
    method: Method
    setup: Mapping[str, Any]
    """Everything that all answers depend on, as plain values; it stands in the results and in each answer's key."""


def build(arguments: Arguments, device: torch.device, defaults: Mapping[str, str]) -> Built:
    """Load the model and its method; wrong settings of the method are refused before the model loads.

    Args:
        arguments: of the run.
        device: of the model, and of the method's parts that have one.
        defaults: the method where the arguments are silent, as far as it differs from KVTP with PruMerge.
    """
    defaults = {**KVTP, **defaults}
    own = {PREDICTOR: TINY} if arguments.run.pretrained == TINY else {}
    _method(arguments, device, {**own, **defaults})
    options = replace(arguments.load, device=str(device))
    vlm = load(arguments.run.pretrained, options)
    if defaults["encoder"] == KVTP["encoder"]:
        defaults = {**defaults_of(vlm), **defaults}
    method = _method(arguments, device, {"positions": vlm.positions[0], **defaults})
    vlm.check(method.positions)
    check_predictor(method, vlm, str(arguments.method.get("scorer", defaults["scorer"])))
    check_stages(method.layer_pruning.stages(), len(vlm.layers))
    return Built(vlm, method, _setup(arguments, vlm, method))


def load(pretrained: str, options: LoadOptions) -> VideoVLM:
    """Load a model, or take the one that this process loaded last: runs that follow each other often share it."""
    last = _last_loaded()
    if (pretrained, options) not in last:
        last.clear()  # frees it before the next one needs the memory
        last[pretrained, options] = load_vlm(pretrained, options)
    return last[pretrained, options]


@cache
def _last_loaded() -> dict[tuple[str, LoadOptions], VideoVLM]:
    return {}


def choose_device(wanted: str | None, accelerator: Accelerator) -> torch.device:
    """Choose the device that was asked for, or one for each process where several run on GPUs.

    ValueError where there is no such device.
    """
    own: torch.device = accelerator.device
    device = find_device(wanted) if wanted else own
    return own if device.type == "cuda" and accelerator.num_processes > 1 else device


def _method(arguments: Arguments, device: torch.device, defaults: Mapping[str, Any]) -> Method:
    """Build the method with its parts on `device`; parts that draw at random get the run's seed."""
    if arguments.run.settings == "paper":
        kvtps = {key: value for key, value in PAPER["method"].items() if _named(key, defaults) == _named(key, KVTP)}
        defaults = {**kvtps, **defaults}
    method = build_method(arguments.method, defaults)
    common = {"seed": arguments.run.seed, "device": str(device)}
    parts = {}
    for part in PARTS:
        component = getattr(method, part)
        own = {f.name for f in fields(component)} if is_dataclass(component) else set()
        given = {key.partition(".")[2] for key in arguments.method if key.startswith(f"{part}.")}
        values = {name: value for name, value in common.items() if name in own - given}
        parts[part] = replace(component, **values) if values else component
    return replace(method, **parts)


def _named(key: str, method: Mapping[str, Any]) -> Any:
    """The component that a setting `part.field` belongs to."""
    return method.get(key.partition(".")[0])


def _setup(arguments: Arguments, vlm: VideoVLM, method: Method) -> dict[str, Any]:
    parts = method.describe()
    for settings in parts.values():
        if isinstance(settings, dict) and "device" in settings:
            settings["device"] = torch.device(settings["device"]).type  # ranks of one run differ in the number
    modules = [*CODE, type(vlm).__module__, *(type(getattr(method, part)).__module__ for part in PARTS)]
    checkpoint = find_folder(arguments.run.pretrained, arguments.load.revision)
    predictor = {f"predictor {found.name}": of_weights(found.folder)} if (found := method.predictor) else {}
    setup = {
        "toy": vlm.toy,
        "method": parts,
        "model": {**vlm.describe(), "device": vlm.device.type},
        "frames": asdict(arguments.frames),
        "too_long": arguments.run.too_long,
        "images": arguments.run.images,
        "settings": arguments.run.settings,
        "seed": arguments.run.seed,
        "weights": {arguments.run.pretrained: of_weights(checkpoint), **of_settings(parts), **predictor},
        "source": content_key(of_source(modules)),
        "versions": {
            "lmms_kvtp": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "lmms_eval")},
        },
        "decoders": makers(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(setup, default=str))  # equal to itself after a file
    return plain
