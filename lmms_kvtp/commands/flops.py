"""`lmms-kvtp flops`: operations of a method on a model, from sizes alone, beside what papers count and report."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_kvtp.commands.arguments import at_least_one, not_negative
from lmms_kvtp.cost.flops import FRAME, TEXT_TOKENS
from lmms_kvtp.leaderboard.provenance import paper_rows
from lmms_kvtp.presets import METHOD_HELP, method_settings
from lmms_kvtp.rendering import markdown, write_between
from lmms_kvtp.settings import pairs

if TYPE_CHECKING:
    from lmms_kvtp.forecast.forecast import Forecast
    from lmms_kvtp.forecast.models import Sizes, Spec
    from lmms_kvtp.forecast.profilers import Profiler
    from lmms_kvtp.method import Method

TERA = 1e12
TABLES = {"llava-video-7b": 2, "llava-video-72b": 3}
"""Tables of the paper, by the model that their rows are of."""

EXPLANATION = Path(__file__).with_suffix(".txt")
"""Text below the paper's table."""
MISSES = (
    "THOP adds up rules of module classes: the multiply-adds of nn.Linear and nn.Conv2d, and 4 operations per element "
    "of nn.LayerNorm. It has no rule for the products of queries, keys and values, which are calls inside a module, "
    "nor for RMSNorm and rotary embeddings, nor for the projections inside nn.MultiheadAttention, SigLIP's pooling head"
)
"""Operations that the paper's profiler does not count."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add model, frames, method, and how to count."""
    parser.add_argument("--model", default="llava-video-7b", help="llava-video-7b or -72b, a hub id, or a folder")
    parser.add_argument("--frames", type=at_least_one, default=128, help="of the video (default 128, the paper's)")
    size = f"height and width of a frame, for families that keep its shape (default {FRAME[0]} {FRAME[1]})"
    parser.add_argument("--size", type=at_least_one, nargs=2, default=FRAME, help=size)
    parser.add_argument("--method", help=f"{METHOD_HELP}; without it the paper's rows are shown")
    parser.add_argument("--keep-ratio", type=float, help="share of vision tokens kept (default 0.2)")
    pool = "of LLaVA-Video; average (default) as in the paper's evaluation, bilinear as the models were trained"
    parser.add_argument("--pool", choices=["bilinear", "average", "max"], help=pool)
    text = "prompt positions beside the video (default %(default)s)"
    parser.add_argument("--text-tokens", type=not_negative, default=TEXT_TOKENS, help=text)
    parser.add_argument("--into", type=Path, help="put the paper's rows into this page, between markers")
    parser.add_argument("--profiler", choices=["thop", "torch"], help="also what THOP, or torch's counter, would count")


def main(arguments: argparse.Namespace) -> int:
    """Write tables in Markdown."""
    from lmms_kvtp.forecast.forecast import forecast
    from lmms_kvtp.forecast.models import Spec, find_sizes, pool_of
    from lmms_kvtp.method import KVTP, build_method

    spec = find_sizes(arguments.model)
    frames, mode = arguments.frames, arguments.pool or ("average" if isinstance(spec, Spec) else None)
    if arguments.method is None and arguments.keep_ratio is None and isinstance(spec, Spec) and spec.name in TABLES:
        table, text = paper_table(spec, frames, mode, arguments.text_tokens)
        if arguments.into:
            write_between(arguments.into, table, spec.name)
        else:
            head = f"{spec.name}, {frames} frames, in % of the unpruned model"
            sys.stdout.write(f"{head}\n\n{table}\n{text}\n{MISSES}.\n")
        return 0
    if arguments.into:
        models = " and ".join(TABLES)
        raise ValueError(f"--into is for the paper's rows of {models}; leave out --method and --keep-ratio")
    defaults = {**KVTP, "encoder.pretrained": spec.default_encoder}
    method = build_method(method_settings(arguments.method or "", arguments.keep_ratio, spec.llm.layers), defaults)
    pool = pool_of(spec, mode, frames, arguments.size)
    found = forecast(spec, method, frames, pool, arguments.text_tokens)
    sys.stdout.write(method_tables(spec, method, found, arguments.profiler))
    return 0


