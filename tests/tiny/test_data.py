"""Symbolic videos, shortened training videos and the footage of the tiny model's training."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.embedded_model.footage import BACKGROUND, film, shorten, whole
from benchmarks.embedded_model.lessons import EMPTY, Coach, Riddler, all_phrases, sketch, symbols
from benchmarks.embedded_model.stage_soft import SPOKEN, say
from lmms_kvtp.embedded.draw import SHAPES, draw
from lmms_kvtp.embedded.questions import ask
from lmms_kvtp.embedded.script import COLORS, GLYPHS, PLACES, Script, sampled_times, write_script


@pytest.mark.parametrize(("length", "events"), [(11, 3), (17, 4), (64, 4)])
def test_a_sketch_keeps_the_benchmarks_rules(length: int, events: int) -> None:
    for seed in range(20):
        script = sketch(np.random.default_rng(seed), length, events)
        assert script.shots[0].start == 0 and script.shots[-1].end == length
        assert all(a.end == b.start for a, b in zip(script.shots, script.shots[1:], strict=False))
        at = [i for i, shot in enumerate(script.shots) if shot.event is not None]
        assert len(at) == events and at[0] > 0 and at[-1] < len(script.shots) - 1
        assert min(np.diff(at)) > 2
        assert all(script.shots[i].place not in (script.shots[i - 1].place, script.shots[i + 1].place) for i in at)
        shown = [shot.event for shot in script.shots if shot.event is not None]
        assert len({event.shape for event in shown}) == len({event.color for event in shown}) == events
        clutter = {sprite.shape for shot in script.shots for sprite in shot.clutter}
        assert clutter.isdisjoint(event.shape for event in shown)


def test_the_symbols_of_a_sketch_answer_its_questions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        script = sketch(rng, 21, 4)
        said = symbols(rng, [script], 5, 0.5)
        counts = Counter(said.places[0].tolist())
        for question in ask(script):
            if question.kind in ("color", "where"):
                glyph = SHAPES.index(next(name for name in GLYPHS if name in question.text))
                frame, token = np.argwhere(said.shapes[0] == glyph)[0]
                found = {
                    "color": COLORS[said.colors[0, frame, token]],
                    "where": PLACES[said.places[0, frame]],
                }[question.kind]
                assert question.answer_text == found
            elif question.kind in ("start", "end"):
                assert question.answer_text == PLACES[said.places[0, 0 if question.kind == "start" else -1]]
            elif question.kind == "main":
                assert question.answer_text == PLACES[counts.most_common(1)[0][0]]
    assert ((said.shapes == EMPTY) == (said.colors == EMPTY)).all()


@pytest.mark.parametrize("length", [17, 40])
def test_a_shortened_video_tells_its_own_script(length: int) -> None:
    original = write_script(4, "train")
    times = sampled_times(original)
    for seed in range(5):
        excerpt = shorten(4, length, np.random.default_rng(seed))
        assert len(excerpt.frames) == length == excerpt.script.num_frames
        assert excerpt.frames == sorted(set(excerpt.frames))
        for second, frame in enumerate(excerpt.frames):
            then, now = original.shot_at(times[frame]), excerpt.script.shot_at(float(second))
            assert (then.place, then.event, then.clutter) == (now.place, now.event, now.clutter)
        assert answers(excerpt.script, ("color", "where", "start", "end")) == answers(
            original, ("color", "where", "start", "end")
        )


def answers(script: Script, kinds: tuple[str, ...]) -> set[tuple[str, str]]:
    return {(question.text, question.answer_text) for question in ask(script) if question.kind in kinds}


def test_a_whole_video_keeps_all_sampled_frames() -> None:
    excerpt = whole(2)
    assert excerpt.frames == list(range(len(sampled_times(excerpt.script))))
    assert excerpt.script == write_script(2, "train")


def test_footage_is_the_decoded_video_with_what_each_patch_shows() -> None:
    script = write_script(1, "val")
    part = film(script, 12)
    times = sampled_times(script)
    assert len(part["rgb"]) == len(times)
    for index in (0, 7, len(times) - 1):
        shot = script.shot_at(times[index])
        drawn = draw(shot, times[index]).astype(float)
        assert np.abs(part["rgb"][index] - drawn).mean() < 12
        assert PLACES[part["places"][index]] == shot.place
        things = {s.shape for s in shot.clutter} | ({shot.event.shape} if shot.event else set())
        seen = {SHAPES[i] for i in np.unique(part["shapes"][index]) if i != BACKGROUND}
        assert seen <= things and len(seen) >= len(things) - 1
    clear = part["weights"] > 0.99
    assert ((part["colors"] >= 0) == (part["shapes"] != BACKGROUND)).all()
    assert 0.1 < clear.mean() < 0.6


def test_a_phrase_matches_exactly_the_frames_that_it_describes() -> None:
    present = np.zeros((3, len(SHAPES), len(COLORS)), bool)
    present[0, SHAPES.index("star"), COLORS.index("red")] = True
    present[1, SHAPES.index("star"), COLORS.index("blue")] = True
    places = np.array([PLACES.index("ocean"), PLACES.index("lava"), PLACES.index("ocean")], np.int8)
    expected = {
        "a star": [True, True, False],
        "a red star": [True, False, False],
        "a star in the ocean": [True, False, False],
        "the ocean": [True, False, True],
        "What color is the star?": [True, True, False],
        "Which place is shown most?": [True, True, True],
        "a heart": [False, False, False],
    }
    found = {p.text: p.matches(present, places).tolist() for p in all_phrases() if p.text in expected}
    assert found == expected


def test_riddles_name_their_answer() -> None:
    riddler = Riddler(np.random.default_rng(0))
    for _ in range(20):
        prompt, letter = riddler.draw(bare=False)
        stem, *options, _ = prompt.splitlines()
        assert len(options) == 4
        assert dict(option.split(". ") for option in options)[letter] in stem
        *options, last = riddler.draw(bare=True)[0].splitlines()
        assert last.strip() in [option.split(". ")[1] for option in options]


@pytest.mark.parametrize("kind", ["color", "where", "scene", "main", "start", "end"])
def test_a_bare_question_ends_with_what_it_is_about(kind: str) -> None:
    question = next(question for question in ask(write_script(0, "train")) if question.kind == kind)
    text, answer = say(question, SPOKEN, bare=True)
    assert answer == f" {question.answer_text}"
    if kind in ("color", "where"):
        assert text.split()[-1] in GLYPHS and question.text.startswith(text)
    else:
        assert question.text in text
    assert (question.options[0] in text) == (kind == "scene")


def test_kinds_that_lag_are_asked_more_often() -> None:
    coach, script = Coach(np.random.default_rng(0)), write_script(0, "train")
    coach.accuracy |= {"color": 1.0, "where": 1.0, "main": 1.0, "start": 1.0, "scene": 1.0}
    drawn = Counter(question.kind for question in coach.draw(script, 400))
    assert drawn["end"] > 2 * drawn["color"]
    assert {question.kind for question in coach.draw(script, 50, ("start", "end"))} == {"start", "end"}
    assert {question.answer for question in coach.draw(script, 50)} == {"A", "B", "C", "D"}
