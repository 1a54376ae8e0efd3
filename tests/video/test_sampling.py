import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qwen_vl_utils.vision_process import smart_nframes
from transformers import InternVLVideoProcessor
from transformers.video_utils import VideoMetadata

from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.sampling import FrameOptions, sample, time_instruction

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "frame_sampling.json").read_text())
RATES = st.one_of(st.sampled_from([0.4, 0.5, 0.8, 1.5, 2.5, 12.5, 24000 / 1001, 25.0, 29.97]), st.floats(0.1, 240))


@pytest.mark.parametrize("case", GOLDENS, ids=[f"case{number}" for number in range(len(GOLDENS))])
def test_the_reference_chooses_the_same_frames(case):
    options = FrameOptions(case["max_frames_num"], float(case["fps"]), case["force_sample"])
    if "error" in case:
        with pytest.raises(VideoError, match="rounds to 0"):
            sample(case["total_frames"], case["avg_fps"], options)
        return
    indices, times = sample(case["total_frames"], case["avg_fps"], options)
    assert indices.tolist() == case["frame_idx"]
    assert ",".join(f"{time:.2f}s" for time in times.tolist()) == case["frame_time"]
    duration = case["total_frames"] / case["avg_fps"]
    assert duration == case["video_time"]
    sentence = time_instruction(times.tolist(), duration)
    assert f"lasts for {case['video_time']:.2f} seconds, and {len(indices)} frames" in sentence
    assert f" located at {case['frame_time']}.Please" in sentence


def slowly(num_frames: int, avg_fps: float, limit: int, fps: float, force: bool) -> tuple[list[int], list[float]]:
    step, chosen = round(avg_fps / fps), []
    index = 0
    while not force and index < num_frames:
        chosen.append(index)
        index += step
    if not force and len(chosen) <= limit:
        return chosen, [index / step for index in chosen]
    gap = (num_frames - 1) / (limit - 1) if limit > 1 else 0
    spread = [int(place * gap) for place in range(limit)]
    if limit > 1:
        spread[-1] = num_frames - 1
    return spread, [index / avg_fps for index in spread]


@given(
    num_frames=st.integers(1, 5000),
    avg_fps=RATES,
    limit=st.integers(1, 200),
    fps=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    force=st.booleans(),
)
def test_frames_are_those_of_a_slow_reading_of_the_rule(num_frames, avg_fps, limit, fps, force):
    options = FrameOptions(max_frames_num=limit, fps=fps, force_sample=force)
    if round(avg_fps / fps) == 0 and not force:
        with pytest.raises(VideoError, match="force_sample=true"):
            sample(num_frames, avg_fps, options)
        return
    indices, times = sample(num_frames, avg_fps, options)
    assert (indices.tolist(), times.tolist()) == slowly(num_frames, avg_fps, limit, fps, force)
    assert indices.tolist() == sorted(indices.tolist())
    assert 0 <= indices.min() <= indices.max() < num_frames


def test_a_video_below_half_the_rate_names_rates_and_ways_out():
    with pytest.raises(VideoError, match=r"0\.4 frames .* fps=1 .* force_sample=true, or fps below 0\.8"):
        sample(64, 0.4, FrameOptions())
    indices, _ = sample(64, 0.4, FrameOptions(fps=0.79))
    assert indices.tolist() == list(range(64))
    indices, times = sample(64, 0.4, FrameOptions(max_frames_num=3, force_sample=True))
    assert (indices.tolist(), times.tolist()) == ([0, 31, 63], [0.0, 77.5, 157.5])