def method_tables(spec: "Sizes", method: "Method", found: "Forecast", profiler: "Profiler | None") -> str:
    """Write the stages of one method, and its total by each convention."""
    from lmms_kvtp.forecast.forecast import MEANING, conventions
    from lmms_kvtp.forecast.models import Spec, find_encoder

    cost, whole = found.cost, found.cost.flops_total
    encoder = find_encoder(str(getattr(method.encoder, "pretrained", ""))) if method.needs else None
    if profiler and not isinstance(spec, Spec):
        raise ValueError(f"--profiler {profiler} runs LLaVA-Video's modules; leave it out with {spec.name}")
    seen: dict[str, float] = {}
    if profiler and isinstance(spec, Spec):
        from lmms_kvtp.forecast.profilers import profile  # which loads transformers

        seen = profile(spec, profiler, cost, encoder)
    rows = []
    for stage in [*cost.flops, *found.unknown]:
        flops = cost.flops.get(stage)
        cells = [stage, f"{flops / TERA:.4g}" if flops is not None else "not known before it runs"]
        cells += [f"{flops / whole:.1%}" if flops is not None else ""]
        rows.append(cells + ([f"{seen[stage] / TERA:.4g}" if stage in seen else "-"] if profiler else []))
    seen_by = [f"{profiler}, T{'MAC' if profiler == 'thop' else 'FLOP'}"] if profiler else []
    told = [[name, f"{value / TERA:.4g}", MEANING[name]] for name, value in conventions(cost, spec.llm).items()]
    parts = [
        f"{spec.name}, {cost.num_frames} frames: {cost.tokens_kept} of {cost.tokens_before} vision tokens, "
        f"{cost.tokens_structural} newlines or places of text between them, {cost.prompt_tokens} positions in all",
        markdown(["stage", "TFLOP", "share", *seen_by], rows),
        markdown(["convention", "T", "what it counts"], told),
        *([f"{MISSES}."] if profiler == "thop" else []),
    ]
    return "\n\n".join(parts) + "\n"


def paper_table(spec: "Spec", frames: int, pool: str | None, text_tokens: int) -> tuple[str, str]:
    """Write every row of the paper's table for a model, by all conventions and as reported, and why they differ."""
    from lmms_kvtp.forecast.forecast import FULL, conventions, forecast, thop_stages
    from lmms_kvtp.forecast.models import find_encoder, find_spec
    from lmms_kvtp.method import KVTP, build_method

    rows: list[list[str]] = []
    base: dict[str, float] = {}
    shares: dict[str, float] = {}
    for row in paper_rows(TABLES[spec.name]):
        method = build_method(pairs(row.settings), KVTP)
        found = forecast(spec, method, frames, spec.pool(pool), text_tokens=text_tokens)
        encoder = find_encoder(str(getattr(method.encoder, "pretrained", ""))) if method.needs else None
        thop = thop_stages(found.cost, spec, encoder)
        own = sum(macs for stage, macs in thop.items() if stage in ("vision", "projector", "prefill"))
        counted = {**conventions(found.cost, spec.llm), "THOP": sum(thop.values()), "THOP, no helper": own}
        base = base or counted
        shares = {name: value / base[name] for name, value in counted.items()}
        cells = [row.method, str(found.cost.prompt_tokens), f"{counted[FULL] / TERA:.1f}"]
        told = (row.relative_flops, row.page_flops or row.relative_flops)
        rows.append([*cells, *(f"{share:.1%}" for share in shares.values()), *(f"x{value:g}" for value in told)])
    header = ["method", "positions", "TFLOP", *shares, "paper, table", "paper, page"]
    helper = shares["THOP"] - shares["THOP, no helper"]
    whole = {}
    for name, table in TABLES.items():  # multiply-adds that THOP counts in the unpruned model
        spec, unpruned = find_spec(name), build_method(pairs(paper_rows(table)[0].settings), KVTP)
        cost = forecast(spec, unpruned, frames, spec.pool(pool), text_tokens=text_tokens).cost
        whole[name] = sum(thop_stages(cost, spec, None).values())
    text = EXPLANATION.read_text(encoding="utf-8").format(
        share=shares["THOP, no helper"],
        reported=rows[-1][-2],
        encoder=helper,
        add7=whole["llava-video-7b"] * 0.08 / TERA,
        add72=whole["llava-video-72b"] * 0.02 / TERA,
    )
    return markdown(header, rows), text
