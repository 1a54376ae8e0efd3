"""Each wanted frame comes out, and no other, whatever the codec, container and decoder."""

import logging
import pickle
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from lmms_kvtp.video.decord import objection
from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.index import read_index
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.open import AutoReader, open_reader, warn_once
from lmms_kvtp.video.pyav import DamagedError, PyAVReader
from lmms_kvtp.video.sampling import FrameOptions

QUIET = "log-level=none:pools=1:frame-threads=1"
GAPS = np.cumsum(np.random.default_rng(1).integers(1, 9, 50)).tolist()
RIGHT_IN_DECORD: dict[str, dict[str, Any]] = {
    "h264": {},
    "mkv": {"name": "clip.mkv"},
    "fragmented": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "one_group": {"options": {"x264-params": "keyint=300:scenecut=0:bframes=5:b-pyramid=normal"}},
    "all_key": {"options": {"x264-params": "keyint=1"}},
    "groups_of_two": {"options": {"x264-params": "keyint=2:bframes=1:scenecut=0"}},
    "interlaced": {"options": {"x264-params": "tff=1"}},
    "odd_size": {"size": (97, 63), "pix_fmt": "yuv444p"},
    "ten_bit": {"pix_fmt": "yuv420p10le"},
    "uneven_times": {"stamps": GAPS},
    "uneven_times_mkv": {"name": "clip.mkv", "stamps": GAPS},
    "late_start": {"stamps": list(range(17, 67))},
    "hevc_closed": {"codec": "libx265", "options": {"x265-params": f"{QUIET}:open-gop=0"}},
    "vp9": {"name": "clip.webm", "codec": "libvpx-vp9"},
    "mpeg4": {"codec": "mpeg4", "options": {"bf": "0"}},
    "one_frame": {"num_frames": 1},
    "two_frames": {"num_frames": 2},
}
WRONG_IN_DECORD: dict[str, dict[str, Any]] = {
    "open_groups": {"options": {"x264-params": "open-gop=1:min-keyint=12:scenecut=0:bframes=4"}},
    "gradual_refresh": {"options": {"x264-params": "intra-refresh=1:keyint=20:bframes=0:scenecut=0"}},
    "hevc_open": {"codec": "libx265", "options": {"x265-params": QUIET}},
    "mpeg4_b_frames": {"codec": "mpeg4", "options": {"bf": "2"}},
    "hidden_frames": {"stamps": list(range(-17, 33))},
    "avi": {"name": "clip.avi"},
    "ts": {"name": "clip.ts"},
    "asf": {"name": "clip.asf"},
    "mpeg2": {"name": "clip.mpg", "codec": "mpeg2video", "rate": 25.0, "options": {"bf": "2"}},
}
REFUSED_BY_DECORD: dict[str, dict[str, Any]] = {
    "av1": {"codec": "libsvtav1", "options": {"svtav1-params": "lp=1", "preset": "12"}},
    "narrow": {"size": (16, 24)},
}
ALL = RIGHT_IN_DECORD | WRONG_IN_DECORD | REFUSED_BY_DECORD
OBJECTIONS = {
    "avi": "after a seek in avi",
    "ts": "after a seek in mpegts",
    "asf": "after a seek in asf files",
    "mpeg2": "after a seek in mpeg files",
}


def some(num_frames: int, seed: int) -> list[int]:
    count = (1, 5, 9, 30)[seed % 4]
    chosen = np.random.default_rng(seed).choice(num_frames, min(num_frames, count), replace=False)
    return sorted(chosen.tolist())


def read(path, wanted, **settings) -> torch.Tensor:
    reader = open_reader(read_index(str(path)), wanted, FrameOptions(**settings))
    parts = [reader.read(wanted[start : start + 4]) for start in range(0, len(wanted), 4)]
    reader.close()
    return torch.cat(parts)


@pytest.mark.parametrize("backend", ["auto", "pyav"])
@pytest.mark.parametrize("name", ALL)
def test_wanted_frames_come_out_and_no_others(clip, numbers, name, backend):
    path = clip(**ALL[name])
    index = read_index(str(path))
    first = 17 if name == "hidden_frames" else 0
    assert index.num_frames == ALL[name].get("num_frames", 50) - first
    for seed in range(6):
        wanted = some(index.num_frames, seed)
        shown = numbers(read(path, wanted, backend=backend, num_threads=seed % 3))
        assert [number - first for number in shown] == wanted, f"seed {seed}"


@pytest.mark.parametrize("name", RIGHT_IN_DECORD)
def test_decord_reads_what_it_reads_right(clip, numbers, name):
    path = clip(**RIGHT_IN_DECORD[name])
    wanted = some(read_index(str(path)).num_frames, 3)
    assert numbers(read(path, wanted, backend="decord")) == wanted


@pytest.mark.parametrize("name", WRONG_IN_DECORD)
def test_decord_is_refused_where_it_would_give_wrong_frames(clip, numbers, name):
    import decord

    path = clip(**WRONG_IN_DECORD[name])
    reason = OBJECTIONS.get(name, "frames that are hidden, or reach across key frames")
    with pytest.raises(VideoError, match=f"{path}.*{reason}.*set video_decode_backend=auto"):
        read(path, [0], backend="decord")
    first = 17 if name == "hidden_frames" else 0
    results = []
    for seed in range(12):
        wanted = some(read_index(str(path)).num_frames, seed)
        shown = numbers(torch.from_numpy(decord.VideoReader(str(path), num_threads=1).get_batch(wanted).asnumpy()))
        results.append([number - first for number in shown] == wanted)
    assert not all(results), "decord reads this right by now: drop the objection"


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("color", [None, (1, 5), (1, 1), (2, 1), (2, 5), (2, 2), (1, 9)])  # range, matrix
def test_decord_and_pyav_give_equal_pixels(clip, pix_fmt, color):
    path = clip(num_frames=5, pix_fmt=pix_fmt, color=color)
    ours = read(path, [0, 3, 4], backend="pyav")
    assert ours.float().std() > 20
    torch.testing.assert_close(ours, read(path, [0, 3, 4], backend="decord"), rtol=0, atol=0)


