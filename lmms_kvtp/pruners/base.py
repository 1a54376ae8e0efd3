"""Interface of token pruners; a new method is one file beside this one."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, final

from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.cost.meter import undeclared_flops
from lmms_kvtp.device import send
from lmms_kvtp.pruners.parts.packing import check, pack, top
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


class TokenPruner(ABC):
    """Reduces the vision tokens of each frame to that frame's budget."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields of `FrameFeatures` that this pruner reads; encoder and pipeline give only these."""
    scope: ClassVar[Literal["frame", "video"]] = "frame"
    """frame: every frame keeps exactly its budget. video: only the total is exact, budgets are weights."""
    exact: ClassVar[bool] = True
    """Budgets are kept as `scope` says. False only for published behaviour that keeps other numbers."""
    identity_at_full: ClassVar[bool] = True
    """Budgets of whole frames leave every token as it was."""
    conserves_mass: ClassVar[bool] = False
    """Nothing is dropped, only merged: sum(size * embeds) of a frame is that of its original tokens."""
    query_aware: ClassVar[bool] = False
    """Reads the question itself, beyond the budgets that an allocator made from it."""
    paper: ClassVar[str] = ""
    """Where the method comes from: a name and an arXiv id."""
    training_free: ClassVar[bool] = True
    """Nothing in it was trained for pruning."""
    searches: ClassVar[bool] = False
    """It finds scenes or groups: only `PackedTokens.flops` tells its operations, and the host waits for a GPU often."""

    @abstractmethod
    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep `budgets[t]` tokens of frame t.

        Args:
            tokens: never changed.
            features: with the fields named in `needs`.
            budgets: integers in [0, N], on the CPU.

        Raises:
            ValueError: budgets do not fit the frames, a feature in `needs` is missing, or scores are NaN.
        """

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int | None:
        """Count the operations of `prune` (see `lmms_kvtp.cost.flops`), where it multiplies matrices.

        None: known only after pruning, for then `PackedTokens.flops` carries them. A pruner outside this package that
        leaves this method out has them counted while it runs, which takes time of its own.
        """
        return None if self.searches else undeclared_flops(self)


class ScorePruner(TokenPruner):
    """Keeps the highest-scoring tokens of each frame, unchanged."""

    @abstractmethod
    def score(self, tokens: FrameTokens, features: FrameFeatures) -> Float[Tensor, "T N"]:
        """Score each token; those of higher scores are kept first."""

    @final
    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep the top `budgets[t]` of each frame; ties go to the earlier patch."""
        check(tokens, budgets)
        scores = send(self.score(tokens, features), tokens.embeds.device)
        return pack(tokens, tokens.embeds, top(scores, budgets), int(budgets.sum()))
