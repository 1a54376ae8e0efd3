"""What the tensors of a network are called in the checkpoints of each layout."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

EMBEDDINGS, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"
"""The two tensors of a network with a row per token."""


@dataclass(frozen=True)
class TensorNames:
    """One way to name the tensors of a network."""

    prefixes: Mapping[str, str]
    """How names in a checkpoint begin, by how the names in `Network` do."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of tensors that take no part: the model reads the tower before its last normalisation."""
        return tuple(f"{self.prefixes['tower.']}post_layernorm.{part}" for part in ("weight", "bias"))

    def name(self, own: str) -> str:
        """Name a tensor of `Network` as the checkpoint does."""
        ours, theirs = next(pair for pair in self.prefixes.items() if own.startswith(pair[0]))
        return theirs + own.removeprefix(ours)


ORIGINAL = TensorNames(
    {
        "tower.": "model.vision_tower.vision_tower.vision_model.",
        "projector.": "model.mm_projector.",
        "newline": "model.image_newline",
        "llm.": "",
    }
)
"""Names of LLaVA-NeXT's own code."""


def _hugging_face(tower: str, old: bool) -> TensorNames:
    inside = "" if old else "model."
    llm = {"llm.": "language_model."} if old else {"llm.model.": "model.language_model.", "llm.": ""}
    return TensorNames(
        {
            "tower.": f"{inside}vision_tower.{tower}",
            "projector.0.": f"{inside}multi_modal_projector.linear_1.",
            "projector.2.": f"{inside}multi_modal_projector.linear_2.",
            "newline": f"{inside}image_newline",
            **llm,
        }
    )


HUGGING_FACE = tuple(_hugging_face(tower, old) for tower, old in product(("vision_model.", ""), (True, False)))
"""Names of transformers' LlavaOnevision classes, which changed between releases."""


def choose(ways: Sequence[TensorNames], own: Collection[str], found: Collection[str]) -> TensorNames:
    """Choose the way by which most of a network's tensors are found."""
    return max(ways, key=lambda way: sum(way.name(name) in found for name in own))
