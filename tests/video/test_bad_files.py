"""Files that cannot be read: each is an error that names the file, the cause and the way out."""

import pickle
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions

BACKENDS = pytest.mark.parametrize("backend", ["auto", "decord", "pyav"])
FRONT = {"movflags": "faststart"}


def refuses(path: Path, cause: str, backend: str = "auto") -> None:
    options = FrameOptions(max_frames_num=40, force_sample=True, backend=backend)
    with pytest.raises(VideoError, match=f"video {path}: .*{cause}"):
        list(load_video(path, options).chunks())


@pytest.fixture
def copy(tmp_path):
    """A copy of a clip, changed."""

    def make(clip: Path, change) -> Path:
        path = tmp_path / clip.name
        path.write_bytes(change(clip.read_bytes()))
        return path

    return make


def media(data: bytes) -> tuple[int, int]:
    """First byte and length of the frames in an mp4 file."""
    start = data.index(b"mdat") + 4
    return start, int.from_bytes(data[start - 8 : start - 4], "big") - 8


def write_sound(path: Path, cover: bool = False) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3" if path.suffix == ".mp3" else "aac", rate=44100)
        if cover:
            picture = container.add_stream("png", rate=1)
            picture.width, picture.height, picture.pix_fmt = 32, 24, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic.value
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8), format="rgb24")))
        tone = np.zeros((1, 1152), dtype=np.float32)
        for number in range(9):
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, number * 1152
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_missing_file(tmp_path):
    refuses(tmp_path / "none.mp4", "No such file.*check the path")


def test_a_folder(tmp_path):
    refuses(tmp_path, "it is a folder without image files")


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.mp4").touch()
    refuses(tmp_path / "empty.mp4", "the file is empty; replace")


def test_a_name_that_would_command_a_terminal(tmp_path):
    name = "\x1b]0;title\x07.mp4"
    (tmp_path / name).touch()
    with pytest.raises(VideoError, match=r"\\x1b\]0;title\\x07\.mp4: the file is empty") as caught:
        load_video(tmp_path / name, FrameOptions())
    copy = pickle.loads(pickle.dumps(caught.value))  # it comes from another process
    assert str(copy) == str(caught.value) and not set(str(copy)) & {"\x1b", "\x07"}


@pytest.mark.parametrize("content", [b"x", b"not a video " * 99, bytes(3000)])
def test_a_file_of_something_else(tmp_path, content):
    (tmp_path / "other.mp4").write_bytes(content)
    refuses(tmp_path / "other.mp4", "Invalid data.*on_error=skip")


def test_a_file_of_sound_alone(tmp_path):
    write_sound(tmp_path / "sound.mp4")
    refuses(tmp_path / "sound.mp4", "there is no video stream in it")


def test_a_song_with_a_picture_of_its_cover(tmp_path):
    write_sound(tmp_path / "song.mp3", cover=True)
    refuses(tmp_path / "song.mp3", "there is no video stream in it")


@pytest.mark.parametrize(
    ("name", "cause"), [("none.avi", "it has no frames"), ("none.mp4", "no video stream"), ("none.mkv", "End of file")]
)
def test_a_video_of_no_frames(tmp_path, name, cause):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.start_encoding()
    refuses(tmp_path / name, f"{cause}.*on_error=skip")


@BACKENDS
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_an_mp4_cut_before_its_index(clip, copy, share, backend):
    path = copy(clip(), lambda data: data[: int(len(data) * share)])
    refuses(path, "cut off|Invalid data", backend)


@BACKENDS
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_an_mp4_cut_after_its_index(clip, copy, share, backend):
    def cut(data: bytes) -> bytes:
        start, length = media(data)
        return data[: start + int(length * share)]

    path = copy(clip(muxer=FRONT), cut)
    refuses(path, r"the file is cut off, \d+ bytes are missing; replace", backend)


@BACKENDS
def test_an_mp4_cut_off_that_does_not_say_how_long_it_is(clip, copy, backend):
    def cut(data: bytes) -> bytes:
        start, length = media(data)
        return data[: start - 8] + bytes(4) + b"mdat" + data[start : start + length // 2]

    path = copy(clip(muxer=FRONT), cut)
    refuses(path, "it is cut off or damaged", backend)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.webm", "clip.avi"])
def test_other_files_cut_off(clip, copy, name):
    codec = {"clip.mkv": "libx264", "clip.webm": "libvpx-vp9", "clip.avi": "mpeg4"}[name]
    path = copy(clip(name, codec=codec), lambda data: data[: len(data) // 2])
    refuses(path, r"the file is cut off, \d+ bytes are missing")


@BACKENDS
@pytest.mark.parametrize("filling", ["zeros", "noise"])
def test_frames_that_are_not_there_are_an_error_and_not_copies_of_others(clip, copy, filling, backend):
    def damage(data: bytes) -> bytes:
        start, length = media(data)
        noise = np.random.default_rng(7).bytes(length // 3)
        middle = bytes(length // 3) if filling == "zeros" else noise
        return data[: start + length // 3] + middle + data[start + length // 3 + len(middle) :]

    path = copy(clip(), damage)
    refuses(path, "cannot open|fails to decode|missing|damaged", backend)


def test_decord_may_not_put_copies_in_the_place_of_lost_frames(clip, copy):
    with av.open(str(clip())) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    found = 0
    for start in starts[3:12]:

        def lose(data: bytes, start: int = start) -> bytes:
            changed = bytearray(data)
            changed[start + 6] ^= 1 << 4  # in the header of the slice; decord finds 49 frames and hands out 50
            return bytes(changed)

        options = FrameOptions(max_frames_num=50, force_sample=True, backend="decord")
        try:
            list(load_video(copy(clip(), lose), options).chunks())
        except VideoError as error:
            found += "recovered from nearest frames" in str(error)
    assert found >= 2


def test_pyav_refuses_frames_that_the_codec_patched_up(clip, copy):
    found = 0
    for place in range(200, 2000, 150):

        def flip(data: bytes, place: int = place) -> bytes:
            start, length = media(data)
            flipped = bytearray(data)
            flipped[start + length * place // 2000] ^= 0x10
            return bytes(flipped)

        path = copy(clip(), flip)
        try:
            list(load_video(path, FrameOptions(max_frames_num=50, force_sample=True, backend="pyav")).chunks())
        except VideoError as error:
            found += "damaged" in str(error) or "missing" in str(error)
    assert found >= 6  # of 12; the others change pixels alone, and which do depends on the threads of the encoder


def test_a_name_that_is_not_ascii(clip, tmp_path, numbers):
    path = tmp_path / "видео - 1 #x%20.mp4"
    shutil.copy(clip(), path)
    for backend in ("decord", "pyav"):
        [chunk] = load_video(path, FrameOptions(backend=backend)).chunks()
        assert numbers(chunk.rgb) == [0, 10, 20, 30, 40]
