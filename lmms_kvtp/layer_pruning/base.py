"""Interface of layer pruners, and the block in which a language model runs with one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lmms_kvtp.cost.flops import LLMShape
from lmms_kvtp.cost.meter import undeclared_flops
from lmms_kvtp.device import send
from lmms_kvtp.layer_pruning.parts.cut import Inputs, cache_in, cut_cache, cut_inputs, cut_keys, joined_axes
from lmms_kvtp.types import VISION, Prompt


@dataclass(frozen=True)
class StageInput:
    """What a selection reads: a decoder layer, and the K prompt positions that enter it."""

    layer: nn.Module
    hidden: Float[Tensor, "K D"]
    """Hidden states before the layer's first normalization."""
    rotary: tuple[Float[Tensor, "K d"], Float[Tensor, "K d"]]
    """Cosines and sines of the rotary positions here: those in the whole prompt, unless numbered anew."""
    positions: Int[Tensor, " K"]
    """Places in the whole prompt, ascending."""
    role: Int[Tensor, " K"]
    frame: Int[Tensor, " K"]
    segment: Int[Tensor, " K"] | None
    entered: int
    """Vision tokens that entered the language model; earlier stages may have left fewer here."""

    @property
    def vision(self) -> Bool[Tensor, " K"]:
        """The positions that may be dropped."""
        return self.role == VISION


@dataclass(frozen=True)
class Stage:
    """One place in the language model where vision tokens are dropped."""

    layer: int
    """The first decoder layer, counted from 0, that processes only what was kept."""
    reads: int
    """The layer whose input and projections `select` gets: `layer` or an earlier one."""
    select: Callable[[StageInput], Bool[Tensor, " K"]]
    """Function that marks what to keep. Only vision positions are dropped, whatever it marks of others."""
    compress: bool = False
    """Drop the same tokens from the caches of earlier layers, too, so that decoding finds them nowhere."""
    renumber: bool = False
    """From `layer` on, what was kept has the rotary positions 0, 1, 2, ..., and answers follow behind it."""
    merge: Callable[[Float[Tensor, "K D"], Bool[Tensor, " K"], Bool[Tensor, " K"]], Float[Tensor, "K D"]] | None = None
    """Function that puts into the kept vision tokens, by hidden states that enter `layer`, what is dropped: it gets the
    states, the kept vision tokens, and the dropped ones."""


class LayerPruner(ABC):
    """Drops vision tokens between the layers of the language model, while it reads the prompt."""

    query_aware: ClassVar[bool] = True
    """Kept tokens depend on the question."""
    paper: ClassVar[str] = ""
    """Where the method comes from: a name and an arXiv id."""
    training_free: ClassVar[bool] = True
    """Nothing in it was trained for pruning."""

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """List where tokens are dropped, from the first layer to the last."""

    def kept(self, entered: int) -> tuple[tuple[int, int], ...]:
        """Tell from which layer on how many of `entered` vision tokens are left, roughly: forecasts read it."""
        return ()

    def flops(self, shape: LLMShape, layer_lengths: Sequence[int], role: Int[Tensor, " L"]) -> int | None:
        """Count the operations of the selections alone (see `lmms_kvtp.cost.flops`), where these multiply matrices.

        None, as of a layer pruner outside this package that leaves this method out: the ledger leaves them out, too.

        Args:
            shape: sizes of the language model.
            layer_lengths: positions that each layer processed.
            role: kinds of the prompt's positions, some of which are vision tokens.
        """
        return undeclared_flops(self)


@dataclass
class PruningTrace:
    """Positions of the prompt that each layer of the language model met, in ascending order."""

    processed: list[Int[Tensor, " K"]]
    """Positions that each layer processed in prefill."""
    cached: list[Int[Tensor, " K"]]
    """Positions in each layer's cache, once prefill is over."""

    @property
    def layer_lengths(self) -> tuple[int, ...]:
        """Number of positions that each layer processed."""
        return tuple(len(kept) for kept in self.processed)

    @property
    def cache_lengths(self) -> tuple[int, ...]:
        """Number of positions in each layer's cache when decoding begins."""
        return tuple(len(kept) for kept in self.cached)


