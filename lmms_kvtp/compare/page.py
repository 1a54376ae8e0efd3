"""A comparison on one's own data as one HTML page that needs no network. Every text in it is escaped."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from lmms_kvtp.compare.report import HEADER, Summary, rows
from lmms_kvtp.compare.worst import Case

TEMPLATE = Path(__file__).parent / "page.html"


def to_html(found: Sequence[Summary], cases: Sequence[Case], advice: str, data: str, model: str, toy: bool) -> str:
    """The whole page.

    Args:
        found: of each method, all tokens first.
        cases: the worst outcomes.
        advice: the recommendation.
        data: name of the file of questions.
        model: name of the checkpoint.
        toy: the embedded model answered.
    """
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        header=HEADER,
        rows=rows(found),
        questions=found[0].agreement.count,
        videos=found[0].videos,
        cases=cases,
        advice=advice,
        data=data,
        model=model,
        toy=toy,
    )
