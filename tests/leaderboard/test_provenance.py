"""Labels of rows, from what a run records of its method."""

import pytest

from lmms_kvtp.leaderboard.provenance import Provenance, names, provenance
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import settings_of


def label(method: dict) -> str:
    recorded = {"config": {"resolved_cli_args": {"lmms_kvtp": {"method": method}}}, "results": {}}
    return provenance(recorded).label


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("full", "all tokens"),
        ("random", "random"),
        ("kvtp+prumerge", "KVTP, untuned + PruMerge"),
        ("similarity/softmax+prumerge_plus", "KVTP, untuned + PruMergePlus"),
        ("prumerge_plus", "PruMergePlus"),
        ("hard+random", "hard key frames + random"),
        ("similarity/kvtp_release+tome", "KVTP as released, untuned + ToMe"),
        ("uniform/kvtp_release+tome", "uniform/rounding of a release + ToMe"),
        ("vidcom2/vidcom2+vidcom2", "VidCom2"),
        ("vidcom2", "VidCom2"),
        ("uniform+vidcom2", "VidCom2, equal budgets"),
        ("kvtp+vidcom2", "KVTP, untuned + VidCom2"),
        ("vidcom2/vidcom2+random", "vidcom2/vidcom2 + random"),
        ("prunevid", "PruneVid"),
        ("uniform+prunevid", "PruneVid, without its stage"),
        ("fastv", "FastV"),
        ("dycoke", "DyCoke"),
    ],
)
def test_a_row_is_called_as_the_papers_call_its_method(name, expected):
    assert label(build_method(settings_of(name, 0.2), KVTP).describe()) == expected


def test_layer_pruners_have_their_papers_name_too():
    settings = {**settings_of("kvtp+prunevid", 0.5), "layer_pruning": "prunevid"}
    assert label(build_method(settings, KVTP).describe()) == "KVTP, untuned + PruneVid + PruneVid"


def test_rows_of_earlier_code_whose_scorer_was_a_class_of_its_own_keep_their_label():
    now = build_method(settings_of("kvtp+prumerge", 0.2), KVTP).describe()
    scorer = {"class": "lmms_kvtp.scorers.similarity:Similarity"}
    assert label({**now, "scorer": scorer}) == "KVTP, untuned + PruMerge"
    earlier = {"class": "lmms_kvtp.pruners.prumerge_plus:PruMergePlus", "neighbours": 32, "spaced": 0.5}
    assert label({**now, "pruner": earlier}) == "KVTP, untuned + PruMergePlus"


def test_rows_that_differ_in_their_positions_alone_are_told_apart():
    given = [
        build_method({**settings_of("random", 0.2), "positions": p}, KVTP).describe() for p in ("kept", "renumbered")
    ]
    earlier = {key: value for key, value in given[1].items() if key != "positions"}
    rows = [Provenance("random", method, 0.2) for method in (given[0], earlier)]
    assert names(rows) == ["random (positions=kept)", "random (positions=renumbered)"]
    assert names([Provenance("random", method, 0.2) for method in (given[1], earlier)]) == ["random", "random"]