@contextmanager
def layer_pruning(layers: Iterable[nn.Module], stages: Sequence[Stage], prompt: Prompt) -> Iterator[PruningTrace]:
    """Run a language model inside this block, and its layers see only the vision tokens that `stages` keep.

    Works on forward pre-hooks of the layers, with transformers' forward and generate. Kept tokens keep their positions,
    unless a stage numbers them anew. Leaving the block takes the hooks off.

    Args:
        layers: the decoder layers of one model, in order.
        stages: in the order of their layers; with none, or a prompt without vision tokens, the model is left alone.
        prompt: what the model will read, in one row or several equal ones. Reading it again starts anew.

    Yields:
        What each layer met, known when prefill is over.

    Raises:
        ValueError: stages that do not fit the model; inside the block, another prompt than the one announced, several
            prompts at once, or a cache that is not empty at the start or not dynamic.
    """
    layers = list(layers)
    check_stages(stages, len(layers))
    whole = torch.arange(prompt.length, device=prompt.embeds.device)
    trace = PruningTrace([whole] * len(layers), [whole] * len(layers))
    with ExitStack() as hooks:
        entered = int((prompt.role == VISION).sum()) if stages else 0
        if entered:
            labels = {name: getattr(prompt, name) for name in ("role", "frame", "segment")}
            there: dict[str, Any] = {
                name: send(label, whole.device) for name, label in labels.items() if label is not None
            }
            prompt = replace(prompt, **there)
            cuts, reads = {stage.layer: stage for stage in stages}, {stage.reads: stage for stage in stages}
            run = _Run(prompt, entered, trace, cuts, reads)
            for index, layer in enumerate(layers):
                before = partial(run.before, index)
                hooks.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        yield trace


def check_stages(stages: Sequence[Stage], num_layers: int) -> None:
    """Refuse stages that a model of so many layers does not have, or that overlap; the ValueError names them."""
    for stage in stages:
        if not 0 <= stage.reads <= stage.layer < num_layers:
            raise ValueError(
                f"cannot prune before layer {stage.layer} with scores of layer {stage.reads}: the model has layers 0 "
                f"to {num_layers - 1}, and scores come from the same layer or an earlier one"
            )
    for first, second in pairwise(stages):
        if not (first.layer < second.layer and first.layer <= second.reads):
            raise ValueError(f"stages before layers {first.layer} and {second.layer} overlap; put them in order, apart")


