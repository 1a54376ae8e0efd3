"""Scripts on the pages, workflows and versions are what they say."""

import configparser
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

import lmms_kvtp
from lmms_kvtp.commands.cells import plan

ROOT = Path(__file__).parents[2]
CLUSTER, VERSIONS = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("cluster", "versions"))
[SCRIPT] = re.findall(r"```bash\n(.*?)```", CLUSTER, re.S)


def test_the_script_for_slurm_is_bash_and_goes_on_from_its_journals(tmp_path):
    """With every outside command replaced by one that writes its words down."""
    log, out = tmp_path / "words", tmp_path / "runs" / "kvtp_prumerge"
    told = f"{tmp_path}/bin"
    (tmp_path / "bin").mkdir()
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").touch()
    for name in ("lmms-kvtp", "srun", "scontrol"):
        file = tmp_path / "bin" / name
        file.write_text(f'#!/bin/bash\necho {name} "$@" >> {log}\necho node7\n')
        file.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{told}:/usr/bin:/bin", "SLURM_NNODES": "2", "SLURM_JOB_ID": "1"}
    environment["SLURM_JOB_NODELIST"] = "node[7-8]"

    def run():
        return subprocess.run(["bash", "-c", SCRIPT], env=environment, capture_output=True, text=True)

    assert run().returncode == 1  # the harness left no results
    words = shlex.split(log.read_text().splitlines()[-1])
    assert words[:2] == ["srun", "torchrun"] and "node7:29500" in words and "resume=" not in log.read_text()
    (out / "model").mkdir(parents=True)
    (out / "model" / "1_journal_rank0.jsonl").touch()
    results = out / "model" / "1_results.json"
    results.touch()
    assert run().returncode == 1  # these are of an earlier start
    (tmp_path / "bin" / "srun").write_text(f'#!/bin/bash\necho srun "$@" >> {log}\ntouch {results}\n')
    assert run().returncode == 0
    assert f"resume={out}" in log.read_text().splitlines()[-1]


def test_package_citation_and_changelog_are_of_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == lmms_kvtp.__version__
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    links = dict(line.split(" = ") for line in config["metadata"]["project_urls"].strip().splitlines())
    assert {"Paper", "Harness", "Method"} <= set(links)
    assert {paper["url"] for paper in citation["references"]} <= set(links.values())


def test_the_table_of_versions_has_the_oldest_ones_that_are_declared():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    needs = config["options"]["install_requires"]
    for name, shown in (("torch", "torch"), ("transformers", "transformers"), ("lmms_eval", "lmms-eval")):
        oldest = re.search(rf"^{name}>=([\d.]+)$", needs, re.M)[1]
        assert f"| {shown} | {oldest} |" in VERSIONS
    assert f"| Python | {config['options']['python_requires'].removeprefix('>=')} |" in VERSIONS


@pytest.mark.parametrize("name", ["wheel", "nightly"])
def test_every_sweep_of_a_workflow_is_understood(name):
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    for step in steps:
        for methods in re.findall(r"sweep --methods (\S+)", step.get("run", "")):
            assert plan(methods.split(","), [0.2])
    assert flow["permissions"] == {"contents": "read"}
