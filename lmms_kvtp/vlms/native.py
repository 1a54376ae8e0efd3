"""What the back ends share that stand on a family's own classes of transformers: loading, prompts, decoding."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from lmms_kvtp.cost.flops import LLMShape, MergedShape, merged_flops
from lmms_kvtp.device import check_dtype, place, told
from lmms_kvtp.types import MARKUP, TEXT, VISION, FrameTokens, GridPool, PackedTokens, Positions, Prompt, Timing
from lmms_kvtp.video.frames import Frames, TowerInside
from lmms_kvtp.video.pixels import PixelSpec, ProcessorPixels
from lmms_kvtp.vlms.base import LoadOptions, PromptTooLongError, VideoVLM
from lmms_kvtp.vlms.checkpoint.config import CheckpointError
from lmms_kvtp.vlms.checkpoint.load import find_folder, load_generation_config, weight_files
from lmms_kvtp.vlms.layout import Chat

MIN_PIXELS, MAX_PIXELS = 256 * 28 * 28, 1605632
"""Pixels of a frame in lmms-eval's stock wrappers of both Qwen-VL families."""
Shown = tuple[tuple[Timing, tuple[int, int]], ...]
"""Timing and grid of tokens of each video of a prompt."""


@dataclass(frozen=True)
class PromptFrame:
    """A prompt of all tokens, but for its question."""

    before: list[int]
    """Ids before the piece of text that holds the question."""
    roles: list[int]
    """Kinds of these places."""
    head: str
    """Beginning of that piece."""
    tail: str
    """End of that piece."""
    behind: list[int]
    """Ids behind it."""
    inputs: Any
    """What the processor made."""


