"""What a predictor of the embedded model finds that its training did not show: docs/benchmark_plan.md, Transfer.

    python -m benchmarks.transfer --out runs/transfer

trains predictors by the shipped recipe without one kind of question, without half of the objects and places, and on
labels of which a fifth is another question's, and holds each against the shipped one on the development videos: recall
of key frames, and accuracy of KVTP + PruMerge at 20 %. Writes results/transfer.json and a table of docs/predictor.md.
TOY: a tiny model on made-up videos.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from lmms_kvtp import __version__
from lmms_kvtp.commands.cells import Variant
from lmms_kvtp.commands.predictor_data import held_out
from lmms_kvtp.commands.sweep import sweep
from lmms_kvtp.embedded.questions import ScriptQuestion, ask
from lmms_kvtp.embedded.script import GLYPHS, PLACES, write_script
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.leaderboard.runs import Run
from lmms_kvtp.leaderboard.stats import accuracy, difference
from lmms_kvtp.predictor.compare import UNTUNED, baselines, measure_candidates, trained
from lmms_kvtp.predictor.examples import Example, synthetic
from lmms_kvtp.predictor.features import FeatureCache, embeddings
from lmms_kvtp.predictor.model import Objective
from lmms_kvtp.predictor.recipe import Recipe
from lmms_kvtp.predictor.towers import SiglipTowers
from lmms_kvtp.predictor.train import train_predictor
from lmms_kvtp.presets import settings_of
from lmms_kvtp.rendering import markdown, write_between
from lmms_kvtp.scorers.parts.fusion import FusionHead

ROOT = Path(__file__).parents[1]
RECIPE = Recipe(epochs=12, patience=4, objective=Objective(level="frame"), head=FusionHead(queries="raw"))
"""The shipped predictor's."""
VIDEOS, MEASURED = 200, 50
UNSEEN = frozenset((*GLYPHS[::2], *PLACES[::2]))
"""Objects and places that no training question asks about or has as its answer."""
SHIPPED = "shipped"


def about_unseen(asked: ScriptQuestion) -> bool:
    """Whether a question asks about, or is answered by, an object or place that training did not ask for."""
    words = f"{asked.text} {asked.answer_text}".lower()
    return any(name.lower() in words for name in UNSEEN)


LEFT_OUT: Mapping[str, Callable[[ScriptQuestion], bool]] = {
    "without color": lambda asked: asked.kind == "color",
    "without scene": lambda asked: asked.kind == "scene",
    "without half of objects and places": about_unseen,
}
"""Questions that a training does not have."""


def without(examples: list[Example], left_out: Callable[[ScriptQuestion], bool]) -> list[Example]:
    """Take questions out of training videos."""
    found = []
    for number, example in enumerate(examples):
        keep = [i for i, asked in enumerate(ask(write_script(number, "train"))) if not left_out(asked)]
        questions, kinds = (tuple(part[i] for i in keep) for part in (example.questions, example.kinds))
        found += [replace(example, questions=questions, kinds=kinds)] if keep else []
    return found


def noisy(examples: list[Example], share: float = 0.2) -> list[Example]:
    """Give a share of the questions the key frames of another question on their video."""
    draw, found = np.random.default_rng(0), []
    for example in examples:
        spans = [question.spans for question in example.questions]
        questions = [
            replace(question, spans=spans[draw.integers(len(spans))]) if draw.random() < share else question
            for question in example.questions
        ]
        found.append(replace(example, questions=tuple(questions)))
    return found


def main() -> None:
    """Train, measure, and write results and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of trainings and sweeps")
    out: Path = parser.parse_args().out
    examples = synthetic("train", range(VIDEOS))
    data = {name: without(examples, rule) for name, rule in LEFT_OUT.items()} | {
        "a fifth of labels wrong": noisy(examples)
    }
    folders = {SHIPPED: "tiny"}
    for name, chosen in data.items():
        folders[name] = str(out / name.replace(" ", "_"))
        if not (Path(folders[name]) / "training.json").is_file():
            _train(chosen, out, Path(folders[name]))
    plain = Siglip("tiny", dtype="float32")
    candidates = {name: trained(folder, plain, None, {}) for name, folder in folders.items()}
    rows = {UNTUNED: baselines(plain)[UNTUNED], **candidates}
    [outcomes] = measure_candidates(rows, synthetic("test", range(MEASURED)), out / "features").values()
    settings = settings_of("kvtp+prumerge", 0.2)
    cells = [Variant(UNTUNED, 0.2, settings_of("similarity+prumerge", 0.2))]
    cells += [Variant(name, 0.2, {**settings, "predictor": folder}) for name, folder in folders.items()]
    runs = dict(zip(rows, sweep(cells, "skvqa_synth", "pretrained=tiny", out / "sweep"), strict=True))
    unseen = {f"test-{n:05}-{asked.kind}" for n in range(160) for asked in ask(write_script(n)) if about_unseen(asked)}
    lines = []
    for name, run in runs.items():
        recalls = list(zip(outcomes[name].kinds, (row["recall"] for _, row in outcomes[name].key), strict=True))
        means = [
            np.mean([recall for kind, recall in recalls if wanted in (kind, "")]) for wanted in ("", "color", "scene")
        ]
        own = [str(accuracy(one)) for one in (run, _of(run, unseen))]
        against = "-" if name == SHIPPED else str(difference(run, runs[SHIPPED]))
        lines.append([name, *(f"{mean:.3f}" for mean in means), *own, against])
    header = [
        "training",
        "recall",
        "of color",
        "of scene",
        "accuracy",
        "about unseen things",
        "against the shipped one",
    ]
    print(markdown(header, lines))
    content = {
        "command": "python -m benchmarks.transfer --out runs/transfer",
        "version": __version__,
        "rows": [header, *lines],
    }
    (ROOT / "benchmarks" / "results" / "transfer.json").write_text(
        json.dumps(content, indent=1) + "\n", encoding="utf-8"
    )
    write_between(ROOT / "docs" / "predictor.md", markdown(header, lines), "transfer")


def _of(run: Run, questions: set[str]) -> Run:
    return replace(run, answers=tuple(answer for answer in run.answers if answer.question in questions))


def _train(examples: list[Example], out: Path, folder: Path) -> None:
    training, validation = held_out(examples, 0.1, RECIPE.seed)
    towers = SiglipTowers(Siglip("tiny", dtype="float32"), RECIPE.parts)
    cache = FeatureCache(embeddings(Siglip("tiny", dtype="float32")), out / "features")
    (learned, _), (checked, _) = cache.encode(training), cache.encode(validation)
    train_predictor(towers, learned, checked, RECIPE, folder.with_name(f"{folder.name}_whole"), slim=folder)


if __name__ == "__main__":
    main()
