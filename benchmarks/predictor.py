"""Operations of relevance scorers beside those of an answer of LLaVA-Video-7B, and seconds of the fusion head.

    python benchmarks/predictor.py            # prints the table of docs/predictor.md, writes results/predictor.json

Operations are closed forms that the tests hold to torch's counter (tests/encoders, tests/scorers); nothing of 7B size
runs here. Seconds are those that the process had a CPU, the best of five, on one
thread.
"""

import json
import platform
import time
from pathlib import Path

import torch

from lmms_kvtp.cost.flops import (
    LLMShape,
    TextShape,
    VisionShape,
    pooling_head_flops,
    prefill_flops,
    projector_flops,
    relevance_flops,
    vision_flops,
)
from lmms_kvtp.rendering import markdown
from lmms_kvtp.scorers.parts.fusion import FusionHead

FRAMES, GRID, TEXT_TOKENS = 128, 14, 64
QUESTION_PIECES = 1
SO400M = VisionShape(image_size=384, patch_size=14, hidden=1152, intermediate=4304, layers=27, heads=16)
SO400M_224 = VisionShape(image_size=224, patch_size=14, hidden=1152, intermediate=4304, layers=27, heads=16)
BASE_224 = VisionShape(image_size=224, patch_size=16, hidden=768, intermediate=3072, layers=12, heads=12)
TOWER = VisionShape(image_size=384, patch_size=14, hidden=1152, intermediate=4304, layers=26, heads=16)
QWEN2_7B = LLMShape(hidden=3584, intermediate=18944, layers=28, heads=28, kv_heads=4, head_dim=128, vocabulary=152064)
TEXT_SO400M = TextShape(hidden=1152, intermediate=4304, layers=27, projection=1152)
TEXT_BASE = TextShape(hidden=768, intermediate=3072, layers=12, projection=768)
RESULTS = Path(__file__).parent / "results" / "predictor.json"


def base_flops() -> int:
    """Tower, projector and prefill of all tokens with row newlines and a question of 100 tokens."""
    length = FRAMES * GRID * (GRID + 1) + 100
    model = vision_flops(TOWER, FRAMES) + projector_flops(TOWER, QWEN2_7B, FRAMES)
    return model + prefill_flops(QWEN2_7B, [length] * QWEN2_7B.layers)


def question_flops(text: TextShape) -> int:
    """Text tower, cosines of three views, and the mixing of clip and video."""
    return relevance_flops(text, [TEXT_TOKENS] * QUESTION_PIECES, FRAMES, views=3)


def second_tower(vision: VisionShape, text: TextShape) -> tuple[int, int]:
    """Operations on the frames, and on a question, of a SigLIP of its own."""
    return vision_flops(vision, FRAMES) + pooling_head_flops(vision, FRAMES), question_flops(text)


def shared(text: TextShape) -> tuple[int, int]:
    """Operations on the frames, and on a question, of a head on the model's own tower."""
    into_text = 0 if text.projection == TOWER.hidden else 2 * FRAMES * TOWER.hidden * text.projection
    return pooling_head_flops(TOWER, FRAMES, patches=GRID**2) + into_text, question_flops(text)


SCORERS = {
    "KVTP, so400m-patch14-384": second_tower(SO400M, TEXT_SO400M),
    "KVTP, so400m-patch14-224": second_tower(SO400M_224, TEXT_SO400M),
    "KVTP, base-patch16-224": second_tower(BASE_224, TEXT_BASE),
    "shared, text side of so400m": shared(TEXT_SO400M),
    "shared, text side of base": shared(TEXT_BASE),
}


def fusion_seconds(frames: int, width: int = 1152) -> float:
    """Best of five runs of the fusion head, on one thread."""
    head, image = FusionHead(), torch.randn(frames, width, generator=torch.manual_seed(0))
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        head.views(image)
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    """Print the table and write the results."""
    torch.set_num_threads(1)
    base = base_flops()
    rows = [
        [name, f"{frames / 1e12:.3g}", f"{question / 1e12:.2g}", f"{100 * (frames + question) / base:.3g} %"]
        for name, (frames, question) in SCORERS.items()
    ]
    header = ["scorer", "TFLOP of 128 frames, once per video", "TFLOP of a question", "of an answer"]
    print(f"an answer without pruning: {base / 1e12:.0f} TFLOP\n\n{markdown(header, rows)}")
    seconds = {str(frames): fusion_seconds(frames) for frames in (16, 128, 512)}
    print(f"\nfusion head, seconds by frames: {seconds}")
    results = {
        "command": "python benchmarks/predictor.py",
        "machine": f"{platform.machine()}, torch {torch.__version__}, 1 thread",
        "base_flops": base,
        "scorers": {name: {"frames": frames, "question": question} for name, (frames, question) in SCORERS.items()},
        "fusion_seconds": seconds,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
