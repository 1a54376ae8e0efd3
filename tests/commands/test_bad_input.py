"""Bad input to a command ends in one line that names it and says what to give instead."""

from pathlib import Path

import pytest

from lmms_kvtp.__main__ import main

HERE = str(Path(__file__).parent)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says, once it has left with 2."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith(f"lmms-kvtp {arguments[0]}")
    return said


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--limit", "0"],
        ["table", "--out", "x", "--limit", "0"],
        ["bench", "e2e", "--random-weights", "tiny", "--frames", "0"],
        ["bench", "e2e", "--random-weights", "tiny", "--rounds", "0"],
        ["bench", "e2e", "--task", "skvqa_synth", "--limit", "0"],
        ["compare", "--data", "x", "--max-frames", "0"],
        ["compare", "--data", "x", "--max-new-tokens", "0"],
        ["visualize", "x", "What?", "--max-frames", "0"],
        ["flops", "--frames", "0"],
    ],
    ids=" ".join,
)
def test_counts_are_at_least_one(arguments, capsys):
    said = refusal(capsys, *arguments)
    assert f"argument {arguments[-2]}: 0 is no whole number of at least 1; see lmms-kvtp {arguments[0]}" in said
    assert said.endswith(" --help")


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "--data", "x", "--worst", "-1"],
        ["flops", "--text-tokens", "-1"],
    ],
    ids=" ".join,
)
def test_what_there_may_be_none_of_is_not_negative(arguments, capsys):
    assert f"{arguments[-2]}: -1 is no whole number of at least 0" in refusal(capsys, *arguments)


@pytest.mark.parametrize("command", [["sweep", "--methods", "random"], ["table"], ["compare", "--data", "x"]])
@pytest.mark.parametrize("given", ["", "a", "0.2,,0.1"])
def test_ratios_are_numbers(command, given, capsys):
    said = refusal(capsys, *command, "--out", "x", "--ratios", given)
    assert f"argument --ratios: {given!r} are no numbers; give shares in (0, 1], such as 0.2,0.1" in said


@pytest.mark.parametrize("share", ["0", "-1", "1.5", "nan"])
@pytest.mark.parametrize("command", [["demo", "--keep-ratio"], ["table", "--out", "x", "--ratios"]])
def test_a_ratio_is_a_share(command, share, capsys):
    said = refusal(capsys, *command, share)
    assert f"ratio {float(share)} is outside (0, 1]; it is the share of vision tokens kept" in said


@pytest.mark.parametrize("given", ["-1", "101", "nan"])
def test_an_agreement_is_a_percentage(given, capsys):
    said = refusal(capsys, "compare", "--data", "x", "--agreement", given)
    assert f"--agreement {float(given)} is outside 0 to 100; it is a percentage, such as 95" in said


@pytest.mark.parametrize("methods", ["", "full"])
def test_there_is_a_method_to_compare(methods, capsys):
    said = refusal(capsys, "compare", "--data", "x", "--methods", methods)
    assert f"--methods {methods!r} leaves nothing to compare; name one, such as kvtp+prumerge" in said


def test_a_path_that_cannot_be_used_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    wrong = str(tmp_path / "file" / "runs")
    said = refusal(capsys, "sweep", "--methods", "random", "--out", wrong)
    assert said == f"lmms-kvtp sweep: {wrong}: Not a directory; check this path, or give another"
    said = refusal(capsys, "compare", "--data", str(tmp_path / "none.jsonl"))
    assert "none.jsonl: No such file or directory; check this path, or give another" in said


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("list prunr", "invalid choice: 'prunr'"),
        ("list pruner tom", "did you mean tome"),
        ("list --into nowhere.md", "nowhere.md: No such file"),
        ("demo --keep-ratio 2", "ratio 2.0 is outside (0, 1]"),
        ("skvqa validate nowhere", "nowhere"),
        ("leaderboard nowhere --out x", "nowhere"),
        ("visualize nowhere.mp4 ? --method tom", "did you mean tome"),
        ("visualize nowhere.mp4 ? --method random", "nowhere.mp4"),
        (
            "visualize nowhere.mp4 ? --model_args pretraind=tiny",
            "unknown argument 'pretraind'; did you mean pretrained",
        ),
        ("compare --data {data} --method tom", "did you mean tome"),
        (
            "compare --data {data} --pretrained a --model_args pretrained=b",
            "--pretrained a and --model_args pretrained=b",
        ),
        (
            "compare --data {data} --method fastv,layer_pruning.ratio=0.1",
            "layer_pruning.ratio=0.5 follows from the share",
        ),
        ("sweep --out x", "no method is named"),
        ("sweep --out x --method kvtp+tome,allocator.temprature=1", "did you mean temperature"),
        ("sweep --out x --method random --model_args scorer=oracle", "scorer=oracle contradicts method 'random 20%'"),
        ("sweep --out x --method flashvid,keep_ratio=0.9", "give at most 0.8"),
        ("sweep --out x --method full,scorer=kvtp", "full keeps all tokens and has no settings"),
        ("table --out x --methods tom", "did you mean tome"),
        ("check --tasks x --method prunmerge --model_args pretrained=tiny", "did you mean prumerge"),
        ("doctor --method tom", "did you mean tome"),
        (
            "doctor --method random --model x --model_args pretrained=y",
            "--model x contradicts --model_args pretrained=y",
        ),
        ("doctor --method random --model_args attention=eager", "unknown argument 'attention'"),
        ("doctor --method random --model nosuch/nosuch", "nosuch"),
        ("bench e2e", "nothing given; name one of"),
        ("bench e2e nowhere", "nowhere"),
        ("bench e2e --random-weights nosuch", "no sizes of model 'nosuch'"),
        ("flops --model nosuch", "no sizes of model 'nosuch'"),
        ("flops --method kvpt+tome", "did you mean kvtp"),
        ("prove --methods tom", "did you mean tome"),
        ("prove --clip nowhere", "--clip nowhere is no file"),
        ("reproduce table9", "invalid choice: 'table9'"),
        ("train predictor --out x", "give either --index FILE"),
        ("train predictor --out x --index nowhere.jsonl", "nowhere.jsonl"),
        ("eval predictor", "give either --index FILE"),
    ],
)
@pytest.mark.filterwarnings("default")  # the harness warns of its own affairs
def test_a_mistake_ends_in_one_line(command, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "data.jsonl").write_text('{"video": "a.mp4", "question": "What?"}')
    said = refusal(capsys, *command.format(data=tmp_path / "data.jsonl").split())
    assert message in said


