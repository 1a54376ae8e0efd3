"""The loss against the paper and its release, the lessons that a run learns from, and what decides its steps."""

import json
import re
import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.small_predictors import RECIPE, encoder, fresh, videos
from transformers import SiglipModel, TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK

from lmms_kvtp.encoders.parts.text_side import save_tokenizer
from lmms_kvtp.files import written_whole
from lmms_kvtp.predictor.examples import Example
from lmms_kvtp.predictor.features import CachedVideo
from lmms_kvtp.predictor.measure import measure_scores
from lmms_kvtp.predictor.model import Lesson, Objective, Predictor, lesson
from lmms_kvtp.predictor.train import make_trainer, train_predictor, useful_part, validate
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.scorers.parts.fusion import FusionHead
from lmms_kvtp.types import FrameFeatures


@pytest.fixture(scope="module")
def model() -> Predictor:
    return Predictor(fresh(), RECIPE.head, RECIPE.objective)


def wordy(words: str) -> str:
    """A text of several pieces."""
    return f"{words}, and there is nothing else to be told of it. " * 9


@pytest.fixture(scope="module")
def video() -> CachedVideo:
    """Its first question is on the whole video; the first two are of several pieces."""
    made = videos(1, 2)[0]
    *keyed, flat = made.example.questions
    first, *rest = keyed
    long = [replace(one, refined=wordy(one.refined)) for one in (flat, first)]
    return replace(made, example=Example(made.example.source, (*long, *rest)))


@pytest.fixture
def each(video, model) -> Lesson:
    made = lesson(video, model.towers)
    assert made.owner.bincount().tolist()[:2] > [1, 1] and made.owner[-1] == len(made.labels) - 1
    return made


def test_questions_that_are_left_out_leave_the_others_as_they_were(each, model):
    kept = useful_part(each, RECIPE)
    assert torch.equal(kept.labels, each.labels[1:])
    for ours, theirs in zip(model.logits(kept), model.logits(each)[1:], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_questions_on_the_whole_video_stay_where_flatness_is_trained(each):
    assert useful_part(each, replace(RECIPE, objective=Objective(flatness=0.3))) is each


def test_a_long_question_is_measured_as_the_scorer_reads_it(model):
    """Its first frames look like its last piece, and not at all like the first."""
    question = Question("", refined=f"{wordy('find the cat')} or the zebra", spans=((0.0, 3.0, 5.0),))
    first, *_, last = F.normalize(model.towers.read(model.towers.token_ids(question.refined)).detach(), dim=-1)
    image = torch.zeros(10, len(first))
    image[:3] = last - first
    video = CachedVideo(Example("v.mp4", (question,)), image, torch.arange(10.0))
    found = validate(model, [lesson(video, model.towers)])
    (labels,) = video.labels()
    scores = KVTP().score(FrameFeatures(video.times, image), question, encoder())
    assert found == pytest.approx(measure_scores(scores, labels), abs=1e-4)
    assert found["auroc"] == 1


@pytest.mark.parametrize(
    ("parts", "towers"), [("head", set()), ("text", {"text_model"}), ("all", {"text_model", "vision_model"})]
)
def test_only_the_parts_asked_for_are_given_to_the_optimizer(parts, towers):
    made = Predictor(fresh(parts), RECIPE.head, RECIPE.objective)
    learned = {name.removeprefix("towers.") for name, each in made.named_parameters() if each.requires_grad}
    assert {name.split(".")[0] for name in learned} == {"log_tau", "logit_scale", "logit_bias"} | towers


def test_every_question_of_a_step_counts_the_same(model):
    lessons = [lesson(made, model.towers) for made in videos(3, 2)]
    alone = [len(one.labels) * model([one])["loss"] for one in lessons]
    questions = sum(len(one.labels) for one in lessons)
    torch.testing.assert_close(model(lessons)["loss"] * questions, sum(alone))


def test_the_learning_rate_falls_in_a_line_to_a_twentieth(model, each, tmp_path):
    recipe = replace(RECIPE, epochs=2, videos_per_step=2, head_lr=1.0)
    trainer, rates = make_trainer(model, [each] * 5, [each], recipe, tmp_path), []
    for _ in range(7):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.05])


@contextmanager
def files_of_at_most(size):
    """Let no file grow beyond so many bytes, as if the disk were full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100, 1000])  # less than the tokenizer's settings, and than its vocabulary
def test_a_tokenizer_that_cannot_be_written_is_an_error_with_a_way_out(model, size, tmp_path):
    told = re.escape(f"cannot write {tmp_path / 'out'}: File too large") + ".{0,16}; free some space there, or choose"
    with files_of_at_most(size), pytest.raises(OSError, match=told), written_whole(tmp_path / "out") as new:
        save_tokenizer(new, model.towers.encoder.tokenizer)
    assert not list((tmp_path / "out").iterdir())


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(model, tmp_path):
    model.save(tmp_path / "out", tmp_path / "slim")
    files = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    told = re.escape(f"cannot write {tmp_path / 'out'}: ") + ".*File too large.*; free some space there, or"
    with files_of_at_most(20_000), pytest.raises(OSError, match=told):
        model.save(tmp_path / "out", tmp_path / "slim")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == files


def test_a_run_can_be_followed_elsewhere(model, each, tmp_path, monkeypatch):
    class Follower(TrainerCallback):
        """In place of a package's own."""

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "wandb", Follower)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    for reporter in ("none", "wandb"):
        trainer = make_trainer(model, [each], [each], replace(RECIPE, report_to=reporter), tmp_path)
        following = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Follower)]
        assert len(following) == (reporter != "none")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_seed_alone_decides_what_comes_out(rank, tmp_path):
    """Videos are shuffled, and adapters start from random numbers; whatever was drawn before does not count."""
    made = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number + 7)
        towers, recipe = fresh(), replace(RECIPE, epochs=1, lora_rank=rank, videos_per_step=1, seed=seed)
        train_predictor(towers, videos(3 - 2 * rank, 2), videos(1, 3), recipe, tmp_path / str(number))
        made.append(torch.cat([weight.flatten() for weight in towers.text_model.state_dict().values()]))
    assert torch.equal(made[0], made[1])
    assert not torch.allclose(made[0], made[2], atol=1e-4)


