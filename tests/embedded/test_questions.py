"""Every question has one right answer, and a slow reader of the per-frame list finds it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmms_kvtp.embedded.questions import (
    INSTRUCTION,
    KINDS,
    LETTERS,
    ScriptQuestion,
    ask,
    split_words,
    words,
)
from lmms_kvtp.embedded.script import Script, sampled_times, write_script

SCRIPTS = [write_script(seed, "train") for seed in range(60)]


def answers(script: Script, question: ScriptQuestion) -> list[str]:
    """All right answers, from what each sampled frame shows."""
    frames = [script.shot_at(time) for time in sampled_times(script)]
    glyphs = {shot.event.shape for shot in script.events if shot.event}
    glyph = next((word for word in split_words(question.text) if word in glyphs), "")
    sprites = [[*shot.clutter, *([shot.event] if shot.event else [])] for shot in frames]
    there = [i for i, seen in enumerate(sprites) if any(sprite.shape == glyph for sprite in seen)]
    match question.kind:
        case "color":
            found = {sprite.color for i in there for sprite in sprites[i] if sprite.shape == glyph}
        case "where":
            found = {frames[i].place for i in there}
        case "scene":
            found = {shot.place for shot in frames} & set(question.options)
        case "main":
            counts = Counter(shot.place for shot in frames)
            found = {place for place, count in counts.items() if count == max(counts.values())}
        case "start":
            found = {frames[0].place}
        case _:
            found = {frames[-1].place}
    return sorted(found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_of_the_frame_list_finds_the_one_answer(kind: str) -> None:
    asked = [(script, question) for script in SCRIPTS for question in ask(script) if question.kind == kind]
    assert len(asked) >= 30
    for script, question in asked:
        assert answers(script, question) == [question.answer_text], f"{script.key}: {question}"
        assert len(set(question.options)) == 4


def test_the_frames_outside_the_spans_do_not_tell_the_answer() -> None:
    # without its span's frames, an event's shape is nowhere in the video
    for script in SCRIPTS[:20]:
        for question in ask(script):
            if question.kind in ("color", "where"):
                (span,) = question.spans
                shots = [script.shot_at(t) for t in sampled_times(script) if not span[0] <= t < span[1]]
                glyph = question.text.split()[-1].rstrip("?") if question.kind == "color" else question.text.split()[-2]
                assert all(shot.event is None or shot.event.shape != glyph for shot in shots)


def test_the_spans_of_a_scene_are_all_shots_of_that_place() -> None:
    for script in SCRIPTS:
        (scene,) = (question for question in ask(script) if question.kind == "scene")
        times = sampled_times(script)
        shown = [script.shot_at(time).place == scene.answer_text for time in times]
        assert [any(start - 1e-3 <= time < end - 1e-3 for start, end in scene.spans) for time in times] == shown
        assert any(script.shot_at(time).event is None for time, there in zip(times, shown, strict=True) if there)


def test_wrong_options_are_things_of_this_video_but_for_scenes() -> None:
    for script in SCRIPTS:
        colors = {shot.event.color for shot in script.events if shot.event}
        places = {shot.place for shot in script.shots}
        for question in ask(script):
            if question.kind == "color":
                assert set(question.options) == colors
            elif question.kind == "scene":
                assert set(question.options) - {question.answer_text} == set(question.options) - places
            else:
                assert set(question.options) <= places


def test_main_is_asked_only_with_a_clear_lead() -> None:
    asked = 0
    for script in SCRIPTS:
        counts = Counter(script.shot_at(time).place for time in sampled_times(script)).most_common(2)
        lead = (counts[0][1] - counts[1][1]) / len(sampled_times(script))
        assert any(question.kind == "main" for question in ask(script)) == (lead >= 0.15)
        asked += lead >= 0.15
    assert 0 < asked < len(SCRIPTS)


def test_answers_fall_on_all_letters_alike() -> None:
    for kind in KINDS:
        letters = Counter(q.answer for script in SCRIPTS for q in ask(script) if q.kind == kind)
        expected = sum(letters.values()) / 4
        assert all(abs(letters[letter] - expected) < 4 * expected**0.5 for letter in LETTERS), kind


def test_the_vocabulary_covers_every_prompt_and_is_small() -> None:
    known = set(words())
    assert len(known) == len(words()) < 128
    used = {word for script in SCRIPTS for question in ask(script) for word in split_words(question.prompt)}
    assert used <= known


def test_the_prompt_lists_lettered_options_and_the_instruction() -> None:
    question = ask(SCRIPTS[0])[0]
    a, b, c, d = question.options
    assert question.prompt == f"{question.text}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\n{INSTRUCTION}"


@given(st.integers(0, 59), st.sampled_from(LETTERS))
def test_moving_the_answer_keeps_it_right(index: int, letter: str) -> None:
    for question in ask(SCRIPTS[index])[:3]:
        moved = question.with_answer_at(letter)
        assert (moved.answer, moved.answer_text) == (letter, question.answer_text)
        assert sorted(moved.options) == sorted(question.options)


def test_questions_about_the_whole_video_have_no_spans() -> None:
    script = next(s for s in SCRIPTS if any(q.kind == "main" for q in ask(s)))
    main = next(question for question in ask(script) if question.kind == "main")
    assert main.spans == ()
