"""Prompts of the harness's own tasks, without their dependence on the model; scores by our parser and by theirs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from lmms_kvtp.cost.sample import task_metrics
from lmms_kvtp.questions import chosen_letter, unlabelled
from lmms_kvtp.skvqa.layouts import EVALUATED

Doc = Mapping[str, Any]

INSTRUCTION = "\nAnswer with the option's letter from the given choices directly."
LETTERS = ("A", "B", "C", "D", "E")
BINS = ((0.0, 2.0, "under_2"), (2.0, 3.0, "2_to_3"), (3.0, 5.0, "3_to_5"), (5.0, float("inf"), "5_up"))
"""Ranges of sparsity, and the names of their metrics."""


def stock_text(task: str, function: str, instruction: str, doc: Doc) -> str:
    """Write the stock prompt of a task as every model without an entry of its own gets it."""
    write = getattr(import_module(f"lmms_eval.tasks.{task}.utils"), function)
    return str(write(doc, {"pre_prompt": "", "post_prompt": instruction}))


videomme_text: Callable[[Doc], str] = partial(stock_text, "videomme", "videomme_doc_to_text", INSTRUCTION)
egoschema_text: Callable[[Doc], str] = partial(stock_text, "egoschema", "egoschema_doc_to_text", INSTRUCTION)
nextqa_text: Callable[[Doc], str] = partial(stock_text, "nextqa", "nextqa_doc_to_text_mc", "")


def videomme_choice(doc: Doc, text: str) -> str | None:
    """Read the letter that the stock task reads; None where it reads none."""
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    return extract_mcq_answer(text, choices=list(LETTERS[:4])) or None


def stock_choice(task: str, doc: Doc, text: str) -> str | None:
    """Read the letter that the stock task reads; None where it would draw one."""
    utils = import_module(f"lmms_eval.tasks.{task}.utils")
    options, letters = utils.get_multi_choice_info(doc)
    if nothing_readable(text, options):
        return None
    return str(utils.parse_multi_choice_response(text, letters, options)[0])  # EgoSchema's has a letter and more


egoschema_choice: Callable[[Doc, str], str | None] = partial(stock_choice, "egoschema")
nextqa_choice: Callable[[Doc, str], str | None] = partial(stock_choice, "nextqa")


def nothing_readable(text: str, options: Mapping[str, str]) -> bool:
    """Tell whether the stock parsers find neither a letter nor, in more than five words, an option's text.

    They then draw a letter with `random.choice`; a test holds this against their code.
    """
    for mark in ",.!?;:'":
        text = text.strip(mark)
    padded = f" {text} "
    if any(f"({letter})" in padded or f"{letter} " in padded or f"{letter}." in padded for letter in options):
        return False
    return len(padded.split()) <= 5 or not any(option.lower() in padded.lower() for option in options.values())


def right_letter(doc: Doc) -> str:
    """Name the right letter of a document that has it, or its number."""
    told = str(doc["answer"]).strip().upper()
    return LETTERS[int(told)] if told.isdecimal() else told


OPTIONS: Mapping[str, Callable[[Doc], list[str]]] = {
    "videomme": lambda doc: unlabelled(doc["options"]),
    "egoschema": lambda doc: unlabelled(doc["option"]),
    "nextqa": lambda doc: [doc[f"a{place}"] for place in range(5)],
}


def results(dataset: str, stock: Callable[[Doc, str], str | None], doc: Doc, answers: Sequence[str]) -> dict[str, Any]:
    """Score one answer, by one parser for all tasks; what cannot be read is wrong, and counted.

    `stock_acc` is the score by the stock task's own parser, where what it would draw by chance is wrong.
    """
    question_id, video_id = EVALUATED[dataset](doc)
    chosen, right, sparsity = chosen_letter(answers[0], OPTIONS[dataset](doc)), right_letter(doc), doc.get("sparsity")
    score = float(chosen == right)
    item = {"score": score, "question_id": question_id, "video_id": video_id, "sparsity": sparsity}
    item |= {"chosen": chosen or "", "answer": right, "text": answers[0]}
    row: dict[str, Any] = {"skvqa_acc": item, "score": score}
    row |= {name: item[name] for name in ("question_id", "video_id", "sparsity")}
    row["selection"] = str(doc.get("selection", ""))
    for low, high, name in BINS:
        row[f"acc_sparsity_{name}"] = item if sparsity is not None and low <= sparsity < high else None
    row["stock_acc"] = {**item, "score": float(stock(doc, answers[0]) == right)}
    row["unparsable"] = {**item, "score": float(chosen is None)}
    return row | task_metrics(str(doc.get("kvtp_id")))


Results = Callable[[Doc, Sequence[str]], dict[str, Any]]

videomme_results: Results = partial(results, "videomme", videomme_choice)
egoschema_results: Results = partial(results, "egoschema", egoschema_choice)
nextqa_results: Results = partial(results, "nextqa", nextqa_choice)


def percent(items: Sequence[Mapping[str, Any] | None]) -> float | str:
    """Average the scores of the items that are there, 0-100."""
    mean = average([None if item is None else item["score"] for item in items])
    return mean if isinstance(mean, str) else 100.0 * mean


def common(items: Sequence[str]) -> str:
    """Join what the items say, each once; harness and leaderboard show it beside the scores."""
    return "; ".join(dict.fromkeys(items))


def average(items: Sequence[float | None]) -> float | str:
    """Average the numbers that are there; the harness's own word where there is none."""
    known = [item for item in items if item is not None]
    return sum(known) / len(known) if known else "N/A"