@pytest.mark.parametrize(("degrees", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_rotated_videos_come_out_upright_from_both(clip, tmp_path, degrees, matrix):
    path = tmp_path / "turned.mp4"
    shutil.copy(clip(num_frames=4), path)
    upright = read(path, [3], backend="pyav")
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[start + place : start + place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    turned = torch.rot90(upright, -degrees // 90, dims=(1, 2))
    for backend in ("decord", "pyav"):
        torch.testing.assert_close(read(path, [3], backend=backend), turned, rtol=0, atol=0)


def test_pyav_is_loaded_before_decord_whose_codecs_would_replace_its_own(clip):
    code = (
        "import sys; from lmms_kvtp.video.load import load_video\n"
        "from lmms_kvtp.video.sampling import FrameOptions\n"
        f"list(load_video({str(clip())!r}, FrameOptions(backend='decord')).chunks()); names = list(sys.modules)\n"
        "assert names.index('av') < names.index('decord')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def warnings(caplog):
    warn_once.cache_clear()
    caplog.set_level(logging.INFO, logger="lmms_kvtp.video.open")
    return lambda level: [record.getMessage() for record in caplog.records if record.levelno == level]


EVERY = list(range(50))


def test_decord_reads_on_where_pyav_finds_damage(damaged, warnings):
    path = damaged()
    for _ in range(3):
        assert torch.equal(read(path, EVERY), read(path, EVERY, backend="decord"))
    assert len(warnings(logging.WARNING)) == 1
    assert "damaged" in warnings(logging.WARNING)[0]
    assert [message.count(str(path)) for message in warnings(logging.INFO)] == [1, 1, 1]


@pytest.mark.parametrize("step", [1, 4, 50])
def test_frames_that_decord_patches_are_counted(damaged, step):
    path = str(damaged())
    wrong = sum(_is_damaged(path, number) for number in EVERY)
    assert 0 < wrong < 50
    video = load_video(path, FrameOptions(max_frames_num=50, force_sample=True, chunk_size=step))
    chunks = [(chunk.patched, chunk.seen(torch.zeros(1, 1, 1)).patched) for chunk in video.chunks()]
    assert sum(patched for patched, _ in chunks) == wrong
    assert all(patched == seen <= step for patched, seen in chunks)


def _is_damaged(path, number):
    reader = PyAVReader(read_index(path), [number], 1)
    try:
        reader.read([number])
    except DamagedError:
        return True
    finally:
        reader.close()
    return False


def test_damage_is_an_error_where_decord_reads_wrong_frames(damaged, warnings):
    path = damaged("clip.avi")
    with pytest.raises(DamagedError, match="damaged"):
        read(path, EVERY)
    assert warnings(logging.WARNING) == []
    assert any("after a seek in avi" in told for told in warnings(logging.INFO))


def test_decord_is_not_asked_for_missing_frames(clip):
    def missing(indices):
        raise VideoError("frame 3 is missing")

    reader = AutoReader(read_index(str(clip())), [3], 1, lambda: pytest.fail("it was asked"))
    reader._reader.read = missing
    with pytest.raises(VideoError, match="missing"):
        reader.read([3])
    reader.close()


def test_an_error_survives_the_way_from_another_process(clip):
    with pytest.raises(VideoError) as caught:
        read(clip(name="clip.avi"), [3], backend="decord")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (type(caught.value), str(caught.value))


@pytest.mark.parametrize("name", ["h264", "avi", "narrow"])
def test_sound_files_need_no_decord(clip, numbers, warnings, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "decord", None)
    assert numbers(read(clip(**ALL[name]), [5, 13])) == [5, 13]
    assert warnings(logging.WARNING) == []
    with pytest.raises(VideoError, match=r"set video_decode_backend=auto"):
        read(clip(**ALL[name]), [5], backend="decord")


def test_a_damaged_file_is_an_error_where_decord_is_not_installed(damaged, monkeypatch):
    path = damaged()
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(DamagedError, match="damaged"):
        read(path, EVERY)


ABORTS = """
import os


class VideoReader:
    def __init__(self, *_, **__):
        os.abort()
"""


def test_a_damaged_file_on_which_decord_aborts_is_an_error(damaged, warnings, monkeypatch, tmp_path):
    path = damaged()
    (tmp_path / "decord.py").write_text(ABORTS)  # for new processes: this one has the real decord
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DamagedError, match="damaged"):
        read(path, EVERY)
    assert "it ends its process (signal 6)" in warnings(logging.INFO)[-1]


def test_decord_says_that_it_fails(clip):
    path = clip(**REFUSED_BY_DECORD["narrow"])
    assert objection(read_index(str(path))) is None
    with pytest.raises(VideoError, match=r"fails to decode it.*set video_decode_backend=auto"):
        read(path, [5, 13], backend="decord")


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_repeated_frames_are_copies(clip, numbers, backend):
    assert numbers(read(clip(), [2, 2, 2, 2, 2, 7, 7], backend=backend)) == [2, 2, 2, 2, 2, 7, 7]
