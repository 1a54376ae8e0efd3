"""Trained relevance predictors: where the files of one lie, in which form, and what of it the paper lacks."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lmms_kvtp.files import WEIGHT_SPOTS, content_key, fingerprint, from_json
from lmms_kvtp.shipped import checked, shipped_folder

FUSION = ("fusion.json", "fusion.safetensors")
"""Files of a trained context fusion head, which lie beside those of the image-text model."""
TOWER_HEAD = ("tower_head.json", "tower_head.safetensors")
"""Files of a head on the language model's own tower."""
TEXT_SIDE = ("text.json", "text.safetensors")
"""Files of a text side."""
REPORT, RECIPE = "training.json", "recipe.json"
"""What training writes last, and first."""
SHIPPED = "predictors"
"""Folder of the shipped predictors of the embedded model; their folders' names are those of `predictor=`."""
TINY_SHARED = "tiny_shared"
"""Name of the shipped one that reads the embedded model's own tower."""
UNTUNED = ("google/siglip", "openai/clip", "timm/ViT")
"""Beginnings of hub ids of image-text models that nobody trained to find key frames."""
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]


@dataclass(frozen=True)
class TrainedPredictor:
    """What `predictor=` names."""

    name: str
    folder: Path
    form: Literal["siglip", "slim", "shared"]
    """siglip: a whole image-text model. slim: text side and head, for frames that the untuned encoder reads. shared: a
    head on the language model's own tower, with a text side."""
    head: bool
    """Whether the context fusion head is there; the authors' file lacks it."""
    training: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What training noted; empty where it was done by other code."""

    @property
    def extensions(self) -> list[str]:
        """Parts that the paper's predictor does not have."""
        recipe = self.training.get("recipe") or {}
        found = {
            "shared tower": self.form == "shared",
            "anchors": (recipe.get("head") or {}).get("anchors", 0) > 0,
            "flatness": (recipe.get("objective") or {}).get("flatness", 0) > 0,
        }
        return [name for name, there in found.items() if there]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of encoder and scorer that it stands for."""
        if self.form == "slim":
            return {"scorer.checkpoint": self.name}
        return {"encoder": "tower" if self.form == "shared" else "siglip", "encoder.pretrained": self.name}

    def describe(self) -> dict[str, Any]:
        """What a run's record says of it."""
        return {"name": self.name, "form": self.form, "extensions": self.extensions, "evaluation": self.evaluation}

    @property
    def evaluation(self) -> list[str]:
        """Data sets of whose evaluation lines some were trained on."""
        return list(map(str, (self.training.get("data") or {}).get("evaluation") or []))

    def has_seen(self, task: str) -> bool:
        """Whether evaluation lines of a task's data set were trained on."""
        return any(name.lower().replace("-", "") in task.lower().replace("-", "") for name in self.evaluation)

    def check_frames(self, weights: Iterable[Path], encoder: str) -> None:
        """Make sure that it was trained on what `weights` make of frames; ValueError where it was trained on others.

        `weights` are the files of the encoder, or of the model whose tower it shares; `encoder` is its name.
        """
        wanted, found = self.training.get("frames_read_by"), frames_key(weights)
        if self.form != "siglip" and wanted and found and wanted != found:
            raise ValueError(
                f"predictor={self.name} was trained on frames as {self.training.get('started_from')} reads them, and "
                f"{encoder} has other weights; give the predictor that was trained for it"
            )


def frames_key(weights: Iterable[Path]) -> str:
    """Hash the weights that read frames; empty where there are no files."""
    files = sorted(weights)
    return content_key([fingerprint(file, WEIGHT_SPOTS) for file in files]) if files else ""


def shipped_predictors() -> list[str]:
    """List the names of the predictors inside the package."""
    return sorted(folder.name for folder in shipped_folder(SHIPPED).iterdir() if folder.is_dir())


def find_predictor(name: str, setting: str = "predictor") -> TrainedPredictor:
    """Find a trained predictor: one of `shipped_predictors`, a folder (`./tiny` for one of a shipped name) or a hub id.

    Messages name the `setting` that holds the name. ValueError where there is none, it is still being written, or it is
    an image-text model that nobody trained.
    """
    folder = predictor_folder(name, setting)
    training = _read(folder / REPORT) if (folder / REPORT).is_file() else {}
    if not training and (folder / RECIPE).is_file():
        raise ValueError(
            f"{setting}={name} is being written by `lmms-kvtp train`, or that broke off; wait for its {REPORT}, or "
            "give the same command again, which goes on there"
        )
    there = [file for file in FUSION if (folder / file).is_file()]
    if len(there) == 1:
        raise ValueError(f"{setting}={name} holds {there[0]} alone; a fusion head is {' and '.join(FUSION)}")
    form: Literal["siglip", "slim", "shared"] = "siglip"
    if (folder / TOWER_HEAD[0]).is_file():
        form = "shared"
    elif not (folder / "config.json").is_file():
        form = "slim"
    if not there and form != "siglip":
        raise ValueError(
            f"{setting}={name} holds no predictor: neither {' and '.join(FUSION)} nor the config.json of a SigLIP; "
            "give the folder that `lmms-kvtp train predictor` wrote"
        )
    return TrainedPredictor(name, folder, form, bool(there), training)


def is_predictor(name: str) -> bool:
    """Whether the name of an encoder's checkpoint is that of a trained predictor: its fusion head lies there."""
    folder = Path(name).expanduser()
    return any((folder / file).is_file() for file in (FUSION[0], TOWER_HEAD[0]))


def predictor_folder(name: str, setting: str) -> Path:
    """Find the folder of what `name` names; raises as `find_predictor` does where there is none."""
    if name in shipped_predictors():
        return checked(shipped_folder(SHIPPED) / name, f"embedded predictor {name}", setting)
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):  # pathlib raises where a name is too long
        return Path(folder)
    if name.startswith(UNTUNED):
        raise ValueError(
            f"{setting}={name} is an image-text model as it was released, no trained predictor; name it as "
            "encoder.pretrained, or train one with `lmms-kvtp train predictor`"
        )
    known = f"a folder, a hub id, or one of {', '.join(shipped_predictors())}"
    if name.count("/") != 1 or os.path.exists(folder):
        raise ValueError(f"{setting}={name}: there is no such folder; give {known}")
    from huggingface_hub import snapshot_download  # with a client that methods without a predictor do not need

    try:
        return Path(snapshot_download(name, allow_patterns=PATTERNS))
    except (OSError, ValueError) as error:
        reason = f"no folder here, and the hub gave none: {str(error).partition(chr(10))[0]}"
        raise ValueError(f"{setting}={name} is {reason}; give {known}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = {**from_json(file.read_bytes())}
        TrainedPredictor("", file, "siglip", False, found).describe()  # raises where a value is of another type
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}; train the predictor again, or delete that file") from error
    return found
