"""Questions of a split as flat documents, balanced over kinds and answer letters."""

from collections import Counter
from collections.abc import Iterable, Mapping
from zlib import crc32

import numpy as np

from lmms_kvtp.embedded import VERSION
from lmms_kvtp.embedded.cache import fingerprint
from lmms_kvtp.embedded.questions import KINDS, LETTERS, ScriptQuestion, ask
from lmms_kvtp.embedded.script import Script, write_script
from lmms_kvtp.questions import MOST_RELEVANT

Document = dict[str, object]

SHIPPED_KINDS = tuple(kind for kind in KINDS if kind != "main")
"""Kinds of the benchmark: those that the embedded model answers when it sees all tokens. The others only serve
training: a benchmark that its own unpruned model fails says nothing about pruning."""
QUESTIONS_PER_VIDEO = 4
NUM_VIDEOS = {"test": 160, "val": 40, "sealed": 105}
"""Videos of a split; those of `sealed` are for one run, when nothing is left to choose (docs/benchmark_plan.md)."""
QUICK_VIDEOS = 25


def build(
    split: str, num_videos: int, kinds: tuple[str, ...] = SHIPPED_KINDS, per_video: int = QUESTIONS_PER_VIDEO
) -> list[Document]:
    """Ask `per_video` questions about each of the first `num_videos` of a split, no kind twice in a video.

    Kinds, and answer letters within a kind, are balanced to one or two, also among the first documents alone: those of
    fewer videos are the first documents of more. ValueError where a split or kind is unknown, or kinds are too few.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ValueError(f"no question kind named {sorted(unknown)[0]!r}; available: {', '.join(KINDS)}")
    if not 0 < per_video <= len(kinds):
        raise ValueError(f"cannot ask {per_video} questions of {len(kinds)} kinds per video; lower per_video")
    rng = np.random.RandomState([crc32(split.encode()), 2])
    asked: Counter[tuple[str, ...]] = Counter()
    documents = []
    for seed in range(num_videos):
        script = write_script(seed, split)
        pool = [question for question in ask(script) if question.kind in kinds]
        for kind in _least(asked, [(kind,) for kind in kinds if any(q.kind == kind for q in pool)], per_video, rng):
            question = _choose(asked, [q for q in pool if q.kind == kind[0]], rng)
            asked[kind] += 1
            documents.append(_document(script, split, question))
    return documents


def pins(split: str, num_videos: int) -> list[dict[str, str]]:
    """List what a packaged file remembers of each video: its key and the fingerprint of its script."""
    scripts = [write_script(seed, split) for seed in range(num_videos)]
    return [{"video_id": script.key, "script": fingerprint(script).hex()} for script in scripts]


def check_pins(split: str, pinned: Iterable[Mapping[str, str]]) -> None:
    """Make sure that this machine invents the videos that were pinned, which are the first of the split.

    RuntimeError where it invents others; accuracies would not be comparable.
    """
    expected = [dict(row) for row in pinned]
    for here, there in zip(pins(split, len(expected)), expected, strict=True):
        if here != there:
            raise RuntimeError(
                f"the generator (version {VERSION}, numpy {np.__version__}) makes {here} where the benchmark has "
                f"{there}: results would not be comparable; reinstall lmms-kvtp, or report this numpy version"
            )


def _choose(asked: Counter[tuple[str, ...]], pool: list[ScriptQuestion], rng: np.random.RandomState) -> ScriptQuestion:
    """Choose the question whose answer has been rarest so far, and put that answer at the rarest letter."""
    kind = pool[0].kind
    (answer,) = _least(asked, sorted({(kind, "answer", q.answer_text) for q in pool}), 1, rng)
    (letter,) = _least(asked, [(kind, "letter", letter) for letter in LETTERS], 1, rng)
    asked.update([answer, letter])
    fitting = [q for q in pool if q.answer_text == answer[2]]
    return fitting[rng.randint(len(fitting))].with_answer_at(letter[2])


def _least(
    asked: Counter[tuple[str, ...]], keys: list[tuple[str, ...]], count: int, rng: np.random.RandomState
) -> list[tuple[str, ...]]:
    """Choose the `count` keys met least often; ties are broken at random."""
    order = rng.permutation(len(keys))
    return sorted((keys[i] for i in order), key=lambda key: asked[key])[:count]


def _document(script: Script, split: str, question: ScriptQuestion) -> Document:
    return {
        "question_id": f"{script.key}-{question.kind}",
        "video_id": script.key,
        "split": split,
        "seed": script.seed,
        "kind": question.kind,
        "question": question.text,
        "options": list(question.options),
        "answer": question.answer,
        "spans": [[*span, MOST_RELEVANT] for span in question.spans],
        "duration": script.duration,
    }
