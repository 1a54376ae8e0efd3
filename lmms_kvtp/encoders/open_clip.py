"""Image-text models of open_clip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lmms_kvtp.cost.flops import cosine_flops
from lmms_kvtp.cost.meter import counting, unfused
from lmms_kvtp.device import place, send
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.encoders.parts.text import REMEMBERED, scaled_cosines, split_text
from lmms_kvtp.resolve import near
from lmms_kvtp.types import FrameFeatures, GridPool
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.video.pixels import ResizedPixels, normalise


@dataclass(frozen=True)
class CroppedPixels:
    """Frames resized at their aspect ratio, then cropped or padded to a square, as open_clip does at inference."""

    size: tuple[int, int]
    """Height and width that the tower reads."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    """Name of the filter, as open_clip spells it."""
    resize_mode: str
    """shortest: the centre of the frame is seen. longest: all of it, with bars."""

    def resize(self, rgb: UInt8[Tensor, "T H W 3"], fast: bool = False) -> UInt8[Tensor, "T h w 3"]:
        """Resize and crop frames; `fast` changes nothing here."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        settings = PreprocessCfg(**vars(self))
        *steps, _, _ = image_transform_v2(settings, is_train=False).transforms  # the last two normalise
        resized = torch.empty(len(rgb), *self.size, 3, dtype=torch.uint8)
        for frame, small in zip(rgb, resized, strict=True):
            image = Image.fromarray(np.asarray(frame))
            for step in steps:
                image = step(image)
            small.copy_(torch.from_numpy(np.array(image)))
        return resized

    def normalise(self, resized: UInt8[Tensor, "T h w 3"]) -> Float[Tensor, "T 3 h w"]:
        """Scale resized frames to 0..1, and normalise."""
        return normalise(resized, self.mean, self.std)


