"""What a training run learns from, how it is measured, and what decides its steps."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.small_predictors import RECIPE, encoder, fresh, videos
from transformers import TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK

from lmms_kvtp.predictor.examples import Example
from lmms_kvtp.predictor.features import CachedVideo
from lmms_kvtp.predictor.measure import measure_scores
from lmms_kvtp.predictor.model import Lesson, Objective, Predictor, lesson
from lmms_kvtp.predictor.train import make_trainer, train_predictor, useful_part, validate
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.kvtp import KVTP
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
    learned = {name.removeprefix("towers.siglip.") for name, each in made.named_parameters() if each.requires_grad}
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
