"""Videos from files and from frames: what they say of themselves, and how their frames come."""

import gc
import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmms_kvtp.video.frames import Video, VideoError
from lmms_kvtp.video.index import read_index
from lmms_kvtp.video.load import load_video, to_videos, video_from_frames
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.video.pyav import PyAVReader
from lmms_kvtp.video.sampling import FrameOptions


def shown(video, numbers):
    return [number for frames in video.chunks() for number in numbers(frames.rgb)]


def open_files():
    """Videos that this process has open; other files come and go."""
    links = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(link).endswith(".mp4") for link in links)


def test_a_video_knows_its_frames_before_any_is_decoded(clip, numbers):
    video = load_video(clip(num_frames=47, rate=5.0))
    assert isinstance(video, Video)
    assert video.indices.tolist() == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]
    assert video.times.tolist() == [0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert video.times.dtype == torch.float32
    assert video.duration == 47 / 5
    assert video.instruction == ""
    assert shown(video, numbers) == video.indices.tolist()


@pytest.mark.parametrize(("fps", "wanted", "most"), [(0.25, 10, 20), (1.0, 40, 200), (10.0, 400, 400)])
def test_what_fps_does_not_ask_for_is_not_decoded(clip, monkeypatch, fps, wanted, most):
    path = clip(num_frames=400, rate=10.0, options={"x264-params": "keyint=20:scenecut=0:bframes=2"})
    decoded, decode = [], PyAVReader._decode

    def counted(reader, after_seek=False):
        for found in decode(reader, after_seek):
            decoded.append(found[0])
            yield found

    monkeypatch.setattr(PyAVReader, "_decode", counted)
    video = load_video(path, FrameOptions(fps=fps, max_frames_num=400))
    assert sum(len(chunk.times) for chunk in video.chunks()) == wanted
    assert wanted <= len(decoded) <= most


def test_the_key_is_the_name_without_folder_and_extension(clip):
    path = clip("some.clip.mkv")
    assert load_video(path).key == "some.clip"
    assert load_video(str(path)).source == str(path)


def test_chunks_are_bounded_and_carry_their_times(clip, numbers):
    video = load_video(clip(), FrameOptions(max_frames_num=7, force_sample=True, chunk_size=3))
    chunks = list(video.chunks())
    assert [numbers(chunk.rgb) for chunk in chunks] == [[0, 8, 16], [24, 32, 40], [49]]
    assert [chunk.rgb.shape for chunk in chunks] == [(3, 64, 96, 3), (3, 64, 96, 3), (1, 64, 96, 3)]
    assert torch.cat([chunk.times for chunk in chunks]).tolist() == pytest.approx([0, 0.8, 1.6, 2.4, 3.2, 4.0, 4.9])


def test_chunks_start_from_the_beginning_each_time(clip, numbers):
    video = load_video(clip(), FrameOptions(chunk_size=2))
    begun = video.chunks()
    next(begun)
    assert shown(video, numbers) == [0, 10, 20, 30, 40]
    assert numbers(next(begun).rgb) == [20, 30]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's list of open files")
@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_files_are_closed_when_the_last_chunk_is_out_or_nobody_wants_more(clip, backend):
    options = FrameOptions(chunk_size=2, backend=backend)
    list(load_video(clip(), options).chunks())
    before = open_files()
    videos = [load_video(clip(), options) for _ in range(5)]
    for video in videos:
        list(video.chunks())
        begun = video.chunks()
        next(begun)
        begun.close()
    assert open_files() == before


@pytest.mark.parametrize("asked", [{}, {"preprocess": "exact"}, {"preprocess": "fast"}])
def test_frames_are_resized_exactly_unless_a_run_asks_for_speed(clip, asked, monkeypatch):
    ways, resize = [], ResizedPixels.resize
    monkeypatch.setattr(ResizedPixels, "resize", lambda spec, rgb, fast: ways.append(fast) or resize(spec, rgb, fast))
    [frames] = load_video(clip(), FrameOptions(max_frames_num=3, force_sample=True, **asked)).chunks()
    frames.resized(ResizedPixels((14, 10)))
    assert ways == ["fast" in asked.values()]


def test_a_video_can_be_sent_to_another_process(clip, numbers):
    video = load_video(clip(), FrameOptions(chunk_size=2))
    assert shown(pickle.loads(pickle.dumps(video)), numbers) == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(("num_frames", "rate"), [(1, 10.0), (3, 10.0), (2, 0.6)])
def test_short_videos_give_what_they_have(clip, numbers, num_frames, rate):
    video = load_video(clip(num_frames=num_frames, rate=rate))
    assert shown(video, numbers) == ([0] if rate == 10.0 else [0, 1])
    assert video.duration == pytest.approx(num_frames / rate)


def test_frames_of_uneven_times_are_counted_by_the_mean_rate_and_have_their_own_seconds(clip, numbers):
    stamps = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75]
    video = load_video(clip(num_frames=20, stamps=stamps))
    assert video.indices.tolist() == list(range(0, 20, round(20 / video.duration)))
    assert shown(video, numbers) == video.indices.tolist()
    assert video.duration == pytest.approx(7.5 * 20 / 19)
    assert video.times.tolist() == pytest.approx([stamps[index] / 10 for index in video.indices])


