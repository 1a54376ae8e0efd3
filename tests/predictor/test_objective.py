import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SiglipModel

from lmms_kvtp.predictor.model import Objective
from lmms_kvtp.scorers.parts.fusion import FusionHead

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