GOLDENS = Path(__file__).parents[1] / "goldens"
TAUS = {"tau_init": (0.0, 0.0), "tau_set": (-0.7, -1.1)}
CHUNKS = {"one_chunk": ["chunk1"], "two_chunks": ["chunk0", "chunk1"]}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(GOLDENS / "kvtp_predictor.npz").items()}


def trained_once(golden, chunks, log_tau) -> tuple[torch.Tensor, torch.Tensor, SiglipModel]:
    """Clip logits and loss of the reference's training step, with gradients on the model."""
    model = SiglipModel.from_pretrained(GOLDENS / "siglip_tiny", dtype=torch.float32)
    head, objective = FusionHead(log_tau=log_tau), Objective()
    image = model.vision_model(golden["pixel_values"]).pooler_output
    views = head.views(image)
    logits = []
    for chunk in chunks:
        text = torch.nn.functional.normalize(model.text_model(golden[f"input_ids_{chunk}"]).pooler_output, dim=-1)
        logits.append(head.mix([text @ view.T * model.logit_scale.exp() + model.logit_bias for view in views]))
    loss = objective(torch.cat(logits), golden["labels"][0])
    loss.backward()
    return objective.scores(torch.cat(logits)), loss, model


@pytest.mark.parametrize("taus", TAUS)
@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_training_step_equals_the_reference(golden, chunks, taus):
    facts = json.loads((GOLDENS / "kvtp_predictor.json").read_text())[f"{chunks}_{taus}"]
    log_tau = torch.tensor(TAUS[taus], requires_grad=True)
    scores, loss, model = trained_once(golden, CHUNKS[chunks], log_tau)
    torch.testing.assert_close(scores[None], golden[f"{chunks}_{taus}/clip_logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(loss[None], golden[f"{chunks}_{taus}/loss"], atol=1e-5, rtol=0)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None] + [log_tau.grad]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    assert norm == pytest.approx(facts["grad_norm_total"], rel=1e-4)
    assert model.logit_scale.grad.item() == pytest.approx(facts["grad_logit_scale"], abs=1e-5)
    assert model.logit_bias.grad.item() == pytest.approx(facts["grad_logit_bias"], abs=1e-5)
    wanted = [facts["grad_tau_local"], facts["grad_tau_global"]]
    torch.testing.assert_close(log_tau.grad, torch.tensor(wanted), atol=1e-6, rtol=1e-3)


def test_the_frame_level_compares_every_frame_with_its_own_label():
    logits, labels = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.5, -2.0]]), torch.tensor([4.0, 0.0, 2.0])
    best, centred = torch.tensor([0.5, 1.5, 2.0]), torch.tensor([2.0, -2.0, 0.0])
    wanted = -(1 / (1 + (-best * centred).exp())).log().sum()
    torch.testing.assert_close(Objective(level="frame")(logits, labels), wanted)


def test_a_clip_has_the_label_of_its_first_frame():
    labels = torch.tensor([5.0, 0.0, 0.0, 1.0, 2.0, 3.0])
    logits = torch.tensor([[0.5, 0.5, 0.5, -1.0, -1.0, -1.0]])
    wanted = -torch.nn.functional.logsigmoid(torch.tensor([0.5 * 2, -1.0 * -2])).sum()
    torch.testing.assert_close(Objective(clip_size=3)(logits, labels), wanted)


def test_max_pooling_takes_the_best_frame_of_a_clip():
    logits = torch.tensor([[0.5, -1.0, 2.0, 3.0, 1.0]])
    scores = Objective(pooling="max", clip_size=2).scores(logits)
    assert scores.tolist() == [0.5, 3.0, 1.0]


@pytest.mark.parametrize("level", ["clip", "frame"])
def test_equal_labels_give_no_gradient_without_the_flatness_term(level):
    logits = torch.tensor([[0.5, -1.0, 2.0, 4.0, 0.0]], requires_grad=True)
    Objective(level=level, clip_size=2)(logits, torch.full((5,), 3.0)).backward()
    assert not logits.grad.any()


def test_flatness_pulls_logits_of_equal_labels_together_and_leaves_others_alone():
    logits = torch.tensor([[0.5, -1.0, 2.0]], requires_grad=True)
    flat = Objective(level="frame", flatness=0.3)
    flat(logits, torch.ones(3)).backward()
    torch.testing.assert_close(logits.grad[0], 2 * 0.3 * (logits[0] - 0.5).detach())
    labels = torch.tensor([1.0, 0.0, 0.0])
    assert flat(logits, labels) == Objective(level="frame")(logits, labels)