def test_a_slow_video_names_its_file_and_the_way_out(clip, numbers):
    path = clip(num_frames=5, rate=0.4)
    with pytest.raises(VideoError, match=rf"cannot sample video {path}: 0\.4 frames .* force_sample=true"):
        load_video(path)
    assert shown(load_video(path, FrameOptions(max_frames_num=3, force_sample=True)), numbers) == [0, 2, 4]


def test_the_time_instruction_tells_length_and_seconds(clip):
    options = FrameOptions(max_frames_num=3, add_time_instruction=True)
    assert load_video(clip(), options).instruction == (
        "The video lasts for 5.00 seconds, and 3 frames are uniformly sampled from it. These frames are located at "
        "0.00s,2.40s,4.90s.Please answer the following questions related to this video."
    )


def test_importing_loads_no_decoder():
    code = "import lmms_kvtp.video.load, sys; print(sorted({'av', 'decord'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


PIXELS = np.random.default_rng(3).integers(0, 256, (5, 7, 11, 3), dtype=np.uint8)


def as_files(folder):
    for number, picture in enumerate(PIXELS):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(len(PIXELS))]


@pytest.mark.parametrize("kind", ["tensor", "array", "images", "files", "names"])
def test_frames_from_memory_come_unchanged(kind, tmp_path):
    frames = {
        "tensor": lambda: torch.from_numpy(PIXELS),
        "array": lambda: PIXELS,
        "images": lambda: [Image.fromarray(picture) for picture in PIXELS],
        "files": lambda: as_files(tmp_path),
        "names": lambda: [str(path) for path in as_files(tmp_path)],
    }[kind]()
    video = video_from_frames(frames, "mine", fps=2.0, options=FrameOptions(chunk_size=2, fps=2.0))
    assert isinstance(video, Video)
    assert [len(chunk.rgb) for chunk in video.chunks()] == [2, 2, 1]
    assert torch.cat([chunk.rgb for chunk in video.chunks()]).equal(torch.from_numpy(PIXELS))
    assert video.times.tolist() == [0.0, 1, 2, 3, 4]  # index / stride, as for files
    assert (video.source, video.key, video.duration) == ("mine", "mine", 2.5)


def test_all_frames_from_memory_are_taken_unless_options_choose():
    assert video_from_frames(PIXELS, "mine", fps=4.0).indices.tolist() == [0, 1, 2, 3, 4]
    assert video_from_frames(PIXELS, "mine", fps=4.0).times.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    options = FrameOptions(max_frames_num=3, force_sample=True)
    assert video_from_frames(PIXELS, "mine", options=options).indices.tolist() == [0, 2, 4]