@pytest.mark.filterwarnings("default")  # the harness warns of its own affairs
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--methods", "prunmerge"], "no TokenPruner named 'prunmerge'; did you mean prumerge"),
        (["--methods", "random,kvt+grid"], "no preset named 'kvt' before the +; did you mean kvtp"),
        (["--tasks", "skvqa_syn"], "no task named 'skvqa_syn'; did you mean"),
        (["--tasks", ""], "tasks '' name no task; `lmms-eval tasks` lists them"),
        (["--model_args", "pretrained"], "'pretrained' in method"),
        (["--model_args", "pretraind=tiny"], "unknown argument 'pretraind'; did you mean pretrained"),
        (["--model_args", f"pretrained={HERE}"], f"{HERE} has no config.json, found "),
        (["--model_args", "pretrained=tiny,dtype=float8"], "dtype"),
    ],
)
def test_a_sweep_is_checked_before_the_harness_starts(wrong, message, tmp_path, capsys):
    said = refusal(capsys, "sweep", "--methods", "random", "--out", str(tmp_path / "runs"), *wrong)
    assert message in said
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_weights_is_no_checkpoint_to_sweep(tmp_path, capsys):
    from lmms_kvtp.shipped import tiny_folder

    for file in tiny_folder().glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    given = ["--model_args", f"pretrained={tmp_path}", "--out", str(tmp_path / "runs")]
    said = refusal(capsys, "sweep", "--methods", "random", *given)
    assert "has neither model.safetensors.index.json nor model.safetensors" in said


def test_a_device_that_is_none_is_named(tmp_path, capsys):
    command = ["doctor", "--method", "random", "--model_args", "device=mars"]
    said = refusal(capsys, *command, "--out", str(tmp_path / "x"))
    assert "device=mars is not a torch device; use cpu, cuda or cuda:0, or leave it out" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:path", "no TokenPruner; name a class that has it as a base"),
        ("lmms_kvtp.pruners.base:ScorePruner", "score"),
    ],
)
def test_what_is_no_component_is_said_to_be_none(name, message, capsys):
    said = refusal(capsys, "list", "pruner", name)
    assert repr(name) in said and message in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--synthetic", "0"], "argument --synthetic: 0 is no whole number of at least 1"),
        (["--epochs", "0"], "epochs=0 is below 1"),
        (["--patience", "0"], "patience=0 is below 1"),
        (["--videos-per-step", "0"], "videos_per_step=0 is below 1"),
        (["--lr", "nan"], "lr=nan is no learning rate; give one of at least 0"),
        (["--lr", "inf"], "lr=inf is no learning rate; give one of at least 0"),
        (["--head-lr", "-1"], "head_lr=-1.0 is no learning rate; give one of at least 0"),
        (["--flatness", "-1"], "flatness=-1.0 is no weight; give a number of at least 0"),
        (["--flatness", "inf"], "flatness=inf is no weight"),
        (["--local-weight", "nan"], "local_weight=nan and global_weight=0.05 are not shares"),
        (["--global-weight", "nan"], "local_weight=0.05 and global_weight=nan are not shares"),
        (["--parts", "all", "--slim", "x"], "--slim with --parts all: a trained vision tower has no slim form"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_training_that_cannot_be_is_refused_before_videos_are_made(wrong, message, tmp_path, capsys):
    said = refusal(capsys, "train", "predictor", "--out", str(tmp_path / "out"), "--synthetic", "2", *wrong)
    assert message in said
    assert not (tmp_path / "out").exists()
