"""From a video file to the page and the PNG."""

import io
from html.parser import HTMLParser

import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.small_videos import write_video
from PIL import Image

from lmms_kvtp.__main__ import main
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.presets import typed
from lmms_kvtp.visualize.picture import DROPPED, KEPT, MERGED, MethodPicture, lit, most_telling

HOSTILE = "</h1><script>alert(1)</script><img src=x onerror=alert(2)>$x_y$?"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.names, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.names += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def picture(kept) -> MethodPicture:
    counts, state = torch.tensor(kept), torch.zeros(len(kept), 6, dtype=torch.long)
    return MethodPicture("m", torch.zeros(len(kept)), counts, counts, state, (), True, (2, 3), Answer("", SampleCost()))


def test_dropped_patches_are_dark_and_merged_ones_dim():
    rgb = torch.full((4, 6, 3), 200, dtype=torch.uint8)
    state = torch.tensor([KEPT, DROPPED, MERGED, DROPPED, KEPT, DROPPED])
    light = lit(rgb, state, (2, 3))[..., 0]
    assert light[0].tolist() == [200, 200, 36, 36, 110, 110]
    assert light[3].tolist() == [36, 36, 200, 200, 36, 36]


def test_short_names_are_taken_at_every_ratio_and_settings_at_their_own():
    found = typed(["full", "kvtp+tome", "pruner=grid,keep_ratio=0.7"], [0.5, 0.1])
    assert list(found) == ["all tokens", "kvtp+tome 50%", "kvtp+tome 10%", "pruner=grid,keep_ratio=0.7"]
    assert found["kvtp+tome 10%"]["keep_ratio"] == "0.1"
    assert found["all tokens"]["pruner"] == "none"
    with pytest.raises(ValueError, match=r"ratio 1.5 is outside \(0, 1\]"):
        typed(["random"], [1.5])


def test_frames_where_a_method_keeps_most_are_shown_beside_evenly_spread_ones():
    kept = [2] * 20
    kept[7], kept[13] = 6, 5
    assert most_telling([picture([6] * 20), picture(kept)], 5) == [0, 7, 10, 13, 19]
    assert most_telling([picture(kept)], 20) == list(range(20))


def test_the_command_draws_a_page_and_a_png(tmp_path, capsys):
    folder, video = write_tiny(tmp_path / "model"), write_video(tmp_path / "<b>clip.mp4")
    command = ["visualize", str(video), HOSTILE, "--pretrained", str(folder), "--out", str(tmp_path / "out")]
    methods = ["--method", "full", "--method", "kvtp+tome", "--method", "pruner=random,keep_ratio=0.4,scorer=uniform"]
    assert main([*command, *methods, "--show", "5"]) == 0
    assert "35/175" in capsys.readouterr().out
    page = Tags((tmp_path / "out" / "index.html").read_text())
    assert "script" not in page.tags
    assert not [name for name in page.names if name.startswith("on")]
    assert HOSTILE in page.text
    assert "<b>clip.mp4" in page.text
    assert page.tags.count("img") == 3 * 5
    assert page.tags.count("line") > 0  # merges of ToMe
    png = Image.open(io.BytesIO((tmp_path / "out" / "frames.png").read_bytes()))
    assert png.format == "PNG"
    assert png.width > 1000
    with pytest.raises(SystemExit):
        main([*command, "--show", "0"])
    assert "argument --show: 0 is no whole number of at least 1" in capsys.readouterr().err