def test_frames_may_bring_their_own_times():
    options = FrameOptions(max_frames_num=3, force_sample=True, add_time_instruction=True)
    video = video_from_frames(PIXELS, "mine", times=[0.5, 1.0, 4.0, 5.0, 8.5], options=options)
    assert video.times.tolist() == [0.5, 4.0, 8.5]
    assert video.duration == 10.5
    assert "located at 0.50s,4.00s,8.50s." in video.instruction
    with pytest.raises(ValueError, match="2 times for the 5 frames of mine"):
        video_from_frames(PIXELS, "mine", times=[0.0, 1.0])


@pytest.mark.parametrize("frames", [PIXELS[..., :2], PIXELS[0], PIXELS.astype(np.float32), torch.zeros(5, 3, 7, 11)])
def test_arrays_that_are_not_rgb_bytes_are_refused_by_kind_and_shape(frames):
    with pytest.raises(VideoError, match=r"the frames of mine are .*\(.*\); give uint8 of shape \(T, H, W, 3\)"):
        video_from_frames(frames, "mine")


@pytest.mark.parametrize("frames", [[], PIXELS[:0]])
def test_no_frames_from_memory_are_an_error(frames):
    with pytest.raises(VideoError, match="video mine has no frames"):
        video_from_frames(frames, "mine")


def test_a_bad_image_file_is_named_and_only_when_it_is_read(tmp_path):
    files = as_files(tmp_path)
    files[3].write_text("no image")
    video = video_from_frames(files, "mine", options=FrameOptions(chunk_size=2))
    chunks = video.chunks()
    next(chunks)
    with pytest.raises(VideoError, match=rf"cannot read frame 3 of mine, {files[3]}"):
        next(chunks)


@pytest.mark.parametrize("chunk_size", [1, 2, 16])
def test_images_of_several_sizes_are_resized_like_any_other_in_whatever_chunk(tmp_path, chunk_size):
    files, spec = as_files(tmp_path), ResizedPixels((6, 5))
    Image.fromarray(PIXELS[1, :, ::-1].repeat(2, axis=0)).save(files[1])
    video = video_from_frames(files, "mine", options=FrameOptions(chunk_size=chunk_size))
    chunks = list(video.chunks())
    alone = [spec.resize(torch.from_numpy(np.array(Image.open(file))[None])) for file in files]
    torch.testing.assert_close(torch.cat([chunk.resized(spec) for chunk in chunks]), torch.cat(alone), rtol=0, atol=0)
    assert torch.cat([chunk.times for chunk in chunks]).tolist() == [0, 1, 2, 3, 4]


def test_a_reader_is_gone_as_soon_as_it_is_closed(clip):
    gc.disable()
    try:
        reader = PyAVReader(read_index(str(clip())), [5, 9], 1)
        reader.read([5])
        gone = weakref.ref(reader)
        reader.close()
        del reader
        assert gone() is None
    finally:
        gc.enable()


OPTIONS = FrameOptions(max_frames_num=5)


def image(level, size=(8, 6)):
    return Image.fromarray(np.full((size[1], size[0], 3), level, dtype=np.uint8))


def levels(video):
    return [int(frame.float().mean()) for chunk in video.chunks() for frame in chunk.rgb]


def test_each_path_is_a_video(lookalike, tmp_path):
    paths = [str(lookalike.write_video(tmp_path / f"clip{n}.mp4", n, frames=8)) for n in range(2)]
    videos = to_videos(paths, "doc", OPTIONS)
    assert [video.key for video in videos] == ["clip0", "clip1"]
    assert [len(video.indices) for video in videos] == [4, 4]


