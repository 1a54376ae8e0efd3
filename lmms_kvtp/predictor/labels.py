"""Relevance of single frames, from the form in which an index has it."""

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.predictor.examples import Example
from lmms_kvtp.scorers.oracle import span_scores


class FrameCountError(ValueError):
    """An index scored another number of frames than the video gives."""


def labels_of(example: Example, times: Float[Tensor, " T"]) -> Float[Tensor, "q T"]:
    """Relevance of each frame to each question, 0 to 5.

    Args:
        example: questions with spans or clip scores.
        times: seconds of the frames.

    Raises:
        FrameCountError: there are scores of another number of frames.
    """
    rows = []
    for question, clips in zip(example.questions, example.clips or [None] * len(example.questions), strict=True):
        if clips is None:
            rows.append(span_scores(question.spans or (), times))
        elif clips.num_frames != len(times):
            raise FrameCountError(
                f"question {question.doc_key} has scores of {clips.num_frames} frames, the video gives {len(times)}; "
                "sample it as the index did (--max-frames-num, --fps)"
            )
        else:
            rows.append(torch.tensor(clips.scores).repeat_interleave(clips.clip_size)[: len(times)])
    return torch.stack(rows)