@dataclass(frozen=True)
class OpenClip(FrameEncoder):
    """Gives pooled image embeddings, and nothing of single patches: pruners that need those want `encoder=siglip`."""

    provides: ClassVar[frozenset[str]] = frozenset({"image"})

    pretrained: str = "ViT-SO400M-14-SigLIP-384/webli"
    """name/tag or name/path of weights, for a name that open_clip knows; or hf-hub:org/model, or local-dir:path."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the towers; auto: bfloat16 on a GPU, float32 on a CPU. Features and logits are always float32."""
    device: str | None = None
    """Where the towers run; None: on the GPU if there is one."""

    @torch.no_grad()
    def encode(self, frames: Frames, needs: frozenset[str], pool: GridPool) -> FrameFeatures:
        """Compute the pooled image embeddings, if asked for. Raises ValueError if `needs` holds something else."""
        self.check(needs)
        if not needs:
            return FrameFeatures(times=frames.times)
        device, dtype = place(self.device, self.dtype)
        pixels = frames.pixels(self.pixel_spec, device).to(device, dtype)
        return FrameFeatures(times=frames.times, image=self.model.encode_image(pixels).float())

    @torch.no_grad()
    def embed_text(self, text: str) -> Float[Tensor, "_ E"]:
        """Embed one text, not normalised: a row for each piece that the model can read."""
        ids = send(self.tokenizer(self._known_pieces(text)), place(self.device, self.dtype)[0])
        embedded: Tensor = self.model.encode_text(ids)
        return embedded.float()

    @cached_property
    def _known_pieces(self) -> Callable[[str], list[str]]:
        return lru_cache(REMEMBERED)(self._pieces)

    def _pieces(self, text: str) -> list[str]:
        """Cut a text where it is longer than the model reads."""
        limit = self.tokenizer.context_length

        def fits(text: str) -> bool:
            # with room for twice as many tokens, the same ones come out and then padding
            short, long = self.tokenizer([text])[0], self.tokenizer([text], context_length=2 * limit)[0]
            return torch.equal(short, long[:limit]) and bool((long[limit:] == long[-1]).all())

        return split_text(text, fits)

    def logits(self, image: Float[Tensor, "T E"], text: Float[Tensor, "q E"]) -> Float[Tensor, "q T"]:
        """Compute cosines with the learned scale, and the bias where the model has one (SigLIP)."""
        return scaled_cosines(image, text, *self._scale)

    @cached_property
    def _scale(self) -> tuple[float, float]:
        """Factor and bias, read from the device once."""
        bias = self.model.logit_bias
        return float(self.model.logit_scale.exp()), 0.0 if bias is None else float(bias)

    def flops(self, num_frames: int, needs: frozenset[str], pool: GridPool) -> int:
        """Multiply the operations of one frame, which are counted once."""
        return num_frames * self._frame_flops if needs else 0

    def relevance_flops(self, num_frames: int, texts: Sequence[str], views: int = 1) -> int:
        """Add the text tower, counted once for a row, and cosines, with the fusion head's share of three views."""
        rows, (row, width) = sum(len(self._known_pieces(text)) for text in texts), self._row_flops
        return rows * row + cosine_flops(rows, num_frames, width, views)

    def companion(self, name: str) -> Path | None:
        """Find a file in the folder of local weights."""
        source, weights = self._source
        folder = Path(weights).parent if Path(weights).is_file() else Path(source.removeprefix("local-dir:"))
        return folder / name if (folder / name).is_file() else None

    @cached_property
    def model(self) -> Any:
        """The two towers, loaded on first use. Raises ValueError if open_clip has no such model or weights."""
        import open_clip

        name, weights = self._source
        device, dtype = place(self.device, self.dtype)
        precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
        try:
            model = open_clip.create_model_from_pretrained(
                name, weights or None, precision=precision, device=device, return_transform=False
            )
        except (RuntimeError, OSError) as error:
            raise ValueError(f"encoder.pretrained={self.pretrained} did not load: {error}") from error
        return model.eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> Any:
        """Tokenizer of the text tower."""
        import open_clip

        return open_clip.get_tokenizer(self._source[0])

    @cached_property
    def pixel_spec(self) -> ResizedPixels | CroppedPixels:
        """The model's own preprocessing."""
        stored = self.model.visual.preprocess_cfg
        height, width = stored["size"] if isinstance(stored["size"], (tuple, list)) else [stored["size"]] * 2
        mean, std = tuple(stored["mean"]), tuple(stored["std"])
        if stored["resize_mode"] == "squash":
            return ResizedPixels((height, width), mean, std, Image.Resampling[stored["interpolation"].upper()].value)
        return CroppedPixels((height, width), mean, std, stored["interpolation"], stored["resize_mode"])

    @cached_property
    @torch.no_grad()
    def _frame_flops(self) -> int:
        """Operations of the image tower on one frame."""
        height, width = self.pixel_spec.size
        blank = torch.zeros(1, 3, height, width).to(*place(self.device, self.dtype))
        with unfused(), counting() as found:
            self.model.encode_image(blank)
        return found.flops

    @cached_property
    @torch.no_grad()
    def _row_flops(self) -> tuple[int, int]:
        """Operations of the text tower on one row, and the width of the embedding."""
        ids = self.tokenizer(["?"]).to(place(self.device, self.dtype)[0])
        with unfused(), counting() as found:
            embedded = self.model.encode_text(ids)
        return found.flops, embedded.shape[1]

    @property
    def _source(self) -> tuple[str, str]:
        """Name, and tag or path of the weights; the only tag of a name need not be given."""
        name = self.pretrained.removeprefix("open_clip:")
        if name.startswith(("hf-hub:", "local-dir:")):
            return name, ""
        name, _, weights = name.partition("/")
        return name, weights or _only_tag(name)


def _only_tag(name: str) -> str:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if len(tags) != 1:
        hint = f"weights of {name}: {', '.join(tags)}" if tags else near(name, open_clip.list_models())
        raise ValueError(f"encoder.pretrained={name} names no weights; write {name}/tag or {name}/path; {hint}")
    return str(tags[0])
