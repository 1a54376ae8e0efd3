"""Tables and figures of the embedded benchmark, which `lmms-kvtp table` prints."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import cast

import torch

from lmms_kvtp.embedded import cache, dataset
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.files import write_whole
from lmms_kvtp.leaderboard.runs import Run
from lmms_kvtp.leaderboard.stats import MISSING, accuracy, difference, shown
from lmms_kvtp.predictor.measure import sparsity
from lmms_kvtp.questions import Question, refine
from lmms_kvtp.rendering import drawing, markdown, to_svg
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.types import FrameFeatures
from lmms_kvtp.video.load import load_video
from lmms_kvtp.vlms.llava_video import load_llava_video


def table(runs: Mapping[str, Run], partners: Mapping[str, str], kinds: Sequence[str]) -> str:
    """A Markdown table: one row per run, the first the unpruned model, with a column for each kind of question.

    `partners` has, by name of a run, the name of that with its pruner alone, which gives all frames one budget.
    """
    header = ["method", "of all tokens", "accuracy", "against all tokens", "against pruner alone", *kinds]
    full = next(iter(runs.values()))
    rows = []
    for name, run in runs.items():
        against = MISSING if run is full else str(difference(run, full))
        alone = str(difference(run, runs[partners[name]])) if name in partners else MISSING
        by_kind = [shown(accuracy(run.of_kind(kind)), 0) for kind in kinds]
        rows.append([run.title, f"{100 * kept(run):.1f} %", str(accuracy(run)), against, alone, *by_kind])
    return markdown(header, rows)


def seeds_table(seeds: Mapping[str, Mapping[str, Run]]) -> str:
    """Accuracy of each row with models of several training seeds.

    Errors within a column come from the choice of questions, and say nothing of the spread between seeds.
    """
    names = list(next(iter(seeds.values())))
    rows = []
    for name in names:
        found = [accuracy(runs[name]) for runs in seeds.values()]
        gaps = [difference(runs[name], next(iter(runs.values()))) for runs in seeds.values()]
        spread = max(e.mean for e in found) - min(e.mean for e in found)
        against = [MISSING] * len(gaps) if name == names[0] else [shown(gap, sign="+") for gap in gaps]
        rows.append([next(iter(seeds.values()))[name].title, *map(str, found), f"{spread:.1f}", *against])
    header = ["method", *seeds, "spread", *(f"against all tokens, {seed}" for seed in seeds)]
    return markdown(header, rows)


def kept(run: Run) -> float:
    """Mean share of vision tokens that entered the language model."""
    return mean(cost.keep_ratio_actual for cost in run.costs)


def draw_curves(
    file: Path, xlabel: str, lines: Mapping[str, Mapping[float, Run]], full: Run, base: float, label: str
) -> None:
    """Draw accuracy over a logarithmic axis, a line per method by x, and the unpruned model as a level."""
    ticks = {label.format(x): x for runs in lines.values() for x in runs}
    _draw(file, xlabel, lines, ticks, accuracy(full).mean, base)


def draw_sparsity(file: Path, lines: Mapping[str, Run], sparsity: Mapping[str, float], betas: Sequence[float]) -> None:
    """Draw accuracy on the questions whose relevance is at least so sparse (the paper's figure 6)."""
    ticks = {f"{beta:g}\nn={sum(value >= beta for value in sparsity.values())}": beta for beta in betas}
    by_beta = {name: {beta: sparse(run, sparsity, beta) for beta in betas} for name, run in lines.items()}
    _draw(file, "sparsity of the questions at least", by_beta, ticks)


def sparse(run: Run, sparsity: Mapping[str, float], beta: float) -> Run:
    """Keep only the questions with a sparsity (largest over mean rate) of at least `beta`."""
    return replace(run, answers=tuple(one for one in run.answers if sparsity[one.question] >= beta))


def _draw(
    file: Path,
    xlabel: str,
    lines: Mapping[str, Mapping[float, Run]],
    ticks: Mapping[str, float],
    level: float | None = None,
    base: float | None = None,
) -> None:
    with drawing(6.4, 4.0) as figure:
        axes = figure.subplots()
        axes.set_xlabel(xlabel)
        axes.set_ylabel("accuracy (%)")
        if level is not None:
            axes.axhline(level, color="black", lw=1, ls="--", label="all tokens")
        for name, runs in lines.items():
            found = [accuracy(run) for run in runs.values()]
            means, errors = [one.mean for one in found], [one.stderr for one in found]
            axes.errorbar(list(runs), means, errors, marker="o", markersize=4, capsize=2, linewidth=1.4, label=name)
        if base is not None:
            axes.set_xscale("log", base=base)
        axes.set_xticks(sorted(ticks.values()), sorted(ticks, key=ticks.__getitem__))
        axes.minorticks_off()
        axes.legend(fontsize=8, ncols=2)
        write_whole(file, to_svg(figure))


@torch.inference_mode()
def sparsities(num_videos: int, checkpoint: str) -> dict[str, float]:
    """Largest over mean rate (eq. 1 of KVTP) of each question on the first videos of the test split, by question.

    The softmax over frames has temperature 1, as for SparseKV-QA's labels; `checkpoint` has a SigLIP beside it.
    """
    vlm = load_llava_video(checkpoint)
    encoder, scorer = Siglip(vlm.default_encoder, device="cpu"), KVTP(fusion=False)
    found = {}
    for (split, seed), documents in groupby(
        dataset.build("test", num_videos), key=lambda doc: (str(doc["split"]), int(str(doc["seed"])))
    ):
        chunks = load_video(cache.video(split, seed)).chunks()
        features = FrameFeatures.cat([encoder.encode(frames, frozenset({"image"}), vlm.pool) for frames in chunks])
        for doc in documents:
            text, options = str(doc["question"]), tuple(cast(list[str], doc["options"]))
            question = Question(prompt=text, stem=text, options=options, refined=refine(text, options))
            scores = scorer.score(features, question, encoder)
            found[str(doc["question_id"])] = sparsity(scores, 1.0)
    return found
