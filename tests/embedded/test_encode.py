"""The files are real H.264, read alike by both decoders, and look like the drawings."""

import io
from pathlib import Path

import av
import decord
import numpy as np
import numpy.typing as npt
import pytest

from lmms_kvtp.embedded.draw import draw
from lmms_kvtp.embedded.encode import encode, encode_bytes, write_whole
from lmms_kvtp.embedded.script import Script, sampled_times, write_script

Frames = npt.NDArray[np.uint8]


def with_rate(fps: float) -> Script:
    scripts = (write_script(seed, "train") for seed in range(60))
    return next(script for script in scripts if script.fps == fps and script.duration < 100)


@pytest.fixture(scope="module", params=[1.0, 2.5, 4.0])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Script, Path]:
    script = with_rate(request.param)
    path = tmp_path_factory.mktemp("videos") / f"{script.key}.mp4"
    encode(script, path)
    return script, path


def by_av(path: Path) -> Frames:
    frames = []
    with av.open(str(path)) as container:
        frames += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


def test_both_decoders_read_all_frames_at_the_right_rate(pair: tuple[Script, Path]) -> None:
    script, path = pair
    reader = decord.VideoReader(str(path))
    assert len(reader) == script.num_frames
    assert reader.get_avg_fps() == pytest.approx(script.fps, rel=1e-6)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate or 0) == pytest.approx(script.fps, rel=1e-6)
        assert stream.duration is not None
        assert stream.time_base is not None
        assert float(stream.duration * stream.time_base) == pytest.approx(script.duration, abs=0.01)


def test_both_decoders_see_the_same_pictures_in_order(pair: tuple[Script, Path]) -> None:
    script, path = pair
    some = [0, 7, script.num_frames // 2, script.num_frames - 1]
    ours = by_av(path)[some].astype(int)
    theirs = decord.VideoReader(str(path)).get_batch(some).asnumpy().astype(int)
    assert abs(ours - theirs).mean() < 2  # colour conversions round differently


def test_decoded_frames_look_like_the_drawings(pair: tuple[Script, Path]) -> None:
    script, path = pair
    decoded = by_av(path)
    indices = [round(time * script.fps) for time in sampled_times(script)]
    drawn = np.stack([draw(script.shot_at(i / script.fps), i / script.fps) for i in indices])
    errors = abs(decoded[indices].astype(int) - drawn.astype(int)).mean((1, 2, 3))
    assert 0.5 < errors.mean() < 7  # lossy, as real videos are
    assert errors.max() < 15  # a frame off by one at a cut would be far above


def test_encoding_is_repeatable() -> None:
    script = with_rate(2.0)
    assert len({encode_bytes(script) for _ in range(4)}) == 1


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    write_whole(path, b"old")

    def refuse(source: str, target: object) -> None:
        assert Path(source).match(".clip.*.part")  # what the cache sweeps after a crash
        raise OSError("disk on fire")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk on fire"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_video_stays_small() -> None:
    content = encode_bytes(with_rate(2.5))
    assert 20_000 < len(content) < 300_000
    with av.open(io.BytesIO(content)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (96, 96)
