"""What was recorded before the great move still holds: what a user types, stored calls, labels, answers and costs."""

import json

import pytest
from helpers import recorded

from lmms_kvtp.harness.plugin import MODELS
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import settings_of
from lmms_kvtp.run.options import parse_arguments

OLD = {name: json.loads((recorded.FOLDER / f"{name}.json").read_text()) for name in ("typed", "labels", "store_keys")}
TABLE = json.loads((recorded.FOLDER / "table.json").read_text())
COMPONENTS = [(part, name) for part, names in OLD["typed"]["components"].items() for name in names]


@pytest.mark.parametrize(("part", "name"), COMPONENTS)
def test_every_component_and_each_of_its_settings_is_still_accepted(part, name):
    fields = OLD["typed"]["components"][part][name]
    given = {part: name} | {f"{part}.{field}": default for field, default in fields.items()}
    blind = {"scorer": "uniform"} if name == "own" else {}  # no text side
    method = build_method(given, {**KVTP, "pruner": "random", **blind})
    now = method.describe()[part]
    assert {field: recorded.as_typed(now[field]) for field in fields} == fields


def test_every_preset_is_still_accepted():
    for name in OLD["typed"]["presets"]:
        build_method(settings_of(f"{name}+random", 0.2), KVTP)


def test_every_model_argument_and_alias_is_still_accepted_with_its_default():
    typed = OLD["typed"]
    for name, default in typed["model_args"].items():
        parse_arguments({name: default})
    for name, target in typed["renamed"].items():
        parse_arguments({name: typed["model_args"][target]})
    for name, values in typed["only"].items():
        parse_arguments({name: values[0]})
    parse_arguments(dict.fromkeys(typed["without_effect"], "anything"))
    assert recorded.typed()["generation"] == typed["generation"]


def test_every_model_id_and_alias_is_still_there():
    now = {name: list(aliases) for name, (_, aliases) in MODELS.items()}
    assert {name: now.get(name) for name in OLD["typed"]["models"]} == OLD["typed"]["models"]


def test_every_command_and_flag_is_still_there_with_its_default():
    lost = list(_lost(OLD["typed"]["commands"], recorded.typed()["commands"], ""))
    assert not lost


def test_finished_calls_of_a_store_are_found_again(tmp_path, start_stub):
    assert recorded.store_keys(tmp_path / "build", start_stub().url) == OLD["store_keys"]


def test_stored_rows_of_the_leaderboard_keep_their_labels():
    assert recorded.labels() == OLD["labels"]


@pytest.mark.parametrize("name", list(TABLE))
def test_the_first_answers_of_the_embedded_table_cost_and_say_what_they_did(name):
    found = recorded.answers(name.removesuffix("_20").replace("vidcom2_vidcom2", "vidcom2/vidcom2"), videos=1)
    assert len(found) >= 4
    assert found == {document: TABLE[name][document] for document in found}


@pytest.mark.slow
def test_the_whole_embedded_table_is_what_it_was(tmp_path):
    assert recorded.table(recorded.METHODS, tmp_path) == TABLE


def _lost(old, new, path):
    """Commands, flags and defaults that are not as they were."""
    for name, value in old.items():
        if name not in new:
            yield f"{path}{name}"
        elif isinstance(value, dict):
            yield from _lost(value, new[name], f"{path}{name} ")
        elif isinstance(value, list) and set(value) <= set(new[name]):
            continue
        elif value != new[name]:
            yield f"{path}{name}: {new[name]!r}, was {value!r}"