class NativeVLM(VideoVLM):
    """A model that transformers has a class for, with its processor.

    Prompts are those of the processor of the installed release, which gets videos of the true frames at the least
    size: so template, timestamps and markers are its own, and its own text alone is read as markup. Rotary positions
    are those that the model's class gives to the prompt of all tokens.
    """

    class_name: ClassVar[str]
    """The class in transformers."""
    placeholder: ClassVar[str]
    """Entry of the model's config: the id that stands for vision tokens."""
    stride: ClassVar[int] = 2
    """Patches along a side of what becomes a token."""

    tower: MergedShape

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
        self.decoder, self.layers = self.model, list(model.model.language_model.layers)
        self.rotary = model.model.language_model.rotary_emb
        self.device, self.dtype = model.device, model.dtype
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
        self.chat, self._frame = Chat(self.tokenizer), lru_cache(4)(self._made_frame)
        self.tower = self.tower_shape(model.config.vision_config)
        self.tower_width = self.tower.hidden
        self._pad: int = getattr(model.config, self.placeholder)

    @classmethod
    def load(cls, pretrained: str, options: LoadOptions) -> "NativeVLM":
        """Load a checkpoint of the layout that transformers writes.

        Raises:
            CheckpointError: transformers cannot read it, or is too old.
        """
        if int(transformers.__version__.split(".")[0]) < 5:
            raise CheckpointError(f"{cls.family} wants transformers 5 or newer, this is {transformers.__version__}")
        device, dtype = place(options.device, options.dtype)
        check_dtype(device, dtype)
        folder = find_folder(pretrained, options.revision)
        files = weight_files(folder)
        with told(f"loading {pretrained} in {dtype}", "choose dtype=bfloat16, or device_map=auto"):
            try:
                model: Any = AutoModelForImageTextToText.from_pretrained(
                    folder,
                    dtype=dtype,
                    attn_implementation=options.attn_implementation,
                    device_map=options.device_map or str(device),
                )
                processor = cast(Any, AutoProcessor).from_pretrained(folder)
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise CheckpointError(f"{folder} is no {cls.family} that transformers can read: {error}") from error
        if type(model).__name__ != cls.class_name:
            raise CheckpointError(f"{folder} holds a {type(model).__name__}, {cls.family} wants {cls.class_name}")
        model.generation_config = load_generation_config(folder)
        return cls(pretrained, model.eval().requires_grad_(False), processor, options, files)

    @classmethod
    def wrap(cls, model: Any, processor: Any, options: LoadOptions) -> "NativeVLM":
        """Take a model that transformers has loaded, which stays as it is."""
        if type(model).__name__ != cls.class_name or processor is None:
            given = f"a {type(model).__name__} with a {type(processor).__name__}"
            raise ValueError(f"{given}: {cls.family} wants a {cls.class_name} and, as processor=, its processor")
        return cls(str(model.name_or_path), model, processor, options)

    def tower_shape(self, vision: Any) -> MergedShape:
        """Read the sizes of the tower from its config."""
        raise NotImplementedError

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

    def pooling(self, height: int, width: int) -> GridPool:
        """Say how patches become tokens: neighbours are merged."""
        side = self.tower.patch_size
        return GridPool("average", (height // side, width // side), self.stride)

    def vision_flops(self, pool: GridPool, steps: int) -> tuple[int, int]:
        """Count the operations of tower and mergers on so many steps."""
        return merged_flops(self.tower, pool.patches, steps)

    def system(self) -> list[dict[str, Any]]:
        """Turns before the user's."""
        return []

    @torch.inference_mode()
    def assemble(self, visuals: Sequence[PackedTokens], text: str, positions: Positions | None = None) -> Prompt:
        """Lay out the processor's prompt, and leave out the tokens that are not kept; markup of a step stays.

        Raises:
            PromptTooLongError: the prompt does not fit in the context.
            ValueError: `text` is empty, or a visual is no video.
        """
        if not text.strip():
            raise ValueError(f"the question is empty ({text!r}); a prompt needs some text")
        frame = self._frame(tuple((visual.timing, visual.grid) for visual in visuals if visual.timing))
        asked = self.chat.plain(frame.head + text + frame.tail)
        ids = torch.tensor([*frame.before, *asked, *frame.behind])
        role = torch.full_like(ids, TEXT)
        role[: len(frame.before)] = torch.tensor(frame.roles)
        others, cells = torch.nonzero(role != VISION).flatten(), torch.nonzero(role == VISION).flatten()
        first = [0, *accumulate(visual.num_frames for visual in visuals)]
        step = torch.cat([torch.zeros(0).long(), *(v.frame.cpu() + at for v, at in zip(visuals, first, strict=False))])
        at = [0, *accumulate(visual.num_frames * visual.grid[0] * visual.grid[1] for visual in visuals)]
        kept = [_cell(visual) + cell for visual, cell in zip(visuals, at, strict=False)]
        places = torch.cat([others, *(cells[cell] for cell in kept)])
        order = places.argsort(stable=True)  # merged tokens may share a place
        places = places[order]
        vision = torch.nonzero(order >= len(others)).flatten()  # where in the prompt
        packed = order[vision] - len(others)  # which of the kept tokens
        embeds = self.model.get_input_embeddings()(ids[places].to(self.device)).to(self.device)
        where = torch.full_like(places, -1).index_copy(0, vision, step[packed])
        segment = deep = None
        if visuals:
            kept_embeds = torch.cat([visual.embeds.to(embeds) for visual in visuals])
            embeds = embeds.index_copy(0, vision.to(self.device), kept_embeds[packed.to(self.device)])
            segment = _segments(visuals, vision, packed, len(places))
            if visuals[0].deep is not None:
                added = torch.cat([visual.deep.to(embeds) for visual in visuals if visual.deep is not None])
                deep = embeds.new_zeros(added.shape[1], *embeds.shape)
                deep[:, vision.to(self.device)] = added[packed.to(self.device)].transpose(0, 1)
        held = None
        if visuals and (positions or self.positions[0]) == "kept":
            held = self.all_positions(ids, role == VISION, frame.inputs)
        prompt = Prompt(
            embeds,
            role[places].to(self.device),
            where.to(self.device),
            None if segment is None else segment.to(self.device),
            first[-1],
            positions=None if held is None else held[..., places].to(self.device),
            span=None if held is None else int(held[..., -1].max()) + 1,
            ids=ids[places].to(self.device),
            deep=deep,
        )
        if max(prompt.end, prompt.length) > self.limit:
            raise PromptTooLongError(max(prompt.end, prompt.length), self.limit, len(others))
        return prompt

    def stock_inputs(self, frames: Frames, timing: Timing, text: str) -> Any:
        """Let the processor prepare a question on a whole video, for comparisons with the stock class."""
        pixels = frames.resized(self.spec(len(frames.times))).permute(0, 3, 1, 2)
        return self._processed(self._rendered(1, text), [pixels], [timing]).to(self.device)

    def _rendered(self, videos: int, text: str) -> str:
        content = [*({"type": "video"} for _ in range(videos)), {"type": "text", "text": text}]
        turns = [*self.system(), {"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _processed(self, rendered: str, videos: Sequence[Tensor], timings: Sequence[Timing]) -> Any:
        told = [{"fps": t.fps, "frames_indices": list(t.indices), "total_num_frames": t.total} for t in timings]
        shown = {"videos": list(videos), "video_metadata": told, "do_sample_frames": False, "do_resize": False}
        return self.processor(text=[rendered], return_tensors="pt", **(shown if videos else {}))

    def all_positions(self, ids: Int[Tensor, " L"], vision: Bool[Tensor, " L"], inputs: Any) -> Int[Tensor, "*A L"]:
        """Give every place of the prompt of all tokens its rotary position.

        Args:
            ids: of that prompt.
            vision: its vision tokens.
            inputs: what the processor made, with the grids of its least videos replaced by the true ones.
        """
        return torch.arange(len(ids))

    def _made_frame(self, shown: Shown) -> PromptFrame:
        """Have the processor lay out a prompt around a question of one special token; kept for the next questions."""
        mark, side = self.tokenizer.pad_token_id, self.tower.patch_size * self.stride
        least = [torch.zeros(len(timing.indices), 3, side, side, dtype=torch.uint8) for timing, _ in shown]
        rendered = self._rendered(len(shown), self.tokenizer.pad_token)
        inputs = self._processed(rendered, least, [timing for timing, _ in shown])
        ids, raw = inputs["input_ids"][0].tolist(), self.tokenizer(rendered).input_ids
        if ids.count(mark) != 1:
            raise CheckpointError(
                f"the chat template of {self.name} writes a question {ids.count(mark)} times, not once"
            )
        at, special = ids.index(mark), {*self.tokenizer.added_tokens_decoder}
        left = max(number for number in range(at) if ids[number] in special) + 1
        right = min(number for number in range(at + 1, len(ids)) if ids[number] in special)
        start, stop = _alike(raw, ids), len(ids) - _alike(raw[::-1], ids[::-1])  # what stands for a video's marker
        steps = [-(-len(timing.indices) // self.frames_per_step) for timing, _ in shown]
        each = ids.count(self._pad) // max(1, sum(steps))  # placeholders of a step of a least video
        sizes = iter(
            [g[0] * g[1] // each for (_, g), count in zip(shown, steps, strict=True) for _ in range(count * each)]
        )
        whole: list[tuple[int, int]] = []
        for number, token in enumerate(ids[:left]):
            role = MARKUP if start <= number < stop else TEXT
            whole += [(token, VISION)] * next(sizes) if token == self._pad else [(token, role)]
        if "video_grid_thw" in inputs:
            inputs["video_grid_thw"][:, 1:] = torch.tensor([grid for _, grid in shown]) * self.stride
        head, tail = (str(self.tokenizer.decode(part)) for part in (ids[left:at], ids[at + 1 : right]))
        return PromptFrame([token for token, _ in whole], [role for _, role in whole], head, tail, ids[right:], inputs)


class QwenVLM(NativeVLM):
    """What Qwen2.5-VL and Qwen3-VL share: steps of two frames, patches in blocks of 2 x 2, positions on three axes."""

    positions: ClassVar[tuple[Positions, ...]] = ("kept",)
    axes: ClassVar[int] = 3
    frames_per_step: ClassVar[int] = 2
    placeholder: ClassVar[str] = "video_token_id"

    @property
    def factor(self) -> int:
        """Pixels along a side of a token."""
        return self.tower.patch_size * self.stride

    def most_pixels(self, num_frames: int) -> float:
        """Pixels of a frame at most, as qwen-vl-utils counts them."""
        given, total = self.options.max_pixels or MAX_PIXELS, self.options.total_pixels
        share = (128_000 * 0.9 * self.factor**2 if total is None else total) / max(1, num_frames) * 2
        cap = max(min(768.0 * self.factor**2, share), int(self.least_pixels * 1.05))
        return float(cap if total is not None else min(given, cap))

    @property
    def least_pixels(self) -> int:
        """Pixels of a frame at least."""
        return MIN_PIXELS if self.options.min_pixels is None else self.options.min_pixels

    def spec(self, num_frames: int) -> ProcessorPixels:
        """Say what the tower wants of each frame: its own shape, in multiples of a token, within limits."""
        own = self.processor.video_processor
        limits = self.least_pixels, self.most_pixels(num_frames)
        return ProcessorPixels(tuple(own.image_mean), tuple(own.image_std), None, self.factor, *limits)

    @torch.inference_mode()
    def look(self, frames: Frames, spec: PixelSpec) -> tuple[FrameTokens, Float[Tensor, "T P C"]]:
        """Run tower and mergers on one chunk of frames: tokens, and the tower's patches, row by row."""
        pixels, p, batch = (
            frames.pixels(spec, self.device),
            self.tower.patch_size,
            max(1, self.options.vision_batch // 2),
        )
        if len(pixels) % 2:  # as the processor does
            pixels = torch.cat([pixels, pixels[-1:]])
        rows, columns = pixels.shape[2] // p, pixels.shape[3] // p
        blocks = pixels.view(-1, 2, 3, rows // 2, 2, p, columns // 2, 2, p)
        steps = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(len(blocks), rows * columns, -1)
        tokens, patches, deep = [], [], list[Tensor]()
        with told(f"the vision tower on {len(pixels)} frames of {rows} x {columns} patches", "lower vision_batch"):
            for part in torch.split(steps, batch):
                grid = torch.tensor([[len(part), rows, columns]], device=self.device)
                made = self.model.model.visual(part.flatten(0, 1).to(self.dtype), grid_thw=grid)
                tokens.append(made.pooler_output.view(len(part), rows * columns // 4, -1))
                patches.append(self.raster(made.last_hidden_state, grid).view(len(part), rows * columns, -1))
                if levels := getattr(made, "deepstack_features", None):
                    deep.append(torch.stack(levels, dim=1).view(len(part), rows * columns // 4, len(levels), -1))
        joined = torch.cat(deep) if deep else None
        return FrameTokens(torch.cat(tokens), (rows // 2, columns // 2), deep=joined), torch.cat(patches)

    def raster(self, patches: Float[Tensor, "R C"], grid: Int[Tensor, "1 3"]) -> Float[Tensor, "R C"]:
        """Bring patches of some steps from blocks of 2 x 2 into rows."""
        steps, rows, columns = grid[0].tolist()
        blocks = patches.view(steps, rows // 2, columns // 2, 2, 2, -1)
        return blocks.transpose(2, 3).reshape(len(patches), -1)

    @contextmanager
    def watch_tower(self) -> Iterator[list[TowerInside]]:
        """Collect queries and keys of the last layer of the tower, turned by their positions, row by row."""
        visual, seen, grids = self.model.model.visual, list[TowerInside](), list[Tensor]()

        def inside(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            states = given[0] if given else named["hidden_states"]
            queries, keys, _ = module.qkv(states).view(len(states), 3, module.num_heads, -1).unbind(1)
            cos, sin = (part[:, None].float() for part in named["position_embeddings"])
            turned = [heads.float() * cos + _half_turned(heads.float()) * sin for heads in (queries, keys)]
            steps = int(grids[-1][0, 0])
            rows = [self.raster(heads.flatten(1), grids[-1]).view(steps, -1, heads[0].numel()) for heads in turned]
            seen.append(TowerInside(rows[0], rows[1], module.num_heads))

        def note(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            grids.append(named["grid_thw"])

        with ExitStack() as stack:
            stack.callback(visual.register_forward_pre_hook(note, with_kwargs=True).remove)
            stack.callback(visual.blocks[-1].attn.register_forward_pre_hook(inside, with_kwargs=True).remove)
            yield seen

    def all_positions(self, ids: Int[Tensor, " L"], vision: Bool[Tensor, " L"], inputs: Any) -> Int[Tensor, "*A L"]:
        """Ask the model's class, whose rule differs between releases of transformers."""
        rule = self.model.model.get_rope_index
        known = {name: inputs[name] for name in inspect.signature(rule).parameters if name in inputs}
        replaced = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
        return cast(Tensor, rule(**known | replaced | {"mm_token_type_ids": vision.long()[None] * 2})[0][:, 0])


def _alike(one: list[int], other: list[int]) -> int:
    """Count the equal entries at the beginning of both."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


def _cell(visual: PackedTokens) -> Int[Tensor, " K"]:
    """Count cells through all frames."""
    return visual.frame.cpu() * (visual.grid[0] * visual.grid[1]) + visual.patch.cpu()


def _half_turned(heads: Float[Tensor, "R H d"]) -> Float[Tensor, "R H d"]:
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def _segments(visuals: Sequence[PackedTokens], vision: Tensor, packed: Tensor, length: int) -> Int[Tensor, " L"] | None:
    """Number the groups of all videos, where pruners made some."""
    if all(visual.segment is None for visual in visuals):
        return None
    groups, first = [], 0
    for visual in visuals:
        own = torch.full_like(visual.frame, -1 - first) if visual.segment is None else visual.segment
        groups.append(own.cpu() + first)
        first += int(own.max()) + 1 if len(own) and visual.segment is not None else 0
    return torch.full((length,), -1).index_copy(0, vision, torch.cat(groups)[packed])