@pytest.mark.parametrize(("num_frames", "avg_fps"), [(0, 30.0), (5, 0.0), (5, float("nan")), (5, float("inf"))])
def test_no_frames_or_no_rate_is_an_error(num_frames, avg_fps):
    with pytest.raises(VideoError, match="no frames to sample" if num_frames == 0 else "no frame rate"):
        sample(num_frames, avg_fps, FrameOptions())


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_frames_num", 0), ("chunk_size", 0), ("fps", 0.0), ("fps", float("nan")), ("num_threads", -1)],
)
def test_settings_that_ask_for_nothing_are_refused_by_name_and_value(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        FrameOptions(**{field: value})


def test_the_time_instruction_is_the_sentence_of_the_training_data():
    assert time_instruction([0.0, 1.5], 3.004) == (
        "The video lasts for 3.00 seconds, and 2 frames are uniformly sampled from it. These frames are located at "
        "0.00s,1.50s.Please answer the following questions related to this video."
    )


@given(num_frames=st.integers(2, 5000), avg_fps=RATES, most=st.integers(2, 200), fps=st.sampled_from([None, 0.5, 2.0]))
def test_qwen_sees_the_frames_of_its_own_utilities(num_frames, avg_fps, most, fps):
    for rule in ("qwen2_5_vl", "qwen3_vl"):
        asked = {"nframes": most if rule == "qwen3_vl" else max(2, min(most, num_frames) // 2 * 2)}
        if fps is not None:
            asked = {"fps": fps} | ({"max_frames": most} if rule == "qwen3_vl" else {})
        try:
            count = smart_nframes(asked, num_frames, avg_fps)
        except ValueError:  # theirs has no answer where `max_frames` is too few, or `nframes` too many
            continue
        indices, times = sample(num_frames, avg_fps, FrameOptions(most, fps, rule=rule))
        assert indices.tolist() == torch.linspace(0, num_frames - 1, count).round().long().tolist()
        assert times.tolist() == [index / avg_fps for index in indices.tolist()]


@given(num_frames=st.integers(1, 5000), most=st.integers(1, 200))
def test_internvl_sees_the_frames_of_its_own_processor(num_frames, most):
    chosen, _ = sample(num_frames, 25.0, FrameOptions(most, None, rule="internvl"))
    told = VideoMetadata(total_num_frames=num_frames, fps=25.0)
    own = InternVLVideoProcessor().sample_frames(told, num_frames=min(most, num_frames), initial_shift=True)
    assert chosen.tolist() == own.tolist()


def test_what_another_rule_has_no_word_for_is_refused():
    with pytest.raises(ValueError, match="fps=none: LLaVA-Video's rule"):
        FrameOptions(fps=None)
    with pytest.raises(ValueError, match="qwen3_vl has none"):
        FrameOptions(rule="qwen3_vl", force_sample=True)
    with pytest.raises(ValueError, match=r"fps=1\.0: the stock wrapper of InternVL ignores it"):
        FrameOptions(rule="internvl")
    with pytest.raises(VideoError, match="1 frame, and a step of this model is 2"):
        sample(1, 25.0, FrameOptions(rule="qwen3_vl", fps=None))


@given(
    num_frames=st.integers(1, 3000),
    avg_fps=RATES,
    limit=st.integers(1, 200),
    phase=st.floats(0, 0.999),
    force=st.booleans(),
)
def test_a_phase_moves_every_frame_by_its_share_of_the_step(num_frames, avg_fps, limit, phase, force):
    plain = FrameOptions(max_frames_num=limit, fps=0.1, force_sample=force)
    first, _ = sample(num_frames, avg_fps, plain)
    moved, times = sample(num_frames, avg_fps, replace(plain, phase=phase))
    assert 0 < len(moved) <= len(first) and moved.max() < num_frames and (moved.diff() >= 0).all()
    stride = round(avg_fps / 0.1)
    strided = not force and len(range(0, num_frames, stride)) <= limit
    step = stride if strided else (num_frames - 1) / max(1, limit - 1)
    for number, index in enumerate(moved.tolist()):
        place = number * step + (int(phase * stride) if strided else phase * step)
        assert index == min(num_frames - 1, place) or abs(index - place) <= 1
    assert float(times[0]) == int(moved[0]) / (stride if strided else avg_fps)


@pytest.mark.parametrize("phase", [-0.1, 1.0, float("nan")])
def test_a_phase_outside_a_step_is_refused(phase):
    with pytest.raises(ValueError, match=r"phase=\S+ is not in \[0, 1\); give a share of the step"):
        FrameOptions(phase=phase)


def test_other_rules_have_no_phase():
    with pytest.raises(ValueError, match="phase are LLaVA-Video's; qwen3_vl has none"):
        FrameOptions(rule="qwen3_vl", phase=0.5)
