"""Every method through the harness: `lmms-eval` on skvqa_synth_quick with the embedded model, and what each kept.

`nice python benchmarks/methods.py --limit 4` runs them in one process of the harness, and writes
benchmarks/results/methods.json and the table in docs/methods.md; names of methods renew the rows of these alone. TOY:
the model is tiny and the videos are made up; what counts is that each method runs and keeps what it promises.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lmms_kvtp import __version__
from lmms_kvtp.harness.plugin import MODELS
from lmms_kvtp.presets import RECIPES, names_of
from lmms_kvtp.rendering import Written, markdown, write_between

TASK = "skvqa_synth_quick"
RESULTS = Path(__file__).parent / "results" / "methods.json"
PAGE = Path(__file__).parents[1] / "docs" / "methods.md"

NEED_WEIGHTS = {"encoder": {"open_clip"}}
"""Components whose weights do not come with the package."""

SMALL = {
    "fastv": "",
    "holitom": ",layer_pruning.layer=3",
    "prunevid": ",layer_pruning.layer=3",
    "pyramiddrop": ",layer_pruning.layers=2:3:4",
    "none": "",
}
"""Layers that the embedded model has: it has 6 of them, fewer than the defaults count on."""

PARTNERS = {"vidcom2": "vidcom2", "vcast": "vcast"}
"""Scorers that have an allocator of their own."""


def methods() -> dict[str, tuple[str, str]]:
    """Name -> model id and settings. Every component is in one of them, and so is every row of the tables."""
    found = {}
    for name in (name for name in MODELS if name.startswith("llava_video")):
        layers = SMALL["prunevid"] if name.endswith("prunevid") else ""
        found[name] = (name, f"pretrained=tiny{layers}")
    for pruner in _named("pruner"):
        whole = pruner == "none"
        budgets = "scorer=uniform,allocator=uniform,keep_ratio=1" if whole else "allocator=softmax,keep_ratio=0.2"
        found[f"pruner {pruner}"] = ("llava_video_kvtp", f"pretrained=tiny,{budgets},pruner={pruner}")
    for scorer in _named("scorer"):
        allocator = PARTNERS.get(scorer, "softmax")
        settings = f"pretrained=tiny,scorer={scorer},allocator={allocator},pruner=random,keep_ratio=0.2"
        found[f"scorer {scorer}"] = ("llava_video_kvtp", settings)
    for allocator in _named("allocator"):
        settings = f"pretrained=tiny,allocator={allocator},pruner=grid,keep_ratio=0.2"
        found[f"allocator {allocator}"] = ("llava_video_kvtp", settings)
    for layers in _named("layer_pruning"):
        settings = f"pretrained=tiny,pruner=prumerge,keep_ratio=0.2,layer_pruning={layers}{SMALL[layers]}"
        found[f"KVTP + layers {layers}"] = ("llava_video_kvtp", settings)
    for name, recipe in RECIPES.items():
        given = ",".join(f"{key}={value}" for key, value in recipe.at(0.2, 6).items())
        found[f"recipe {name}"] = ("llava_video_kvtp", f"pretrained=tiny,{given}")
    weighted = "pretrained=tiny,allocator=softmax,keep_ratio=0.2,pruner=simplecluster,pruner.mass=budget"
    found["query-weighted simplecluster"] = ("llava_video_kvtp", weighted)
    return found


def _named(part: str) -> list[str]:
    return [name for name in names_of(part) if name not in NEED_WEIGHTS.get(part, ())]


def run(chosen: dict[str, tuple[str, str]], limit: int | None, out: Path) -> None:
    """Start the harness once, with one configuration for each method."""
    configs = []
    for name, (model, settings) in chosen.items():
        config = {"model": model, "model_args": settings, "tasks": TASK, "output_path": str(_folder(out, name))}
        configs.append({**config, "log_samples": True, **({"limit": limit} if limit else {})})
    file = out / "methods.yaml"
    file.write_text(json.dumps(configs, indent=1))  # JSON is YAML
    subprocess.run([sys.executable, "-m", "lmms_eval", "--config", str(file), "--verbosity", "ERROR"], check=False)


def row(name: str, model: str, settings: str, out: Path) -> dict[str, Any]:
    """What a method kept, from the harness's own sample file.

    Raises:
        FileNotFoundError: the method left no samples; the harness's messages stand above.
    """
    files = list(_folder(out, name).rglob(f"*_samples_{TASK}.jsonl"))
    if len(files) != 1:
        raise FileNotFoundError(f"{name} ({model}, {settings}) left {len(files)} sample files; the log says why")
    samples = [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]
    counts = [sample["token_counts"][0] for sample in samples]
    return {
        "method": name,
        "model": model,
        "model_args": settings,
        "questions": len(samples),
        "kept": [count["tokens_kept"] for count in counts],
        "budget": [int(count["keep_ratio"] * count["tokens_before"] + 1e-6) for count in counts],
        "before": [count["tokens_before"] for count in counts],
        "last_layer": [count["layer_lengths"][-1] / count["layer_lengths"][0] for count in counts],
    }


def _folder(out: Path, name: str) -> Path:
    return out / name.replace(" + ", "_").replace(" ", "_").lower()


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as docs/methods.md shows them."""
    header = ["method", "model id and settings", "tokens kept", "budget", "of all", "prompt in the last layer"]
    cells = []
    for found in rows:
        kept, budget, before = (sum(found[key]) for key in ("kept", "budget", "before"))
        last = sum(found["last_layer"]) / len(found["last_layer"])
        settings = Written(f"`{found['model']}` `{found['model_args']}`")
        cells.append([found["method"], settings, str(kept), str(budget), f"{kept / before:.1%}", f"{last:.0%}"])
    return markdown(header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", nargs="*", help="renew these rows alone")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    options = parser.parse_args()
    known = methods()
    chosen = {name: known[name] for name in options.method or known}
    with tempfile.TemporaryDirectory() as scratch:
        run(chosen, options.limit, Path(scratch))
        rows = [row(name, *parts, Path(scratch)) for name, parts in chosen.items()]
    print(table(rows))
    record(rows, options.limit)


def record(rows: list[dict[str, Any]], limit: int | None) -> None:
    """Put rows among those recorded, name the methods that have none, and write the table in docs/methods.md."""
    before = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    ran = {found["method"]: found for found in [*before, *rows]}
    left_out = [name for name in methods() if name not in ran]
    rows = [ran[name] for name in methods() if name in ran]
    command = "python benchmarks/methods.py" + (f" --limit {limit}" if limit else "")
    result = {"command": command, "task": TASK, "lmms_kvtp": __version__, "left_out": left_out, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_between(PAGE, table(rows), "harness")


if __name__ == "__main__":
    main()