@dataclass
class _Run:
    """Hooks of one block, and what they know of the prefill under way."""

    prompt: Prompt
    """What is read, all of it on the device."""
    entered: int
    trace: PruningTrace
    cuts: dict[int, Stage]
    reads: dict[int, Stage]
    keep: Bool[Tensor, " K"] | None = None
    """Selection that waits for its layer."""
    prefilled: bool = False
    rotary: tuple[Tensor, Tensor] | None = None
    """Cosines and sines of the positions from 0 on, as far as the model has come; kept where a stage renumbers."""

    def before(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], inputs: Inputs
    ) -> tuple[tuple[Any, ...], Inputs]:
        """Cut the inputs of layer `index` before it runs."""
        hidden, cache = args[0], cache_in(inputs)  # [B, K, D], equal rows
        past = 0 if cache is None else int(cache.get_seq_length(index))
        if past > 0:
            return args, self._decode(index, past, hidden.shape[1], inputs)
        hidden, inputs = self._prefill(index, layer, hidden, inputs)
        return (hidden, *args[1:]), inputs

    def _prefill(self, index: int, layer: nn.Module, hidden: Tensor, inputs: Inputs) -> tuple[Tensor, Inputs]:
        trace, length = self.trace, self.prompt.length
        if index == 0:
            self._check_prompt(hidden, cache_in(inputs))
            trace.processed[0] = torch.arange(length, device=hidden.device)
            anew = any(stage.renumber for stage in self.cuts.values())
            self.rotary = inputs["position_embeddings"] if anew else None
        kept = trace.processed[max(index - 1, 0)].to(hidden.device)
        whole = inputs
        if len(kept) < length:
            inputs = self._numbered(index - 1, 0, cut_inputs(whole, kept, length), len(kept))
        stage = self.cuts.get(index)
        if stage is not None:
            keep = self.keep if stage.reads < index else self._select(stage, layer, hidden, kept, inputs)
            assert keep is not None, "a layer ran without those before it"
            if not bool(keep.all()):
                if stage.merge is not None:
                    vision = (self.prompt.role == VISION).to(keep.device)[kept.to(keep.device)]
                    hidden = stage.merge(hidden[0], keep & vision, ~keep).expand_as(hidden)
                hidden, kept = hidden[:, keep], kept[keep]
                inputs = self._numbered(index, 0, cut_inputs(whole, kept, length), len(kept))
        trace.processed[index] = trace.cached[index] = kept
        if stage is not None and stage.compress:
            self._compress(index, cache_in(inputs))
        later = self.reads.get(index)
        if later is not None and later.layer > index:
            self.keep = self._select(later, layer, hidden, kept, inputs)
        self.prefilled = index == len(trace.processed) - 1
        return hidden, inputs

    def _select(self, stage: Stage, layer: nn.Module, hidden: Tensor, kept: Tensor, inputs: Inputs) -> Tensor:
        prompt, at = self.prompt, kept.to(self.prompt.role.device)
        cos, sin = (joined_axes(layer, turns)[0].to(hidden.device) for turns in inputs["position_embeddings"])
        seen = StageInput(
            layer=layer,
            hidden=hidden[0],
            rotary=(cos, sin),
            positions=kept,
            role=prompt.role[at].to(hidden.device),
            frame=prompt.frame[at].to(hidden.device),
            segment=None if prompt.segment is None else prompt.segment[at].to(hidden.device),
            entered=self.entered,
        )
        return stage.select(seen) | ~seen.vision

    def _compress(self, index: int, cache: Any) -> None:
        cached = self.trace.cached
        for earlier in range(index):
            held, kept = cached[earlier], cached[index].to(cached[earlier].device)
            if cache is not None and len(kept) < len(held):
                cut_cache(cache, earlier, torch.searchsorted(held, kept))
            cached[earlier] = kept

    def _check_prompt(self, hidden: Tensor, cache: Any) -> None:
        self.prefilled = False
        if hidden.shape[1] != self.prompt.length:
            raise ValueError(
                f"the model reads {hidden.shape[1]} positions, the prompt has {self.prompt.length}; prune one prompt "
                "at a time, read in one piece, and decode with a cache"
            )
        if len(hidden) > 1 and not bool((hidden == hidden[:1]).all()):
            raise ValueError(f"the {len(hidden)} rows of a batch differ; layer pruning takes one prompt at a time")
        if cache is not None and cache.is_compileable:
            raise ValueError(f"cannot prune with a {type(cache).__name__}; leave cache_implementation at its default")

    def _decode(self, index: int, past: int, new: int, inputs: Inputs) -> Inputs:
        if not self.prefilled:
            raise ValueError(f"the cache holds {past} positions before the prompt was read; start with an empty one")
        first, own = self.trace.cached[0], self.trace.cached[index]
        positions, wanted = inputs.get("position_ids"), self.prompt.length + past - len(own)
        compressed = index == 0 and len(first) < self.prompt.length
        if compressed and positions is not None and positions.ndim == 2 and int(positions[0, 0]) != wanted:
            raise ValueError(
                f"decoding goes on at position {wanted}, got {int(positions[0, 0])}: the cache is shorter than what "
                "the model has read; pass position_ids, or use generate"
            )
        if index == 0 and self.rotary is not None:
            (cos, sin), (cos_more, sin_more) = self.rotary, inputs["position_embeddings"]
            known = self.prompt.length + past - len(first)
            cos, sin = torch.cat([cos[:1, :known], cos_more[:1]], 1), torch.cat([sin[:1, :known], sin_more[:1]], 1)
            self.rotary = cos, sin
        inputs = self._numbered(index, past, inputs, new)
        return cut_keys(inputs, first.to(own.device), own, past, new)

    def _numbered(self, index: int, start: int, inputs: Inputs, count: int) -> Inputs:
        """Turn by the positions from `start` on, where a stage before or at layer `index` has numbered anew."""
        if not any(stage.renumber for layer, stage in self.cuts.items() if layer <= index):
            return inputs
        assert self.rotary is not None, "a layer ran without those before it"
        given = zip(self.rotary, inputs["position_embeddings"], strict=True)
        turned = tuple(held[:1, start : start + count].to(old.device).expand_as(old) for held, old in given)
        return inputs | {"position_embeddings": turned}
