"""What tasks give as visuals: paths of videos, images in memory, image files, folders of frames."""

import numpy as np
import pytest
from PIL import Image

from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.video.visuals import to_videos

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
