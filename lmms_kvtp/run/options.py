"""`--model_args`: what each argument means, and which are refused with what reason."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from lmms_kvtp.cost.meter import Timing
from lmms_kvtp.method import KVTP, PARTS, PREDICTOR, build_method
from lmms_kvtp.presets import DEPTH, FULL, IDS, RECIPES, method_settings
from lmms_kvtp.resolve import near
from lmms_kvtp.settings import pairs, parse
from lmms_kvtp.shipped import TINY
from lmms_kvtp.video.ahead.ahead import AheadOptions
from lmms_kvtp.video.cache import GIB, FrameCache
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import back_end
from lmms_kvtp.vlms.checkpoint.config import CheckpointError
from lmms_kvtp.vlms.checkpoint.load import family_named, find_folder, layers_in, layers_named, weight_files
from lmms_kvtp.vlms.load_options import ALIASES, LoadOptions

Images = Literal["frames", "tiles"]
MOST_SECONDS = 1e6
"""Upper limit of `video_seconds`, eleven days; the system cannot count a wait of many weeks."""


@dataclass(frozen=True)
class RunOptions:
    """Settings of a run beside those of model, frames and method."""

    pretrained: str = "lmms-lab/LLaVA-Video-7B-Qwen2"
    """Folder or hub id of a checkpoint, in the original or Hugging Face's layout; `tiny` is the embedded model."""
    settings: Literal["default", "paper"] = "default"
    """paper: what KVTP's paper and release run, where an argument does not say otherwise; see PAPER."""
    overwrite: bool = True
    """False: the checkpoint's own pooling and newlines, so that naming others is an error."""
    max_new_tokens: int = 1024
    """Longest answer where the task sets none, as in the stock wrapper."""
    batch_size: int = 1
    """Questions that the language model reads at once, when it decodes greedily and drops nothing inside."""
    share_prefix: bool = True
    """With batch_size 1, questions on one video share the prefill of it, if they have no say in what is kept."""
    decode_ahead_mib: int | Literal["auto"] = "auto"
    """Memory for frames of the next videos, which other processes decode meanwhile. auto: 1024 where that saves more
    than their start takes, else 0. 0: everything in this process, where a file that hangs or crashes its
    decoder takes the run along."""
    decode_ahead_processes: int | Literal["auto"] = "auto"
    """How many processes share that memory and the videos, in turns. auto: one for each core of this process but one,
    in a quarter of the free memory at most."""
    video_seconds: float = 600.0
    """How long such a process may work on one sample's videos, before it is ended and the sample has failed."""
    frame_cache: str | None = None
    """Folder for resized frames, so that a later run neither decodes nor resizes them."""
    frame_cache_gib: float = 20.0
    """Size limit of that folder; the oldest frames make room for new ones."""
    images: Images = "frames"
    """What a task's images are. frames: those of one video. tiles: one image in the checkpoint's tiles, several in one
    square each, and none of them pruned."""
    timing: Timing = "auto"
    """How seconds are read on a GPU. stages: it is waited for at both ends of each stage, so that these are the stage's
    own. total: nobody waits; its queue notes when it passes them. off: answers have no seconds. auto: total."""
    seed: int = 0
    """Seed of sampling, and of every part of the method that draws at random and was given none."""
    on_error: Literal["raise", "skip"] = "raise"
    """skip: a sample that fails counts as an empty answer; its error is recorded, counted and printed."""
    too_long: Literal["error", "fewer_frames"] = "error"
    """What to do with a prompt that does not fit in the model's context. The question is never cut."""
    allow_toy: bool = False
    """Let the embedded model answer other tasks than skvqa_synth."""
    allow_seen: bool = False
    """Let a predictor score questions of tasks on whose evaluation lines it was trained."""
    resume: str | None = None
    """A journal, or a folder of them, whose answers are used where nothing that they depend on has changed."""
    journal: str = "auto"
    """Folder for this run's journal, or none. auto: beside the results, or where there are none the cache folder."""
    row: str = ""
    """Name by which another run's `against` means this one."""
    against: str = ""
    """Rows that a board holds this one against, by their `row`, parted by semicolons, or none; all tokens if empty."""
    margin: float | None = None
    """Points within which two accuracies count as equal; no board calls them so where none was fixed before the run."""

    def __post_init__(self) -> None:
        """Refuse an empty batch, and limits under which nothing can be read."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is below 1; give a number, such as 1")
        if self.decode_ahead_mib != "auto" and self.decode_ahead_mib < 0:
            raise ValueError(f"decode_ahead_mib={self.decode_ahead_mib} is below 0; 0 decodes nothing ahead")
        if self.decode_ahead_processes != "auto" and self.decode_ahead_processes < 1:
            given = f"decode_ahead_processes={self.decode_ahead_processes}"
            raise ValueError(f"{given} is below 1; decode_ahead_mib=0 decodes nothing ahead")
        if self.margin is not None and not 0 < self.margin < 100:
            raise ValueError(f"margin={self.margin:g} is not above 0 and below 100; give points of accuracy, such as 2")
        if not 0 < self.frame_cache_gib < math.inf:
            raise ValueError(
                f"frame_cache_gib={self.frame_cache_gib:g} is not above 0 and finite; give what the disk can hold, or "
                "leave frame_cache out"
            )
        if not 0 < self.video_seconds <= MOST_SECONDS:
            raise ValueError(
                f"video_seconds={self.video_seconds:g} is not above 0 and at most {MOST_SECONDS:g}; give seconds, 600 "
                "unless told"
            )

    @property
    def verdicts(self) -> dict[str, Any]:
        """What a board judges by, as the run's record holds it."""
        return {"row": self.row, "against": self.against, "margin": self.margin}

    @property
    def cache(self) -> FrameCache | None:
        """The frame cache, if the run has one."""
        return FrameCache(Path(self.frame_cache), int(self.frame_cache_gib * GIB)) if self.frame_cache else None

    @property
    def ahead(self) -> AheadOptions:
        """What is decoded ahead; images in tiles are never asked for as frames."""
        images = self.images != "tiles"
        return AheadOptions(self.decode_ahead_mib, self.decode_ahead_processes, self.video_seconds, self.cache, images)


