"""Predictors of random weights, and lessons that they learn in seconds."""

from pathlib import Path

import torch

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.predictor.examples import Example
from lmms_kvtp.predictor.features import CachedVideo
from lmms_kvtp.predictor.model import Objective
from lmms_kvtp.predictor.recipe import Recipe
from lmms_kvtp.predictor.towers import Parts, SiglipTowers
from lmms_kvtp.questions import Question

TINY = Path(__file__).parents[1] / "goldens" / "siglip_tiny"
THINGS = ["cat", "dog", "sun"]
RECIPE = Recipe(epochs=6, lr=5e-3, videos_per_step=4, objective=Objective(level="frame"))


def videos(count: int, seed: int) -> list[CachedVideo]:
    """Frames show one of three things each, in the space of random image embeddings; questions ask for a thing."""
    draw = torch.Generator().manual_seed(seed)
    looks = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)) * 3
    made = []
    for number in range(count):
        shown = torch.randint(0, 3, (10,), generator=draw)
        image = looks[shown] + torch.randn(10, 32, generator=draw) * 0.3
        questions = []
        for thing, name in enumerate(THINGS):
            spans = tuple((float(t), t + 1.0, 5.0) for t in range(10) if shown[t] == thing)
            questions += [Question("", refined=f"find the {name}", spans=spans)] if spans else []
        questions.append(Question("", refined="what is it all about", spans=()))
        made.append(CachedVideo(Example(f"v{number}.mp4", tuple(questions)), image, torch.arange(10.0)))
    return made


def encoder() -> Siglip:
    return Siglip(str(TINY), device="cpu")


def fresh(parts: Parts = "text") -> SiglipTowers:
    return SiglipTowers(encoder(), parts)
