"""How the tensors of a network are called in the checkpoints of each layout."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

EMBEDDINGS, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"
"""The two tensors of a network with a row per token."""


@dataclass(frozen=True)
class Layout:
    """One way to name tensors."""

    prefixes: Mapping[str, str]
    """How a name in `Network` begins, and how the same tensor's name begins in the checkpoint."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Tensors that take no part: the model reads the tower before its last normalisation."""
        return tuple(f"{self.prefixes['tower.']}post_layernorm.{part}" for part in ("weight", "bias"))

    def name(self, own: str) -> str:
        """The name in a checkpoint of a tensor of `Network`."""
        ours, theirs = next(pair for pair in self.prefixes.items() if own.startswith(pair[0]))
        return theirs + own.removeprefix(ours)


ORIGINAL = Layout(
    {
        "tower.": "model.vision_tower.vision_tower.vision_model.",
        "projector.": "model.mm_projector.",
        "newline": "model.image_newline",
        "llm.": "",
    }
)
"""LLaVA-NeXT's own."""


def _hugging_face(tower: str, old: bool) -> Layout:
    inside = "" if old else "model."
    llm = {"llm.": "language_model."} if old else {"llm.model.": "model.language_model.", "llm.": ""}
    return Layout(
        {
            "tower.": f"{inside}vision_tower.{tower}",
            "projector.0.": f"{inside}multi_modal_projector.linear_1.",
            "projector.2.": f"{inside}multi_modal_projector.linear_2.",
            "newline": f"{inside}image_newline",
            **llm,
        }
    )


HUGGING_FACE = tuple(_hugging_face(tower, old) for tower, old in product(("vision_model.", ""), (True, False)))
"""Of transformers' LlavaOnevision classes, which changed names between releases."""


def choose(layouts: Sequence[Layout], own: Collection[str], found: Collection[str]) -> Layout:
    """The layout by which most of a network's tensors are found."""
    return max(layouts, key=lambda layout: sum(layout.name(name) in found for name in own))
