"""Documents, prompt and scoring of the embedded benchmark; works with any model of the harness."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from loguru import logger

from lmms_kvtp.cost.sample import task_metrics
from lmms_kvtp.embedded import cache, dataset
from lmms_kvtp.questions import chosen_letter
from lmms_kvtp.tasks.skvqa.utils import average, percent

__all__ = ["average", "doc_to_text", "doc_to_visual", "percent", "process_results"]
__all__ += ["all_documents", "quick_documents", "sealed_documents"]

Doc = Mapping[str, Any]


def _documents(task: str, pinned: Any, split: str = "test") -> Any:
    try:
        dataset.check_pins(split, pinned)
    except RuntimeError as error:
        logger.error(error)  # the harness retries, and then reports a RetryError without the reason
        raise
    documents = dataset.build(split, len(pinned))
    return type(pinned).from_list([{**doc, "kvtp_id": f"{task}/{doc['question_id']}"} for doc in documents])


def quick_documents(pinned: Any) -> Any:
    """Make the documents of the first videos of the test split."""
    return _documents("skvqa_synth_quick", pinned.select(range(dataset.QUICK_VIDEOS)))


all_documents: Callable[[Any], Any] = partial(_documents, "skvqa_synth")
"""Makes the documents of the whole test split."""
sealed_documents: Callable[[Any], Any] = partial(_documents, "skvqa_synth_sealed", split="sealed")
"""Makes the documents of the sealed split, on which nothing was chosen."""


def doc_to_visual(doc: Doc) -> list[str]:
    """Give the path of the video, which is made now if the cache does not hold it.

    CacheError where the cache folder cannot be written; the message names it and the way out.
    """
    if not cache.folder().exists():
        logger.info(f"making synthetic videos in {cache.folder()} (once; about 17 MB for all of the test split)")
    return [str(cache.video(doc["split"], doc["seed"]))]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, Any]) -> str:
    """Write stem, four lettered options, and the instruction of the YAML."""
    options = [f"{letter}. {option}" for letter, option in zip("ABCD", doc["options"], strict=True)]
    body = "\n".join([doc["question"], *options])
    return str(lmms_eval_specific_kwargs["pre_prompt"] + body + lmms_eval_specific_kwargs["post_prompt"])


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Score one answer; every document returns the same keys, None where one does not apply.

    The answer counts as right by its letter or its option's text. What cannot be read is wrong, and counted.
    """
    letter = chosen_letter(results[0], doc["options"])
    score = float(letter == doc["answer"])
    item = {name: doc[name] for name in ("question_id", "video_id", "kind", "answer")}
    item |= {"score": score, "chosen": letter or "", "text": results[0]}
    row: dict[str, Any] = {"skvqa_acc": item, "score": score}
    row |= {name: doc[name] for name in ("question_id", "video_id", "kind")}
    row |= {f"acc_{kind}": item if kind == doc["kind"] else None for kind in dataset.SHIPPED_KINDS}
    row["unparsable"] = {**item, "score": float(letter is None)}
    return row | task_metrics(doc["kvtp_id"])