def test_images_in_memory_are_the_frames_of_one_video():
    [video] = to_videos([image(10), image(20), image(30)], "three", OPTIONS)
    assert (video.key, levels(video)) == ("three", [10, 20, 30])


def test_many_images_are_thinned_out_evenly():
    [video] = to_videos([image(10 * n) for n in range(9)], "nine", OPTIONS)
    assert levels(video) == [0, 20, 40, 60, 80]


def test_a_folder_of_frames_is_one_video_in_the_order_of_names(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for name, level in {"b.png": 20, "a.png": 10, "c.PNG": 30}.items():
        image(level).save(folder / name)
    (folder / "notes.txt").write_text("no frame")
    [video] = to_videos([str(folder)], "doc", OPTIONS)
    assert (video.key, levels(video)) == ("frames/a", [10, 20, 30])


def test_frames_of_a_folder_are_numbered_not_spelled_and_three_make_a_second(tmp_path):
    folder = tmp_path / "run2"
    folder.mkdir()
    for number in (1, 2, 10, 9):
        image(number).save(folder / f"frame{number}.png")
    [video] = to_videos([str(folder)], "doc", OPTIONS)
    assert levels(video) == [1, 2, 9, 10]
    assert video.times.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_folder_without_frames_is_an_error_with_its_path(tmp_path):
    (tmp_path / "notes.txt").write_text("no frame")
    with pytest.raises(VideoError, match=f"{tmp_path}: it is a folder without image files"):
        to_videos([str(tmp_path)], "doc", OPTIONS)


def test_no_visuals_are_no_videos():
    assert to_videos([], "doc", OPTIONS) == []


@pytest.mark.parametrize(
    ("visuals", "kinds"),
    [
        (["clip.mp4", image(1)], "image, video"),
        (["a.png", "clip.mp4"], "image file, video"),
        ([{"array": [0.0], "sampling_rate": 16000}], "dict"),
    ],
)
def test_other_and_mixed_visuals_are_refused_by_kind(visuals, kinds):
    with pytest.raises(ValueError, match=f"doc has visuals of kind {kinds}; wanted only videos, or only images"):
        to_videos(visuals, "doc", OPTIONS)


def test_an_unreadable_video_is_an_error_with_its_path():
    with pytest.raises(VideoError, match=r"missing\.mp4"):
        to_videos(["missing.mp4"], "doc", OPTIONS)


@pytest.mark.parametrize("name", ["2024-05-01T10:30:00.mp4", "concat:a.mp4", "http:clip.mp4", "data:clip.mp4"])
def test_a_name_with_a_colon_is_a_file_and_no_protocol(clip, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = clip()
    (tmp_path / name).write_bytes(Path(path).read_bytes())
    for backend in ("pyav", "decord"):
        options = FrameOptions(backend=backend)
        wanted = next(load_video(path, options).chunks()).rgb
        assert torch.equal(next(load_video(name, options).chunks()).rgb, wanted)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint16, 65535), (np.float32, 1.0), (np.uint8, 255)])
def test_grey_tones_of_every_depth_keep_their_order(dtype, white, tmp_path):
    ramp = np.tile(np.linspace(0, 1, 64) * white, (4, 1)).astype(dtype)
    path = tmp_path / f"0.{'tiff' if dtype is np.float32 else 'png'}"
    Image.fromarray(ramp).save(path)
    made = next(load_video(tmp_path).chunks()).rgb[0]
    assert torch.equal(made[..., 0], made[..., 2]) and len(made.unique()) == 64
    wanted = torch.linspace(0, 255, 64)
    torch.testing.assert_close(made[0, :, 0].float(), wanted, atol=1.01, rtol=0)


def test_tones_whose_white_nobody_knows_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 300.0, np.float32)).save(tmp_path / "0.tiff")
    with pytest.raises(VideoError, match="has grey tones of 300 to 300, and white is 1; save it in 8 or 16 bits"):
        next(load_video(tmp_path).chunks())
