"""How far the questions can be answered without watching: `python -m benchmarks.blind`.

Five readers that never see a frame, and two that see which places a video shows, but not when nor with what.
All of them are fitted on training questions and scored on the test split; a sound benchmark holds them at chance.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt

from lmms_kvtp.embedded.dataset import NUM_VIDEOS, SHIPPED_KINDS, Document, build
from lmms_kvtp.embedded.questions import LETTERS, split_words
from lmms_kvtp.embedded.script import PLACES, sampled_times, write_script

NUM_TRAIN_VIDEOS = 600
NUM_FEATURES = 4096
STEPS = 300
PENALTY = 0.02

Reader = Callable[[Document], int]
"""Chooses one of four options, by index."""


def measure(train: Sequence[Document], test: Sequence[Document]) -> dict[str, dict[str, float]]:
    """Accuracy (%) of each reader on the test documents, over all and per kind."""
    readers = {
        "majority letter": _majority_letter(train),
        "most frequent answer word": _frequent_word(train),
        "rarest option word": _rarest_option(train),
        "longest option": _longest,
        "bag of words": _bag_of_words(train),
    }
    table = {name: _accuracies(reader, test) for name, reader in readers.items()}
    about_places = [doc for doc in test if set(_options(doc)) <= set(PLACES)]
    table["place shown most"] = _accuracies(_shown_most, about_places)
    table["place shown least"] = _accuracies(_shown_least, about_places)
    return table


def _accuracies(reader: Reader, test: Sequence[Document]) -> dict[str, float]:
    right: dict[str, list[bool]] = {"all": []}
    for doc in test:
        hit = LETTERS[reader(doc)] == doc["answer"]
        right["all"].append(hit)
        right.setdefault(str(doc["kind"]), []).append(hit)
    return {kind: 100 * float(np.mean(hits)) for kind, hits in right.items()}


def _options(doc: Document) -> list[str]:
    return [str(option) for option in doc["options"]]  # type: ignore[attr-defined]


def _answer(doc: Document) -> str:
    return _options(doc)[LETTERS.index(str(doc["answer"]))]


def _majority_letter(train: Sequence[Document]) -> Reader:
    letter = Counter(str(doc["answer"]) for doc in train).most_common(1)[0][0]
    return lambda doc: LETTERS.index(letter)


def _frequent_word(train: Sequence[Document]) -> Reader:
    counts = Counter((doc["kind"], _answer(doc)) for doc in train)
    return lambda doc: int(np.argmax([counts[doc["kind"], option] for option in _options(doc)]))


def _rarest_option(train: Sequence[Document]) -> Reader:
    counts = Counter((doc["kind"], option) for doc in train for option in _options(doc))
    return lambda doc: int(np.argmin([counts[doc["kind"], option] for option in _options(doc)]))


def _bag_of_words(train: Sequence[Document]) -> Reader:
    """Soft-max regression over the four options on hashed pairs of option, letter, other options and question words."""
    features = np.array([_features(doc) for doc in train])  # [n, 4 options, pairs]
    right = np.array([LETTERS.index(str(doc["answer"])) for doc in train])
    weights = np.zeros(NUM_FEATURES)
    target = np.eye(4)[right]
    for _ in range(STEPS):
        scores = weights[features].sum(-1)
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        slope = np.repeat((target - chances)[..., None], features.shape[-1], -1)
        gradient = np.bincount(features.ravel(), slope.ravel(), NUM_FEATURES)
        weights += 0.05 * (gradient / len(train) * 40 - PENALTY * weights)
    return lambda doc: int(np.argmax(weights[np.array(_features(doc))].sum(-1)))


def _features(doc: Document) -> npt.NDArray[np.int64]:
    options = _options(doc)
    words = split_words(str(doc["question"]))[:14]
    rows = []
    for letter, option in zip(LETTERS, options, strict=True):
        others = sorted(set(options) - {option})
        pairs = [f"{option} in {doc['kind']}", f"{letter} in {doc['kind']}", f"{option} at {letter}", letter]
        pairs += [f"{option} not {other}" for other in others] + [f"{option} asked {word}" for word in words]
        pairs += ["-"] * (21 - len(pairs))
        rows.append([_slot(pair) for pair in pairs])
    return np.array(rows)


def _slot(name: str) -> int:
    return crc32(name.encode()) % NUM_FEATURES


def _longest(doc: Document) -> int:
    return int(np.argmax([len(option) for option in _options(doc)]))


def _shown_most(doc: Document) -> int:
    return int(np.argmax(_shown(doc)))


def _shown_least(doc: Document) -> int:
    return int(np.argmin(_shown(doc)))


def _shown(doc: Document) -> list[int]:
    """Sampled frames that show each option's place."""
    script = write_script(int(str(doc["seed"])), str(doc["split"]))
    frames = Counter(script.shot_at(time).place for time in sampled_times(script))
    return [frames[option] for option in _options(doc)]


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description="Answer the questions of skvqa_synth without watching the videos.")
    parser.add_argument("--split", default="test", help="where to measure (default: %(default)s)")
    parser.add_argument("--videos", type=int, default=NUM_VIDEOS["test"], help="how many (default: %(default)s)")
    parser.add_argument("--train", type=int, default=NUM_TRAIN_VIDEOS, help="videos to fit on (default: %(default)s)")
    arguments = parser.parse_args()
    train, test = build("train", arguments.train), build(arguments.split, arguments.videos)
    columns = ["all", *SHIPPED_KINDS]
    error = 100 * (0.25 * 0.75 / len(test)) ** 0.5
    lines = [f"{len(test)} questions; chance 25 %, standard error of the column `all` {error:.1f}"]
    lines += ["", f"| reader | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in measure(train, test).items():
        cells = [f"{row[column]:.1f}" if column in row else "-" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
