"""The head that makes an image embedding of what the language model's own tower saw."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lmms_kvtp.cost.flops import VisionShape, pooling_head_flops
from lmms_kvtp.encoders.parts.predictor import TOWER_HEAD
from lmms_kvtp.files import from_json, loading, write_json, write_whole

SETTINGS, WEIGHTS = TOWER_HEAD


@dataclass(frozen=True)
class HeadShape:
    """Sizes of the head."""

    width: int
    """Width of the tower's features."""
    intermediate: int
    """Width of the head's MLP."""
    heads: int
    embed: int
    """Width of the text side's embeddings."""


class TowerHead(nn.Module):
    """A normalization and SigLIP's attention pooling: one learned probe attends to all patches, an MLP follows.

    The parameters have the names and shapes of a SigLIP's `post_layernorm` and `head`, from which it can start.
    """

    def __init__(self, shape: HeadShape) -> None:
        """Make a head without trained weights."""
        super().__init__()
        self.shape = shape
        self.post_layernorm = nn.LayerNorm(shape.width, eps=1e-6)
        self.probe = nn.Parameter(torch.randn(1, 1, shape.width))
        self.attention = nn.MultiheadAttention(shape.width, shape.heads, batch_first=True)
        self.layernorm = nn.LayerNorm(shape.width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(shape.width, shape.intermediate),
            nn.GELU(approximate="tanh"),
            nn.Linear(shape.intermediate, shape.width),
        )
        same = shape.embed == shape.width
        self.into_text: nn.Module = nn.Identity() if same else nn.Linear(shape.width, shape.embed)

    def forward(self, patches: Float[Tensor, "T N C"]) -> Float[Tensor, "T E"]:
        """Embed frames, not normalized."""
        return self.pool(patches)[0]

    def pool(
        self, patches: Float[Tensor, "T N C"]
    ) -> tuple[Float[Tensor, "T E"], Float[Tensor, "T N"], Float[Tensor, "T N C"]]:
        """Compute embeddings, the probe's attention to each patch averaged over heads, and the normalized patches."""
        keys = self.post_layernorm(patches)
        attended, attention = self._attend(keys)
        pooled = attended + self.mlp(self.layernorm(attended))
        return self.into_text(pooled), attention, keys

    def _attend(self, keys: Float[Tensor, "T N C"]) -> tuple[Float[Tensor, "T C"], Float[Tensor, "T N"]]:
        """Let the probe attend to the patches; also return its attention, averaged over heads."""
        module = self.attention  # its own forward can take a fused path whose operations nobody can count
        attended, attention = F.multi_head_attention_forward(
            self.probe.expand(-1, len(keys), -1),
            keys.transpose(0, 1),
            keys.transpose(0, 1),
            self.shape.width,
            self.shape.heads,
            module.in_proj_weight,
            module.in_proj_bias,
            None,
            None,
            False,
            0.0,
            module.out_proj.weight,
            module.out_proj.bias,
            training=False,
        )
        assert attention is not None
        return attended[0], attention[:, 0]

    def flops(self, num_frames: int, patches: int) -> int:
        """Count operations on frames of so many patches: the pooling head, and the layer into the text side's space."""
        shape = self.shape
        head = VisionShape(0, 1, shape.width, shape.intermediate, 0, shape.heads)
        into_text = 2 * shape.width * shape.embed if shape.width != shape.embed else 0
        return pooling_head_flops(head, num_frames, patches) + num_frames * into_text

    def start_from(self, vision: nn.Module) -> None:
        """Copy the normalization and the pooling head of a SigLIP vision tower that has the same width."""
        theirs = vision.state_dict()
        own = {name: name if name.startswith("post_") else f"head.{name}" for name in self.state_dict()}
        renamed = {name: source.replace("mlp.0", "mlp.fc1").replace("mlp.2", "mlp.fc2") for name, source in own.items()}
        kept = {name: theirs[source] for name, source in renamed.items() if not name.startswith("into_text")}
        self.load_state_dict({name: value.float() for name, value in kept.items()}, strict=False)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write tower_head.json and tower_head.safetensors into `folder`."""
        write_json(folder / SETTINGS, asdict(self.shape))
        tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in self.state_dict().items()}
        write_whole(folder / WEIGHTS, save(tensors))


def load_tower_head(folder: Path) -> TowerHead:
    """Read what `TowerHead.save` wrote, in float32.

    ValueError where a file is missing, damaged or of other shapes; the message names the folder and the reason.
    """
    with loading(f"no head for the model's own tower in {folder}"):
        with torch.device("meta"):  # sizes that the weights do not have take no memory
            head = TowerHead(HeadShape(**from_json((folder / SETTINGS).read_bytes())))
        weights = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
        head.load_state_dict(weights, assign=True)
    return head.eval().requires_grad_(False)