PAPER = {
    "load": {"mm_spatial_pool_mode": "average", "mm_newline_position": "grid", "newlines": "release"},
    "method": {"allocator.temperature": "2", "allocator.floor": "0", "scorer.queries": "raw"},
}
"""What `settings=paper` sets: 13 x 13 tokens a frame, the release's newlines and temperature, no least tokens of a
frame, and the queries of eq. 6 and 7 at their own length. Settings of a part hold while the part is KVTP's."""


@dataclass(frozen=True)
class Arguments:
    """All of `--model_args`, checked."""

    run: RunOptions
    load: LoadOptions
    frames: FrameOptions
    method: Mapping[str, Any]
    """Settings of parts and their fields, keep_ratio, positions and predictor, for `build_method`."""


METHOD = ("keep_ratio", "positions", PREDICTOR)
"""Settings of a method beside those of its parts."""
GROUPS = {"run": RunOptions, "load": LoadOptions, "frames": FrameOptions}

RENAMED = {
    **{alias: ("load", name) for alias, name in ALIASES.items()},
    "backend": ("load", "backend"),
    "video_fps": ("frames", "fps"),
    "max_num_frames": ("frames", "max_frames_num"),
    "num_frames": ("frames", "max_frames_num"),
    "video_decode_backend": ("frames", "backend"),
}
"""Other names for settings, from the stock wrapper or the documentation -> group and field that they set."""

ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "conv_template": (("qwen_1_5",), "LLaVA-Video on Qwen2 knows no other chat template"),
    "mm_spatial_pool_stride": ((2,), "LLaVA-Video's code pools with stride 2 whatever its config says"),
    "mm_resampler_type": (("spatial_pool",), "LLaVA-Video has no other resampler"),
    "truncate_context": ((False,), "a question is never cut; see too_long"),
    "use_cache": ((True,), "without key-value cache answers are the same and take longer"),
    "add_faster_video": ((False,), "the released models do not use slow and fast frames"),
    "token_strategy": (("single",), "a video stands once in the prompt"),
    "interleave_visuals": ((False,), "videos stand before the text, as in the stock chat wrappers"),
    "trust_remote_code": ((False,), "no code of a checkpoint is run"),
    "customized_config": ((None, "none", "None"), "the checkpoint's config.json is read; pass single settings"),
}
"""Stock arguments that may only have certain values, and why."""

WITHOUT_EFFECT = (
    *("truncation", "mm_spatial_pool_out_channels", "mm_resampler_location", "delay_load", "tie_weights"),
    *("faster_token_stride", "max_batch_size", "model_name", "low_cpu_mem_usage", "min_patches", "max_patches"),
)
"""Stock arguments that have no effect on answers in the stock wrapper either."""


def chooses_method(name: str) -> bool:
    """Tell whether an argument is a setting of the method, not of model, frames or run."""
    return name.split(".")[0] in PARTS or name in METHOD or name == "method"


