"""Who may import whom (docs/design.md), and what importing the package must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HARNESS = {"lmms_eval"}

# Layer of each module: a module imports only from layers below its own, and from the light modules of its own layer.
LAYERS = [
    [
        "types",
        "pixel_spec",
        "relevance",
        "flops",
        "resolve",
        "values",
        "rows",
        "table",
        "grid",
        "drawing",
        "after_import",
        "device",
        "shipped",
    ],
    ["cost", "meter", "layout", "tiles", "video", "frame_cache", "sampling", "decoders", "pixels", "refine", "fusion"],
    ["encoders", "scorers", "allocators", "pruners", "layer_pruning"],
    ["vlms"],
    ["method", "encode", "selection", "pipeline", "pictures"],
    ["api", "synth", "skvqa", "training", "forecast", "doctor", "bench"],
    ["leaderboard", "visualize", "compare", "reproduce"],
    ["plugin", "model_wrappers", "tasks", "commands", "__main__"],
]
LAYER = {name: depth for depth, names in enumerate(LAYERS) for name in names}
COMPONENTS = ["encoders", "scorers", "allocators", "pruners", "layer_pruning"]
MAY_IMPORT_HARNESS = ("model_wrappers/", "tasks/", "lmms_kvtp/harness/plugin.py", "lmms_kvtp/leaderboard/stats.py")
TASKS_MAY_IMPORT = {"lmms_kvtp.embedded", "lmms_kvtp.cost.sample", "lmms_kvtp.skvqa", "lmms_kvtp.tasks"}
HEAVY = ["lmms_eval", "transformers", "decord", "av", "open_clip", "thop", "torch"]


def sources() -> list[Path]:
    folders = ["lmms_kvtp", "tasks", "model_wrappers"]
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""}
            if node.module in ("lmms_kvtp", *(f"lmms_kvtp.{part}" for part in LAYER)):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("").parts
    return relative[1] if relative[0] == "lmms_kvtp" else relative[0]


def parts_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("lmms_kvtp.")} & set(LAYER)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_imports_only_what_its_layer_may(path):
    own = part_of(path)
    if own == "__init__":
        return
    assert own in LAYER, f"{own} has no layer yet: give it one in LAYERS"
    above = {part for part in parts_imported(path) if LAYER[part] > LAYER[own]}
    assert not above, f"{path.relative_to(ROOT)} ({own}) imports {above} from above"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_wrapper_plugin_and_statistics_import_the_harness(path):
    relative = str(path.relative_to(ROOT))
    if not relative.startswith(MAY_IMPORT_HARNESS):
        assert not {name for name in imported(path) if name.split(".")[0] in HARNESS}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_concrete_component_imports_another(path):
    own = part_of(path)
    if own not in COMPONENTS:
        return
    for name in imported(path):
        pieces = name.split(".")
        if pieces[0] == "lmms_kvtp" and len(pieces) > 2 and pieces[1] in COMPONENTS:
            assert pieces[2] == "base" or pieces[2].startswith("_"), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_tasks_import_nothing_that_loads_a_model(path):
    ours = {".".join(name.split(".")[:2]) for name in imported(path) if name.startswith("lmms_kvtp.")}
    assert ours <= TASKS_MAY_IMPORT


@pytest.mark.parametrize("module", ["lmms_kvtp", "lmms_kvtp.leaderboard.discover"])
def test_importing_the_package_or_what_processes_read_with_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_importing_the_core_loads_neither_harness_nor_decoders_nor_transformers():
    light = ["lmms_eval", "transformers", "decord", "av", "open_clip", "thop"]
    code = f"import sys, lmms_kvtp.pipeline; print([m for m in {light} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
