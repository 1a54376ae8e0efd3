"""Scripts are the same for ever, and every event can be seen by the frame rule."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from lmms_kvtp.embedded.cache import fingerprint
from lmms_kvtp.embedded.script import COLORS, DECOYS, GLYPHS, PLACES, SIZE, Script, sampled_times, write_script

SCRIPTS = [write_script(seed, split) for split in ("train", "val", "test") for seed in range(30)]
each_script = pytest.mark.parametrize("script", SCRIPTS[::2], ids=lambda script: script.key)


def test_another_process_with_other_string_hashes_writes_the_same_script() -> None:
    code = "from lmms_kvtp.embedded import cache as c; print(c.fingerprint(c.write_script(7, 'val')).hex())"
    for hash_seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert other.stdout.strip() == fingerprint(write_script(7, "val")).hex()


def test_splits_share_no_video() -> None:
    assert len({script.shots for script in SCRIPTS}) == len(SCRIPTS)


@each_script
def test_shots_fill_the_video_without_gaps(script: Script) -> None:
    assert script.shots[0].start == 0
    assert all(a.end == b.start for a, b in pairwise(script.shots))
    assert script.shots[-1].end == script.duration
    assert script.num_frames == pytest.approx(script.duration * script.fps, abs=1e-6)


@each_script
def test_videos_have_the_promised_length(script: Script) -> None:
    steps = round(script.duration / script.step)
    assert 64 <= steps <= 160
    assert len(sampled_times(script)) == min(steps, 128)
    for shot in script.shots:
        length = (shot.end - shot.start) / script.step
        assert length == pytest.approx(round(length), abs=1e-6)
        assert (1 if shot.event else 3) <= round(length) <= (6 if shot.event else 8)


@each_script
def test_four_events_of_unique_shape_and_colour_each_meet_a_sampled_frame(script: Script) -> None:
    events = [shot.event for shot in script.events if shot.event]
    assert len(events) == len({e.shape for e in events}) == len({e.color for e in events}) == 4
    times = sampled_times(script)
    for shot in script.events:
        assert 1 <= sum(shot.start <= t < shot.end for t in times) <= 6


@each_script
def test_events_stand_between_two_context_shots_in_other_places(script: Script) -> None:
    for index, shot in enumerate(script.shots):
        if shot.event is not None:
            before, after = script.shots[index - 1], script.shots[index + 1]
            assert index > 0
            assert before.event is None
            assert after.event is None
            assert shot.place not in (before.place, after.place)
    assert len({shot.place for shot in script.shots}) <= 5


def test_only_the_favoured_place_comes_twice_in_a_row() -> None:
    for script in SCRIPTS:
        assert len({a.place for a, b in pairwise(script.shots) if a.place == b.place}) <= 1


@each_script
def test_clutter_never_shows_the_shape_of_an_event(script: Script) -> None:
    asked = {shot.event.shape for shot in script.events if shot.event}
    for shot in script.shots:
        assert asked.isdisjoint(sprite.shape for sprite in shot.clutter)
        assert 5 <= len(shot.clutter) + (shot.event is not None) <= 8


@each_script
def test_sprites_are_of_one_size_range_and_stay_in_the_frame(script: Script) -> None:
    for shot in script.shots:
        for sprite in (*shot.clutter, *([shot.event] if shot.event else [])):
            assert 16 <= sprite.size <= 22
            for passed in (0.0, shot.end - shot.start):
                x, y = sprite.x + sprite.dx * passed, sprite.y + sprite.dy * passed
                assert sprite.size / 2 <= min(x, y)
                assert max(x, y) <= SIZE - sprite.size / 2


def test_a_third_of_the_clutter_is_decoys_and_every_name_occurs() -> None:
    shots = [shot for script in SCRIPTS for shot in script.shots]
    clutter = [sprite for shot in shots for sprite in shot.clutter]
    assert np.mean([sprite.shape in DECOYS for sprite in clutter]) == pytest.approx(1 / 3, abs=0.03)
    assert {sprite.shape for sprite in clutter} == {*GLYPHS, *DECOYS}
    assert {sprite.color for sprite in clutter} == set(COLORS)
    assert {shot.place for shot in shots} == set(PLACES)


def test_sampled_times_follow_the_frame_rule() -> None:
    # stride rounded half to even; above the limit, linspace truncated to whole frames
    by_fps = {script.fps: script for script in SCRIPTS if script.duration < 100}
    assert sampled_times(by_fps[2.5])[:3] == [0.0, 0.8, 1.6]
    assert sampled_times(by_fps[4.0])[:3] == [0.0, 1.0, 2.0]
    long = next(s for s in SCRIPTS if s.duration / s.step > 128)
    last = long.num_frames - 1
    assert sampled_times(long) == [int(last * i / 127 + 1e-9) / long.fps for i in range(128)]


def test_the_shot_on_screen_changes_exactly_at_its_start() -> None:
    script = write_script(3)
    for shot in script.shots[1:]:
        frame = round(shot.start * script.fps)
        assert script.shot_at(frame / script.fps) is shot
        assert script.shot_at((frame - 1) / script.fps) is not shot
    assert script.shot_at(script.duration + 5) is script.shots[-1]


def test_wrong_arguments_name_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="no split named 'tset'; available: train, val, test"):
        write_script(0, "tset")
    with pytest.raises(ValueError, match="a seed must be 0 or more, got -1"):
        write_script(-1)