def expand(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put the settings of `method=NAME` in its place; raises as `method_settings`, or where another setting differs."""
    if (named := settings.get("method")) is None:
        return settings
    rest = {key: value for key, value in settings.items() if key not in ("method", "keep_ratio")}
    recipe, ratio = RECIPES.get(IDS.get(named, named)), settings.get("keep_ratio")
    model = str(settings.get("pretrained", RunOptions.pretrained)), settings.get("revision")
    layers = layers_named(*model) if recipe and recipe.layers else DEPTH
    own = method_settings(named, None if ratio is None else parse(float, ratio, "keep_ratio"), layers)
    if IDS.get(named, named) == FULL and ratio is not None:
        rest["keep_ratio"] = f"{parse(float, ratio, 'keep_ratio'):g}"  # all tokens are no share of them
    for key in own.keys() & rest.keys():
        if str(rest[key]) != own[key]:
            raise ValueError(f"{key}={rest[key]} contradicts method={named}, which has {key}={own[key]}; leave one out")
    return {**own, **rest}


def parse_arguments(settings: Mapping[str, Any], family: str | None = None) -> Arguments:
    """Read what the harness passes on from `--model_args`, `--device` and `--batch_size`.

    Args:
        settings: by name, as text or values.
        family: the model's, whose defaults hold; None: found from the checkpoint, where it is on this machine.

    Raises:
        CheckpointError: the checkpoint's family is not supported.
        LookupError: an unknown argument; the message lists near matches.
        ValueError: a value that does not fit, or that is refused; the message says why.
    """
    owner = {f.name: (group, f.name) for group, options in GROUPS.items() for f in fields(options)} | RENAMED
    plain = sorted({*owner} - {*ALIASES.values()})
    values: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    method: dict[str, Any] = {}
    for key, value in expand(settings).items():
        if chooses_method(key):
            method[key] = value
        elif key in ONLY:
            possible, reason = ONLY[key]
            if value not in possible:
                raise ValueError(f"{key}={value} is not possible, only {key}={possible[0]}: {reason}")
        elif key in WITHOUT_EFFECT:
            pass
        elif key not in plain:
            raise LookupError(f"unknown argument {key!r}; {near(key, ['method', *plain, *ONLY, *PARTS, *METHOD])}")
        else:
            one_device = key == "device_map" and str(value).split(":")[0] in ("cuda", "cpu", "mps")
            group, name = owner["device" if one_device else key]
            parsed = parse(get_type_hints(GROUPS[group])[name], value, key)
            if values[group].setdefault(name, parsed) != parsed:
                raise ValueError(f"{key}={value} contradicts {name}={values[group][name]}, the same setting; pass one")
    if family is None:
        pretrained = values["run"].get("pretrained", RunOptions.pretrained)
        family = family_named(str(pretrained), values["load"].get("revision")) or "llava_video"
    if values["load"].get("total_pixels") is not None:  # with which the stock wrapper asks qwen-vl-utils for no number
        values["frames"].setdefault("fps", 2.0)
    for name, value in back_end(family).run_defaults.items():
        group, field_name = owner[name]
        values[group].setdefault(field_name, value)
    if values["run"].get("settings") == "paper":
        values["load"] = {**PAPER["load"], **values["load"]}
    _check_together(values["run"], values["load"])
    return Arguments(
        RunOptions(**values["run"]), LoadOptions(**values["load"]), FrameOptions(**values["frames"]), method
    )


def model_id(settings: Mapping[str, Any]) -> str | None:
    """Name the harness's model that runs what `--model_args` name; None where the checkpoint is not here yet.

    CheckpointError where its family is not supported.
    """
    found = family_named(str(settings.get("pretrained", RunOptions.pretrained)), settings.get("revision"))
    return found and f"{found}_kvtp"


def check_family(settings: Mapping[str, Any], family: str | None) -> None:
    """Refuse a checkpoint that another model id runs than that of a back end; None: of any."""
    if family and (own := model_id(settings)) not in (None, f"{family}_kvtp"):
        raise CheckpointError(f"{settings.get('pretrained')} is not of the family {family}; run it with --model {own}")


def check_arguments(given: Sequence[str]) -> None:
    """Refuse, before the harness starts, `--model_args` that a run would refuse; missing weights too.

    LookupError where an argument or component is unknown; ValueError where a value or a checkpoint does not fit.
    """
    read = [parse_arguments(pairs(text)) for text in given]
    for arguments in read:
        own = {PREDICTOR: TINY} if arguments.run.pretrained == TINY else {}
        build_method(arguments.method, {**KVTP, **own})
    for name, revision in {(arguments.run.pretrained, arguments.load.revision): None for arguments in read}:
        folder = find_folder(name, revision)
        layers_in(folder)
        weight_files(folder)


def layers_of(given: str) -> int:
    """Count the layers of the language model that `--model_args` name; raises as `check_arguments` does."""
    arguments = parse_arguments(pairs(given))
    return layers_named(arguments.run.pretrained, arguments.load.revision)


def _check_together(run: Mapping[str, Any], load: Mapping[str, Any]) -> None:
    """Refuse settings that contradict each other."""
    for name in ("mm_spatial_pool_mode", "mm_newline_position"):
        if not run.get("overwrite", True) and load.get(name) is not None:
            raise ValueError(
                f"overwrite=false keeps the checkpoint's setting; leave out {name}={load[name]} or overwrite"
            )
