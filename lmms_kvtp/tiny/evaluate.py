"""Accuracy of a trained model on held-out videos, decoded from H.264: all tokens, a random fifth, and none at all."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import SiglipModel

from lmms_kvtp.embedded.questions import ask
from lmms_kvtp.embedded.script import SIZE, write_script
from lmms_kvtp.tiny.footage import film, tower_features
from lmms_kvtp.tiny.language import answer_logits, pack
from lmms_kvtp.tiny.lessons import right_letters
from lmms_kvtp.tiny.student import Classroom, Student

KEPT = 0.2
VIEWS = ("full", "random", "blind")
"""How the language model may see a video: all tokens, a random share of them, or none."""


@torch.no_grad()
def evaluate(room: Classroom, siglip: SiglipModel, videos: Sequence[int], split: str) -> dict[str, dict[str, float]]:
    """Measure accuracy by view and kind of question; an answer is the letter that the model would say freely."""
    student, device = room.student, room.device
    hits: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in VIEWS}
    for index in room.log.steps(f"evaluate on {split}", len(videos)):
        script = write_script(videos[index], split)
        rgb = torch.from_numpy(film(script, SIZE)["rgb"])
        features = tower_features(siglip.vision_model, rgb, device, exact=True)
        questions = ask(script)
        text = pack(room.tokenizer, [[(q.prompt, q.answer) for q in questions]], len(questions)).to(device)
        views = show(student, features, np.random.default_rng(videos[index]))
        for name in hits:
            logits, targets = answer_logits(student.llm, views[name], text)
            for question, right in zip(questions, right_letters(logits, targets).tolist(), strict=True):
                hits[name][question.kind].append(right)
    result = {name: {kind: float(np.mean(found)) for kind, found in kinds.items()} for name, kinds in hits.items()}
    for name, kinds in hits.items():
        result[name]["mean of kinds"] = float(np.mean(list(result[name].values())))
        result[name]["questions"] = float(sum(map(len, kinds.values())))
    return result


def show(
    student: Student, features: Float[Tensor, "T s s E"], rng: np.random.Generator
) -> dict[str, Float[Tensor, "1 _ D"]]:
    """Make the views; a random fifth of each frame stays in raster order, with a newline behind each frame."""
    rows = student.project(features[None])
    full = student.with_newlines(rows)
    cells = rows[0].flatten(1, 2)
    keep = max(1, round(KEPT * cells.shape[1]))
    kept = np.stack([np.sort(rng.permutation(cells.shape[1])[:keep]) for _ in range(len(cells))])
    chosen = cells.gather(1, torch.from_numpy(kept).to(cells.device)[..., None].expand(-1, -1, cells.shape[2]))
    few = student.with_newlines(chosen[None, :, None])
    return {name: student.with_prefix(part) for name, part in zip(VIEWS, (full, few, full[:, :0]), strict=True)}
