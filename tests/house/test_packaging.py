"""setup.cfg lists packages by hand, because its mapping of tasks and model_wrappers hides them from a search."""

import configparser
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_package_is_listed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(p.relative_to(ROOT).parts[:-1]) for p in (ROOT / "lmms_kvtp").rglob("__init__.py")}
    for folder in ("tasks", "model_wrappers"):
        found |= {
            ".".join(("lmms_kvtp", *p.relative_to(ROOT).parts[:-1])) for p in (ROOT / folder).rglob("__init__.py")
        }
    assert listed == found


def test_the_embedded_model_is_package_data():
    files = [path for path in (ROOT / "lmms_kvtp" / "assets").rglob("*") if path.is_file()]
    assert (ROOT / "lmms_kvtp" / "assets" / "tiny" / "model.safetensors") in files
    assert sum(path.stat().st_size for path in files) < 15e6


def test_data_beside_the_code_is_package_data():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed: set[Path] = set()
    for package, patterns in config["options.package_data"].items():
        if package != "lmms_kvtp.tasks":  # which lies at the top of the repository
            folder = ROOT.joinpath(*package.split("."))
            listed |= {path for pattern in patterns.split(", ") for path in folder.glob(pattern)}
    found = {path for path in (ROOT / "lmms_kvtp").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert found - listed == set()
