"""SigLIP and SigLIP 2 at a fixed resolution, from Hugging Face checkpoints."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmms_kvtp.cost.flops import VisionShape, features_flops, relevance_flops
from lmms_kvtp.device import place, send
from lmms_kvtp.encoders.base import FrameEncoder, mean_column, mean_keys, pool_patches
from lmms_kvtp.encoders.parts.siglip_config import siglip_source, text_shape, vision_sizes
from lmms_kvtp.encoders.parts.text import REMEMBERED, padded_pieces, scaled_cosines
from lmms_kvtp.types import FEATURES, FrameFeatures, GridPool
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.video.pixels import ResizedPixels


@contextmanager
def outputs_of(*modules: nn.Module) -> Iterator[dict[nn.Module, Any]]:
    """Collect the last output of each module while the `with` block runs."""
    seen: dict[nn.Module, Any] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen[module] = output

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(keep).remove)
        yield seen


@dataclass(frozen=True)
class Siglip(FrameEncoder):
    """One pass of the vision tower gives all features of a frame.

    Per-patch features are pooled as the language model's tokens are. Attention is averaged, not summed, by an average
    or bilinear pool: a frame's probe attention sums to about the number of pooled over that of original patches, a
    quarter, as in KVTP's release (of a grid with odd sides, the average pool also drops the last row and column).
    """

    provides: ClassVar[frozenset[str]] = FEATURES

    pretrained: str = "google/siglip-so400m-patch14-384"
    """Folder or hub id of a `SiglipModel` with its tokenizer; a predictor fine-tuned from one is such a folder. `tiny`:
    the embedded model's; a folder of that name is given as `./tiny`."""
    revision: str = "main"
    """Commit, branch or tag on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the towers; auto: bfloat16 on a GPU, float32 on a CPU. Features and logits are always float32."""
    device: str | None = None
    """Where the towers run; None: on the GPU if there is one."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention of the towers, by its name in transformers."""
    key_source: Literal["head_input", "projected"] = "head_input"
    """head_input: the tower's normalized output, called keys by KVTP's release. projected: the pooling head's keys."""
    text_chunks: Literal["split", "release"] = "split"
    """split: long texts cut between sentences or words, every piece ended and padded as the model was trained.
    release: KVTP's published behaviour, tokens cut every 64 and never padded."""

    def encode(self, frames: Frames, needs: frozenset[str], pool: GridPool) -> FrameFeatures:
        """Compute the fields in `needs`, on the grid of `pool`; ValueError where one is no feature of frames."""
        self.check(needs)
        if not needs:
            return FrameFeatures(times=frames.times)
        pixels = frames.pixels(self.pixel_spec, self.model.device).to(self.model.device, self.model.dtype)
        found = self.describe(pixels, needs)
        patches = {name: pool_patches(found[name], self.grid, pool) for name in needs - {"image"}}
        return FrameFeatures(times=frames.times, image=found.get("image"), **patches)

    @torch.no_grad()
    def describe(self, pixels: Float[Tensor, "T 3 h w"], needs: frozenset[str]) -> dict[str, Tensor]:
        """Compute features at the tower's own resolution."""
        vision = self.model.vision_model
        layer = vision.encoder.layers[-2:][0].self_attn  # the last one that LLaVA keeps
        watched = [vision.head.attention] if "probe_attention" in needs else []
        watched += [layer.q_proj, layer.k_proj] if needs & {"column_attention", "layer_keys"} else []
        with outputs_of(*watched) as seen:
            output = vision(pixel_values=pixels)
        hidden, features = output.last_hidden_state, {}
        if "image" in needs:
            features["image"] = output.pooler_output.float()
        if "probe_attention" in needs:
            features["probe_attention"] = seen[vision.head.attention][1][:, 0]  # [T, P], averaged over heads
        if "column_attention" in needs:
            features["column_attention"] = mean_column(seen[layer.q_proj], seen[layer.k_proj], layer.num_heads)
        if "layer_keys" in needs:
            features["layer_keys"] = mean_keys(seen[layer.k_proj], layer.num_heads)
        if "keys" in needs and self.key_source == "head_input":
            features["keys"] = hidden
        elif "keys" in needs:  # what the pooling head compares with its probe
            pooling = vision.head.attention
            weight, bias = (part.chunk(3)[1] for part in (pooling.in_proj_weight, pooling.in_proj_bias))
            features["keys"] = nn.functional.linear(hidden, weight, bias)
        if "patch_text" in needs:  # each patch as if it were the whole image: the head over a sequence of one
            features["patch_text"] = vision.head(hidden.flatten(0, 1)[:, None]).view(*hidden.shape[:2], -1)
        return features

    def embed_text(self, text: str) -> Float[Tensor, "_ E"]:
        """Embed one text, not normalised: a row for each piece that the model can read."""
        return torch.cat([self.embed_ids(ids) for ids in self.token_ids(text)])

    def token_ids(self, text: str) -> list[Int[Tensor, "_ _l"]]:
        """Split a text into pieces that the model reads: rows of one length, or several such batches (`release`)."""
        return self._known_ids(text)

    @cached_property
    def _known_ids(self) -> Callable[[str], list[Int[Tensor, "_ _l"]]]:
        return lru_cache(REMEMBERED)(self._split)

    def _split(self, text: str) -> list[Int[Tensor, "_ _l"]]:
        limit = self.model.config.text_config.max_position_embeddings
        if self.text_chunks == "release":
            ids = self.tokenizer(text.lower(), verbose=False).input_ids
            return [torch.tensor([ids[start : start + limit]]) for start in range(0, len(ids), limit)]

        return [padded_pieces(text, self.tokenizer, limit)]

    @torch.no_grad()
    def embed_ids(self, ids: Int[Tensor, "q l"]) -> Float[Tensor, "q E"]:
        """Embed token ids, without a mask, as the model was trained."""
        pooled: Tensor = self.model.text_model(input_ids=send(ids, self.model.device)).pooler_output
        return pooled.float()

    def logits(self, image: Float[Tensor, "T E"], text: Float[Tensor, "q E"]) -> Float[Tensor, "q T"]:
        """Compute cosines with the learned scale and bias."""
        return scaled_cosines(image, text, *self._scale)

    @cached_property
    def _scale(self) -> tuple[float, float]:
        """Factor and bias, read from the device once."""
        return math.exp(float(self.model.logit_scale)), float(self.model.logit_bias)

    def flops(self, num_frames: int, needs: frozenset[str], pool: GridPool) -> int:
        """Count tower and pooling head once, and what single patches need beside them."""
        return features_flops(self.vision, num_frames, needs, self.key_source == "projected") if needs else 0

    def relevance_flops(self, num_frames: int, texts: Sequence[str], views: int = 1) -> int:
        """Count text tower and cosines."""
        lengths = [len(row) for text in texts for ids in self.token_ids(text) for row in ids]
        return relevance_flops(text_shape(self.model.config.text_config), lengths, num_frames, views)

    @property
    def vision(self) -> VisionShape:
        """Sizes of the vision tower."""
        return vision_sizes(self.model.config.vision_config.to_dict())

    def companion(self, name: str) -> Path | None:
        """Find a file beside the weights, in the folder or on the hub."""
        from transformers.utils.hub import cached_file

        path = cached_file(self._source, name, revision=self.revision, _raise_exceptions_for_missing_entries=False)
        return None if path is None else Path(path)

    @cached_property
    def model(self) -> Any:
        """The two towers, loaded on first use.

        ValueError where there is no checkpoint, or it is no fixed-resolution SigLIP, or lacks weights.
        """
        from transformers import AutoConfig, SiglipModel

        try:
            config = AutoConfig.from_pretrained(self._source, revision=self.revision)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"encoder.pretrained={self.pretrained} is no folder or hub id of a SigLIP: {reason}; give one, such as "
                "google/siglip-so400m-patch14-384"
            ) from error
        if config.model_type != "siglip" or not config.vision_config.to_dict().get("vision_use_head", True):
            raise ValueError(
                f"encoder.pretrained={self.pretrained} is a {config.model_type} checkpoint; encoder=siglip reads "
                "SigLIP and SigLIP 2 of a fixed resolution, with their pooling head"
            )
        device, dtype = place(self.device, self.dtype)
        loaded: Any = SiglipModel.from_pretrained(
            self._source,
            revision=self.revision,
            dtype=dtype,
            attn_implementation=self.attn_implementation,
            output_loading_info=True,
        )
        model, report = loaded
        if report["missing_keys"] or report["mismatched_keys"]:
            bad = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
            raise ValueError(f"encoder.pretrained={self.pretrained} lacks {len(bad)} weights, such as {bad[0]}")
        return model.to(device).eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> Any:
        """Tokenizer of the text tower."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._source, revision=self.revision)

    @property
    def _source(self) -> str:
        return siglip_source(self.pretrained)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tower's patches."""
        return self.vision.side, self.vision.side

    @cached_property
    def pixel_spec(self) -> ResizedPixels:
        """The checkpoint's preprocessing; SigLIP's own where it has no file for it."""
        path = self.companion("preprocessor_config.json")
        side = self.model.config.vision_config.image_size
        stored = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
        size = stored.get("size", {})
        plain = ResizedPixels((size.get("height", side), size.get("width", side)))
        return ResizedPixels(
            plain.size,
            tuple(stored.get("image_mean", plain.mean)),
            tuple(stored.get("image_std", plain.std)),
            stored.get("resample", plain.resample),
        )
