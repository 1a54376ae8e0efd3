"""How sparse the relevance of the embedded benchmark's questions is, as an untuned image-text model sees it."""

from itertools import groupby
from typing import cast

import torch

from lmms_kvtp.embedded import cache, dataset
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.predictor.measure import sparsity
from lmms_kvtp.questions import Question, refine
from lmms_kvtp.scorers.similarity import Similarity
from lmms_kvtp.types import FrameFeatures
from lmms_kvtp.video.load import load_video
from lmms_kvtp.vlms.llava_video import load_llava_video


@torch.inference_mode()
def sparsities(num_videos: int, checkpoint: str, temperature: float = 1.0) -> dict[str, float]:
    """Largest over mean rate (eq. 1 of KVTP) of each question on the first videos of the test split, by question.

    Args:
        num_videos: how many.
        checkpoint: of a model with a SigLIP beside it, as the embedded one.
        temperature: of the softmax over frames; 1 for the labels of SparseKV-QA.
    """
    vlm = load_llava_video(checkpoint)
    encoder, scorer = Siglip(vlm.default_encoder, device="cpu"), Similarity()
    found = {}
    for (split, seed), documents in groupby(
        dataset.build("test", num_videos), key=lambda doc: (str(doc["split"]), int(str(doc["seed"])))
    ):
        chunks = load_video(cache.video(split, seed)).chunks()
        features = FrameFeatures.cat([encoder.encode(frames, frozenset({"image"}), vlm.pool) for frames in chunks])
        for doc in documents:
            text, options = str(doc["question"]), tuple(cast(list[str], doc["options"]))
            question = Question(prompt=text, stem=text, options=options, refined=refine(text, options))
            scores = scorer.score(features, question, encoder)
            found[str(doc["question_id"])] = sparsity(scores, temperature)
    return found
