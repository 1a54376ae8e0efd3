import torch

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.uniform import SameRelevance
from lmms_kvtp.types import FrameFeatures


def test_every_frame_is_as_relevant_as_any_other_and_nothing_is_loaded():
    encoder = Siglip("no/such/checkpoint")
    scores = SameRelevance().score(FrameFeatures(torch.arange(5.0)), Question("Who?"), encoder)
    assert scores.tolist() == [1.0] * 5
