"""What questions on one video save by a shared prefill, and what a batch saves, on a random Qwen2.

python benchmarks/questions.py --output benchmarks/results/questions_cpu.json

The model has grouped queries and the MLP of Qwen2-7B in proportion, random weights and few layers; the prompt is that
of 32 frames of 14 x 14 tokens, of which a fifth is kept, and questions of 60 positions. Seconds are those that the
process had a CPU, which on one thread are wall seconds of an idle machine; the ways are interleaved, medians are given.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, __version__

from lmms_kvtp.cost.flops import LLMShape, prefill_flops
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.vlms.decoding import decode, settings
from lmms_kvtp.vlms.reading import PrefixCache

SHAPE = LLMShape(hidden=512, intermediate=2688, layers=2, heads=8, kv_heads=2, head_dim=64, vocabulary=4096)
VISUAL = 14 + int(0.2 * 32 * 196) + 32
QUESTION, QUESTIONS, ANSWER = 60, 3, 4
NOBODY = cast(PreTrainedTokenizerBase, None)  # nothing is decoded to text


def main() -> None:
    """Measure, print, and write a file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    llm, prompts = model(), draw()
    options = GenerationOptions(max_new_tokens=ANSWER)
    config = settings(GenerationConfig(), SHAPE.vocabulary - 1, SHAPE.vocabulary - 2, options)
    ways: dict[str, list[list[float]]] = {"alone": [], "shared": [], "batch": []}
    tokens: dict[str, list[list[int]]] = {}
    for _ in range(arguments.rounds):
        for way, seconds in ways.items():
            spent, tokens[way] = run(way, llm, prompts, config, options)
            seconds.append(spent)
    assert tokens["alone"] == tokens["shared"] == tokens["batch"], "answers differ"
    median = statistics.median
    result = {
        "machine": platform.processor() or platform.machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": __version__},
        "positions": {"before the question": VISUAL, "question": QUESTION, "questions": QUESTIONS, "answer": ANSWER},
        "rounds": arguments.rounds,
        "cpu_seconds_of_calls": {
            way: [round(median(call), 3) for call in zip(*rounds, strict=True)] for way, rounds in ways.items()
        },
        "cpu_seconds": {way: round(median(map(sum, rounds)), 3) for way, rounds in ways.items()},
        "prefill_flops": {
            "first": prefill_flops(SHAPE, [VISUAL + QUESTION] * SHAPE.layers),
            "later": prefill_flops(SHAPE, [QUESTION] * SHAPE.layers, reused=VISUAL),
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


def model() -> Qwen2ForCausalLM:
    """Random weights, large enough that answers differ."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=SHAPE.hidden,
        intermediate_size=SHAPE.intermediate,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads,
        vocab_size=SHAPE.vocabulary,
        initializer_range=0.1,
    )
    llm = Qwen2ForCausalLM(config).eval()
    llm.generation_config = GenerationConfig()
    return llm


def draw() -> list[Tensor]:
    """Prompts that share everything but their questions."""
    video = torch.randn(VISUAL, SHAPE.hidden)
    return [torch.cat([video, torch.randn(QUESTION, SHAPE.hidden)]) for _ in range(QUESTIONS)]


def run(
    way: str, llm: Qwen2ForCausalLM, prompts: Sequence[Tensor], config: GenerationConfig, options: GenerationOptions
) -> tuple[list[float], list[list[int]]]:
    """CPU seconds of each call, and the tokens of all answers."""
    prefix = PrefixCache() if way == "shared" else None
    calls = [list(prompts)] if way == "batch" else [[prompt] for prompt in prompts]
    seconds, answers = [], list[list[int]]()
    with torch.inference_mode():
        for call in calls:
            start = time.process_time()
            made: list[Any] = decode(llm, NOBODY, call, config, options, prefix)
            seconds.append(time.process_time() - start)
            answers += [decoded.ids for decoded in made]
    return seconds, answers


if __name__ == "__main__":
    main()
