"""The commands, on two videos of the embedded benchmark and the tiny random SigLIP."""

import argparse
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.checkpoints import write_tiny
from safetensors.torch import load_file

from lmms_kvtp.__main__ import main
from lmms_kvtp.commands.predictor_data import add_data_arguments, examples, held_out
from lmms_kvtp.embedded import cache
from lmms_kvtp.encoders.parts.predictor import find_predictor
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.predictor.examples import Example, synthetic
from lmms_kvtp.predictor.features import FeatureCache, embeddings
from lmms_kvtp.types import GridPool
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions

TINY = str(Path(__file__).parents[1] / "goldens" / "siglip_tiny")
FRAMES = FrameOptions(max_frames_num=16, fps=0.25)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_KVTP_HOME", str(tmp_path_factory.mktemp("home")))
        cache.ensure("val", [0, 1])
        yield


@pytest.fixture(scope="module")
def example(home) -> Example:
    return synthetic("val", [0], FRAMES)[0]


@pytest.fixture
def index(home, tmp_path) -> Path:
    """Two questions on each of two videos, each about a time of its own."""
    path = tmp_path / "index.jsonl"
    lines = [
        {"video": Path(made.source).name, "question": asked.stem, "spans": [[20 * n, 20 * n + 16, 5]]}
        for made in synthetic("val", [0, 1])
        for n, asked in enumerate(made.questions[:2])
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def table(text: str) -> dict[str, dict[str, str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


def test_frames_are_encoded_once_and_read_back(example, tmp_path):
    encoder = Siglip(TINY, device="cpu")
    features = FeatureCache(embeddings(encoder), tmp_path)
    ((first,), unreadable) = features.encode([example])
    frames = torch.cat([part.rgb for part in load_video(example.source, FRAMES).chunks()])
    described = encoder.encode(
        next(load_video(example.source, FRAMES).chunks()), frozenset({"image"}), GridPool("average", (3, 3))
    )
    assert len(frames) == len(first.image) == 16 and torch.equal(first.times, described.times)
    torch.testing.assert_close(first.image, described.image, atol=1e-5, rtol=0)
    (stored,) = tmp_path.iterdir()
    written = stored.stat().st_mtime_ns
    assert torch.equal(features.encode([example])[0][0].image, first.image)
    assert stored.stat().st_mtime_ns == written and not unreadable


def test_a_damaged_file_is_made_anew_and_other_frames_get_their_own(example, tmp_path):
    features = FeatureCache(embeddings(Siglip(TINY, device="cpu")), tmp_path)
    whole = features.encode([example])[0][0].image
    (stored,) = tmp_path.iterdir()
    stored.write_bytes(stored.read_bytes()[:100])
    assert torch.equal(features.encode([example])[0][0].image, whole)
    fewer = Example(example.source, example.questions, FrameOptions(max_frames_num=5, fps=0.25))
    assert len(features.encode([fewer])[0][0].image) == 5 and len(list(tmp_path.iterdir())) == 2


def test_videos_that_cannot_be_read_are_left_out_and_named(example, tmp_path, caplog):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    seen, unreadable = FeatureCache(embeddings(Siglip(TINY, device="cpu")), tmp_path / "features").encode(
        [Example(str(broken), example.questions), example]
    )
    assert [video.example.source for video in seen] == [example.source]
    assert len(unreadable) == 1 and "broken.mp4" in unreadable[0] and "left out 1 videos" in caplog.text


def test_validation_videos_are_not_trained_on():
    examples = [Example(f"{number}.mp4", ()) for number in range(20)]
    training, validation = held_out(examples, 0.25, seed=3)
    assert len(validation) == 5 and len(training) == 15 and not set(training) & set(validation)
    assert held_out(examples, 0.25, seed=3) == (training, validation) != held_out(examples, 0.25, seed=4)
    with pytest.raises(ValueError, match="1 videos cannot be split"):
        held_out(examples[:1], 0.5, seed=0)
    for share in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(ValueError, match=rf"validation={share} is outside \(0, 1\); it is the share of the videos"):
            held_out(examples, share, seed=0)
    assert [len(part) for part in held_out(examples[:2], 0.9, seed=0)] == [1, 1]


@pytest.mark.parametrize("refined", [True, False])
def test_training_and_evaluation_read_refinements_of_an_index(refined, tmp_path):
    index, remembered = tmp_path / "index.jsonl", tmp_path / "refined.jsonl"
    asked = {"question": "Who is near the red car in the video?", "options": ["A. a man", "B. a dog"]}
    index.write_text(json.dumps({**asked, "video": "v.mp4", "spans": [[0, 1, 5]]}))
    remembered.write_text(json.dumps({**asked, "refined": "Red car, man or dog?"}))
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    given = parser.parse_args(["--index", str(index), *(["--refined", str(remembered)] if refined else [])])
    ((question,),) = (example.questions for example in examples(given, "train", tmp_path))
    wanted = "Red car, man or dog?" if refined else "Who is near the red car? Choices: man, dog."
    assert question.refined == wanted


def test_synthetic_videos_are_those_of_the_split(example, tmp_path):
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    (found,) = examples(parser.parse_args(["--synthetic", "1", "--fps", "0.25"]), "val", tmp_path)
    assert (found.source, found.questions) == (example.source, example.questions)


def test_training_makes_videos_of_the_training_split(tmp_path, monkeypatch, capsys):
    def ensure(split, videos):
        raise ValueError(f"{len(videos)} videos of {split}")

    monkeypatch.setattr(cache, "ensure", ensure)
    with pytest.raises(SystemExit):
        main(["train", "predictor", "--synthetic", "3", "--pretrained", TINY, "--out", str(tmp_path)])
    assert "3 videos of train" in capsys.readouterr().err


def test_a_predictor_is_trained_and_compared(home, tmp_path, capsys):
    index, out = tmp_path / "index.jsonl", tmp_path / "out"
    lines = [
        {"video": f"{Path(made.source).name}", "question": asked.stem, "options": asked.options, "spans": asked.spans}
        for made in synthetic("val", [0, 1])
        for asked in made.questions[:6]
    ]
    index.write_text("\n".join(map(json.dumps, lines)))
    data = ["--index", str(index), "--videos", str(cache.folder()), "--features", str(tmp_path / "features")]
    data += ["--pretrained", TINY, "--max-frames-num", "16", "--fps", "0.25"]
    recipe = ["--epochs", "1", "--level", "frame", "--clip-size", "4", "--validation", "0.5"]
    assert main(["train", "predictor", *data, *recipe, "--out", str(out)]) == 0
    assert set(table(capsys.readouterr().out)) >= {"before", "after"}
    assert json.loads((out / "fusion.json").read_text())["clip_size"] == 4
    assert json.loads((out / "training.json").read_text())["data"]["videos"] == 1
    assert main(["eval", "predictor", str(out), *data, "--out", str(tmp_path / "tables.json")]) == 0
    rows = table(capsys.readouterr().out)
    written = json.loads((tmp_path / "tables.json").read_text())
    assert written["checkpoint"] == [str(out)] and written["split"] == "val"
    (header, *lines), *_ = written["tables"]
    assert {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines} == rows
    assert list(rows) == ["uniform", "untuned", str(out), f"{out}, no fusion", "oracle"]
    assert rows["uniform"]["auroc"] == "0.500" and rows["oracle"]["recall"] == "1.000"
    assert rows["untuned"]["recall against untuned"] == "-"
    assert re.fullmatch(r"\+[01]\.\d+ \[\+[01]\.\d+, \+[01]\.\d+\]", rows["oracle"]["recall against untuned"])


def test_the_vision_tower_is_trained_from_pixels_by_the_same_command(home, index, tmp_path, capsys):
    out = tmp_path / "out"
    data = ["--index", str(index), "--videos", str(cache.folder()), "--pretrained", TINY, "--max-frames-num", "6"]
    recipe = ["--parts", "all", "--dtype", "bfloat16", "--gradient-checkpointing", "--epochs", "1", "--lr", "0.01"]
    given = [*data, *recipe, "--level", "frame", "--validation", "0.5", "--out", str(out)]
    assert main(["train", "predictor", *given]) == 0
    before, after = load_file(Path(TINY) / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name.split(".")[0] for name in after if not torch.equal(before[name].float(), after[name])}
    assert changed == {"vision_model", "text_model", "logit_scale", "logit_bias"}
    assert main(["eval", "predictor", str(out), *data, "--features", str(tmp_path / "features")]) == 0
    assert str(out) in table(capsys.readouterr().out.rsplit("\n\n", 1)[-1])


def test_a_shared_towers_head_that_starts_at_random_is_the_same_for_a_seed(home, index, tmp_path):
    vlm, heads = str(write_tiny(tmp_path / "llava")), []
    data = ["--index", str(index), "--videos", str(cache.folder()), "--pretrained", TINY, "--max-frames-num", "4"]
    recipe = ["--epochs", "1", "--lr", "0", "--level", "frame", "--validation", "0.5", "--shared", vlm]
    for run, seed in enumerate("001"):
        given = [
            *data,
            *recipe,
            "--seed",
            seed,
            "--features",
            str(tmp_path / "features"),
            "--out",
            str(tmp_path / f"run{run}"),
        ]
        assert main(["train", "predictor", *given]) == 0
        heads.append(load_file(tmp_path / f"run{run}" / "tower_head.safetensors")["into_text.weight"])
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("given", [["--out", "x", "--seed", "0"], ["--help"], []])
def test_what_trains_the_embedded_model_is_named(given, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "tiny", *given])
    assert ended.value.code == 2
    command = "python -m benchmarks.embedded_model"
    said = f"lmms-kvtp train: tiny is trained in a checkout only, with the same arguments: {command}\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("given", [[], ["--index", "x.jsonl", "--synthetic", "3"]])
def test_data_must_be_named_once(given, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "predictor", *given, "--out", str(tmp_path)])
    assert "give either --index FILE, or --synthetic NUMBER" in capsys.readouterr().err


def test_one_word_is_the_papers_recipe_and_flags_behind_it_change_it(home, index, tmp_path):
    shown = ["train", "predictor", "--index", str(index), "--videos", str(cache.folder()), "--pretrained", TINY]
    shown += ["--max-frames-num", "16", "--fps", "0.25", "--validation", "0.5", "--any-lines"]
    assert main([*shown, "--recipe", "paper", "--dtype", "float32", "--out", str(tmp_path / "p")]) == 0
    recipe = json.loads((tmp_path / "p" / "training.json").read_text())["recipe"]
    assert (recipe["parts"], recipe["epochs"], recipe["lr"], recipe["head_lr"]) == ("all", 1, 1e-6, 1e-6)
    assert recipe["objective"] == {"level": "frame", "pooling": "softmax", "clip_size": 8, "flatness": 0.0}
    assert (recipe["head"]["queries"], recipe["head"]["anchors"], recipe["dtype"]) == ("raw", 0, "float32")


def test_evaluation_lines_are_noted_and_their_tasks_refused(home, index, tmp_path, capsys):
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    told = [{**line, "split": "evaluation", "dataset": "videomme"} for line in lines]
    index.write_text("".join(json.dumps(line) + "\n" for line in told))
    out = tmp_path / "p"
    given = ["--index", str(index), "--videos", str(cache.folder()), "--pretrained", TINY, "--epochs", "1"]
    given += ["--max-frames-num", "16", "--fps", "0.25", "--validation", "0.5", "--any-lines", "--out", str(out)]
    assert main(["train", "predictor", *given]) == 0
    found = find_predictor(str(out))
    assert found.evaluation == ["videomme"] and found.has_seen("skvqa_videomme")
    checkpoint = write_tiny(tmp_path / "llava")
    settings = {"pretrained": str(checkpoint), "device": "cpu", "journal": "none", "predictor": str(out)}
    model = LlavaVideoKvtp(**settings)
    with pytest.raises(ValueError, match="was trained on evaluation questions of skvqa_videomme, says its training"):
        model.generate_until([SimpleNamespace(task_name="skvqa_videomme")])
