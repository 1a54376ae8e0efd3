"""What the back ends share that stand on a family's own classes of transformers: loading, prompts, decoding."""

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from lmms_kvtp.cost.flops import LLMShape, MergedShape
from lmms_kvtp.device import check_dtype, place, send, told
from lmms_kvtp.types import MARKUP, TEXT, VISION, PackedTokens, Positions, Prompt, Timing
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms.base import PromptTooLongError, VideoVLM
from lmms_kvtp.vlms.checkpoint.config import CheckpointError, reading
from lmms_kvtp.vlms.checkpoint.load import find_folder, load_generation_config, weight_files
from lmms_kvtp.vlms.layout import Chat
from lmms_kvtp.vlms.load_options import LoadOptions
from lmms_kvtp.vlms.native_prompt import around, behind_columns, joined, processed, rendered
from lmms_kvtp.vlms.released import Merging


class NativeVLM(Merging, VideoVLM):
    """A model that transformers has a class for, with its processor.

    Prompts are those of the processor of the installed release, which gets videos of the true frames at the least
    size: so template, timestamps and markers are its own, and its own text alone is read as markup. Rotary positions
    are those that the model's class gives to the prompt of all tokens.
    """

    class_name: ClassVar[str]
    """The class in transformers."""
    placeholder: ClassVar[str]
    """Entry of the model's config: the id that stands for vision tokens."""

    vision: MergedShape

    def __init__(self, name: str, model: Any, processor: Any, options: LoadOptions, files: Sequence[Path] = ()) -> None:
        """Join a model and its processor, loaded by transformers in whatever way.

        Args:
            name: as results have it.
            model: of `class_name`.
            processor: the checkpoint's.
            options: of these, only those of the family's own count.
            files: of the weights.

        Raises:
            CheckpointError: the processor has no chat template or no tokenizer.
        """
        if not getattr(processor, "chat_template", None):
            raise CheckpointError(f"{name} has no chat template; take chat_template.jinja from the released checkpoint")
        self.name, self.options, self.files = name, options, files
        # a shallow copy, which shares all weights: the decoding settings are another's
        self.model, self.processor, self.tokenizer = copy.copy(model), processor, processor.tokenizer
        self.defaults, self.model.generation_config = copy.copy(model.generation_config), GenerationConfig.from_dict({})
        # as the stock wrappers: one end, whatever others the checkpoint names
        self.defaults.eos_token_id = self.tokenizer.eos_token_id
        self.network = self.decoder = self.model
        self.layers, self.rotary = list(model.model.language_model.layers), model.model.language_model.rotary_emb
        self.device, self.dtype, self.parameters = model.device, model.dtype, int(model.num_parameters())
        text = model.config.get_text_config()
        heads = text.num_attention_heads
        self.llm = LLMShape(
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            layers=text.num_hidden_layers,
            heads=heads,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocabulary=text.vocab_size,
        )
        self.limit, self.default_encoder = text.max_position_embeddings, "google/siglip-so400m-patch14-384"
        self.chat, self.vision = Chat(self.tokenizer), self.tower_shape(model.config.vision_config)
        self.vision_token: int = getattr(model.config, self.placeholder)
        self._frame = lru_cache(4)(partial(around, self))  # kept for the next questions

    @classmethod
    def load(cls, pretrained: str, options: LoadOptions) -> "NativeVLM":
        """Load a checkpoint of the layout that transformers writes.

        CheckpointError where transformers cannot read it.
        """
        device, dtype = place(options.device, options.dtype)
        check_dtype(device, dtype)
        folder = find_folder(pretrained, options.revision)
        files = weight_files(folder)
        with reading(folder), told(f"loading {pretrained} in {dtype}", "choose dtype=bfloat16, or device_map=auto"):
            model = cls._read(
                folder,
                AutoModelForImageTextToText,
                dtype=dtype,
                attn_implementation=options.attn_implementation,
                device_map=options.device_map or str(device),
            )
        if type(model).__name__ != cls.class_name:
            raise CheckpointError(f"{folder} holds a {type(model).__name__}, {cls.family} wants {cls.class_name}")
        model.generation_config = load_generation_config(folder)
        processor = cls._read(folder, AutoProcessor)
        return cls(pretrained, model.eval().requires_grad_(False), processor, options, files)

    @classmethod
    def wrap(cls, model: Any, processor: Any, options: LoadOptions) -> "NativeVLM":
        """Take a model that transformers has loaded, which stays as it is."""
        if type(model).__name__ != cls.class_name or processor is None:
            given = f"a {type(model).__name__} with a {type(processor).__name__}"
            raise ValueError(f"{given}: {cls.family} wants a {cls.class_name} and, as processor=, its processor")
        return cls(str(model.name_or_path), model, processor, options)

    @classmethod
    def sized(cls, name: str, options: LoadOptions) -> "NativeVLM":
        """Make the model of a folder without its weights, for forecasts. Raises as `load`."""
        folder, kind = find_folder(name, options.revision), cast(Any, AutoModelForImageTextToText)
        with torch.device("meta"):
            model = kind.from_config(cls._read(folder, AutoConfig))
        return cls(name, model, cls._read(folder, AutoProcessor), options)

    @classmethod
    def _read(cls, folder: Path, kind: Any, **settings: Any) -> Any:
        try:
            return kind.from_pretrained(folder, trust_remote_code=False, **settings)
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            told = " ".join(str(error).split())
            raise CheckpointError(f"{folder} is no {cls.family} that transformers can read: {told}") from error

    @abstractmethod
    def tower_shape(self, vision: Any) -> MergedShape:
        """Read the sizes of the tower from its config."""

    def describe(self) -> dict[str, Any]:
        """List as plain values all that answers depend on beside method and frames."""
        return {
            **asdict(self.options),
            "family": self.family,
            "pretrained": self.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "pixels": repr(self.spec(2)),
            "limit": self.limit,
            "toy": False,
        }

    def system(self) -> list[dict[str, Any]]:
        """Turns before the user's."""
        return []

    @torch.inference_mode()
    def assemble(self, visuals: Sequence[PackedTokens], text: str, positions: Positions | None = None) -> Prompt:
        """Lay out the processor's prompt, and leave out the tokens that are not kept; `empty` tells about their text.

        PromptTooLongError where it does not fit in the context, ValueError where `text` is empty or a visual no video.
        """
        if not text.strip():
            raise ValueError(f"the question is empty ({text!r}); a prompt needs some text")
        if self.options.reasoning_prompt:
            text = text.strip() + self.options.reasoning_prompt.replace("\\n", "\n")
        shown = tuple((visual.timing, visual.grid) for visual in visuals if visual.timing)
        if len(shown) < len(visuals):
            raise ValueError(f"{self.family} lays out videos, and nobody told when a frame of this was; encode a video")
        frame = self._frame(shown)
        ids = torch.tensor([*frame.before, *self.chat.plain(frame.head + text + frame.tail), *frame.behind])
        role = F.pad(torch.tensor(frame.roles), (0, len(ids) - len(frame.roles)), value=TEXT)
        kept, frames, segments = joined(visuals)
        others, cells = self._text_left(ids, role, visuals), torch.nonzero(role == VISION).flatten()
        places, order = torch.cat([others, cells[kept]]).sort(stable=True)  # merged tokens may share a place
        at = torch.nonzero(order >= len(others)).flatten()  # of the kept tokens in the prompt
        token = order[at] - len(others)
        embeds = self.model.get_input_embeddings()(send(ids[places], self.device)).to(self.device)
        into, order_of = (send(part, self.device) for part in (at, token))
        deep = held = None
        if visuals:
            embeds[into] = torch.cat([visual.embeds.to(embeds) for visual in visuals])[order_of]
            if visuals[0].deep is not None:
                added = torch.cat([visual.deep.to(embeds) for visual in visuals if visual.deep is not None])[order_of]
                deep = embeds.new_zeros(added.shape[1], *embeds.shape)
                deep[:, into] = added.transpose(0, 1)
            if (positions or self.positions[0]) != "renumbered":
                held = self.all_positions(ids, role == VISION, frame.inputs)
            if positions == "evs" and held is not None and held.ndim > 1:
                held = behind_columns(held, role == VISION)
        where = [torch.full_like(places, -1).index_copy(0, at, label[token]) for label in (frames, segments)]
        prompt = Prompt(
            embeds,
            role[places],
            where[0],
            where[1] if any(visual.segment is not None for visual in visuals) else None,
            sum(visual.num_frames for visual in visuals),
            None if held is None else held[..., places],
            None if held is None else int((held[..., places] if positions == "evs" else held[..., -1]).max()) + 1,
            ids[places],
            deep,
        )
        if max(prompt.end, prompt.length) > self.limit:
            raise PromptTooLongError(max(prompt.end, prompt.length), self.limit, len(others))
        return prompt

    def _text_left(self, ids: Int[Tensor, " L"], role: Int[Tensor, " L"], visuals: Sequence[PackedTokens]) -> Tensor:
        """Find the places of text, with empty=drop but for those of steps that have lost all their tokens."""
        text, cells = torch.nonzero(role != VISION).flatten(), torch.nonzero(role == VISION).flatten()
        if self.options.empty == "keep" or not visuals:
            return text
        filled = torch.cat([(each.counts() > 0).cpu().repeat_interleave(math.prod(each.grid)) for each in visuals])
        ends = role[text - 1] == VISION  # the mark behind a step; what else belongs to a step stands before it
        step = (torch.searchsorted(cells, text) - ends.long()).clamp(max=len(cells) - 1)
        text = text[(role[text] != MARKUP) | filled[step]]
        first = text[role[text] == MARKUP][:1]
        divides = not str(self.tokenizer.decode(ids[first])).strip()  # with nothing before it
        return text[~torch.isin(text, first)] if divides else text

    def roles(self, packed: PackedTokens) -> Int[Tensor, " l"]:
        """Kinds of the places that stand for a video with a frame each second: its tokens, and text of its steps."""
        count = packed.num_frames * self.frames_per_step
        frame = self._frame(((Timing(tuple(range(count)), count, 1.0), packed.grid),))
        ids, role = torch.tensor(frame.before), torch.tensor(frame.roles)
        kept = torch.nonzero(role == VISION).flatten()[joined([packed])[0]]
        left = role[torch.cat([self._text_left(ids, role, [packed]), kept]).sort().values]
        return left[left != TEXT]

    def stock_inputs(self, frames: Frames, timing: Timing, text: str) -> Any:
        """Let the processor prepare a question on a whole video, for comparisons with the stock class."""
        spec, more = self.spec(len(frames.times)), dict[str, Any]()
        pixels = frames.resized(spec).permute(0, 3, 1, 2).float()
        if again := getattr(spec, "again", None):  # whatever it makes of the limits
            more = {"do_resize": True, "size": {"shortest_edge": int(again[0]), "longest_edge": int(again[1])}}
        return processed(self, rendered(self, 1, text), [pixels], [timing], **more).to(self.device)

    def all_positions(self, ids: Int[Tensor, " L"], vision: Bool[Tensor, " L"], inputs: Any) -> Int[Tensor, "*A L"]:
        """Give every place of the prompt of all tokens its rotary position.

        Args:
            ids: of that prompt.
            vision: its vision tokens.
            inputs: what the processor made, with the grids of its least videos replaced by the true ones.
        """
        return torch.arange(len(ids))
