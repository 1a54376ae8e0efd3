"""Frames from the cache are those that would be made, whatever happened to its folder."""

import logging
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from lmms_kvtp.video.cache import FrameCache
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.video.reader import Reader
from lmms_kvtp.video.sampling import FrameOptions

SPEC, OTHER = ResizedPixels((14, 10)), ResizedPixels((9, 11))
FRAMES = FrameOptions(max_frames_num=7, force_sample=True, chunk_size=3)
ENTRY = 32 + 16 + 3 * 14 * 10 * 3
"""Bytes of an entry of three frames."""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def pixels(path, cache=None, options=FRAMES, specs=(SPEC,)):
    """What a tower reads, and how many frames were decoded for it."""
    video, decoded = load_video(path, options, cache), []
    counted = replace(video, open=lambda: Counting(video.open(), decoded))
    made = [[frames.pixels(spec) for spec in specs] for frames in counted.chunks()]
    return [torch.cat(parts) for parts in zip(*made, strict=True)], len(decoded)


class Counting(Reader):
    """A reader that notes what is decoded."""

    def __init__(self, reader, decoded):
        self.reader, self.decoded = reader, decoded

    def read(self, indices):
        self.decoded += indices
        return self.reader.read(indices)

    def close(self):
        self.reader.close()


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def entries(folder):
    return sorted(folder.glob("*.frames"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("specs", [(SPEC,), (SPEC, OTHER)])
def test_what_is_kept_is_not_decoded_again_and_is_the_same(clip, folder, specs):
    wanted, _ = pixels(clip(), specs=specs)
    first, decoded = pixels(clip(), FrameCache(folder, 2**20), specs=specs)
    assert decoded >= 7
    again, decoded = pixels(clip(), FrameCache(folder, 2**20), specs=specs)
    assert decoded == 0
    assert equal(first, wanted)
    assert equal(again, wanted)
    assert len(entries(folder)) == 3 * len(specs)


def test_entries_belong_to_a_video_its_frames_and_a_way_to_resize_them(clip, folder, tmp_path):
    cache, path = FrameCache(folder, 2**20), tmp_path / "clip.mp4"
    shutil.copy2(clip(), path)
    for options in (FRAMES, FrameOptions(max_frames_num=6, force_sample=True, chunk_size=3)):
        for preprocess in ("exact", "fast"):
            chosen = FrameOptions(**{**vars(options), "preprocess": preprocess})
            for spec in (SPEC, OTHER, ResizedPixels((14, 10), resample=0)):
                assert equal(*(pixels(path, kept, chosen, (spec,))[0] for kept in (None, cache)))
    before = len(entries(folder))
    assert before == (3 + 2) * 2 * 3  # chunks, ways, sizes
    stamp = path.stat().st_mtime_ns
    shutil.copy(clip(size=(98, 66)), path)
    assert equal(*(pixels(path, kept)[0] for kept in (None, cache)))
    os.utime(path, ns=(stamp, stamp + 1))
    assert equal(*(pixels(path, kept)[0] for kept in (None, cache)))
    assert len(entries(folder)) == before + 6


def test_what_one_decoder_read_another_reads_itself(clip, folder):
    cache = FrameCache(folder, 2**20)
    for backend in ("auto", "pyav", "decord"):
        assert pixels(clip(), cache, replace(FRAMES, backend=backend))[1] == 7


def test_the_same_video_elsewhere_finds_its_entries(clip, folder, tmp_path):
    pixels(clip(), FrameCache(folder, 2**20))
    shutil.copy2(clip(), tmp_path / "moved.mp4")
    assert pixels(tmp_path / "moved.mp4", FrameCache(folder, 2**20))[1] == 0


def test_whoever_asks_for_the_frames_themselves_gets_them(clip, folder):
    pixels(clip(), FrameCache(folder, 2**20))
    cache = FrameCache(folder, 2**20)
    pixels(clip(), cache)
    kept, plain = load_video(clip(), FRAMES, cache).chunks(), load_video(clip(), FRAMES).chunks()
    for ours, theirs in zip(kept, plain, strict=True):
        assert torch.equal(ours.rgb, theirs.rgb)
        assert torch.equal(ours.pixels(OTHER), theirs.pixels(OTHER))


def test_the_oldest_entries_make_room(clip, folder, tmp_path):
    cache, paths = FrameCache(folder, 10 * ENTRY), []
    for number in range(8):
        paths.append(tmp_path / f"{number}.mp4")
        shutil.copy(clip(), paths[-1])
        os.utime(paths[-1], ns=(number, number))
        pixels(paths[-1], cache)
        for age, path in enumerate(entries(folder)):  # clocks of file systems are too coarse for this test
            os.utime(path, ns=(age, age))
        assert sum(path.stat().st_size for path in entries(folder)) <= 10 * ENTRY
    assert len(entries(folder)) >= 6
    decoded = [pixels(path, FrameCache(folder, 10 * ENTRY))[1] for path in reversed(paths)]
    assert decoded[0] == 0
    assert decoded[-1] == 7


def test_an_entry_larger_than_the_limit_is_not_kept(clip, folder):
    wanted, _ = pixels(clip())
    assert equal(pixels(clip(), FrameCache(folder, ENTRY - 1))[0], wanted)
    assert [path.stat().st_size for path in entries(folder)] == [32 + 16 + 14 * 10 * 3]  # the chunk of one frame


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data + b"0",
    ],
    ids=["byte", "shape", "cut", "empty", "longer"],
)
def test_a_damaged_entry_is_made_again(clip, folder, damage, caplog):
    wanted, _ = pixels(clip(), FrameCache(folder, 2**20))
    victim = entries(folder)[1]
    whole = victim.read_bytes()
    victim.write_bytes(damage(whole))
    found, decoded = pixels(clip(), FrameCache(folder, 2**20))
    assert equal(found, wanted)
    assert decoded == 3
    assert victim.read_bytes() == whole
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(victim) in caplog.text


def test_a_folder_that_cannot_be_written_costs_one_warning(clip, tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    wanted, _ = pixels(clip())
    cache = FrameCache(tmp_path / "file" / "cache", 2**20)
    for _ in range(2):
        assert equal(pixels(clip(), cache)[0], wanted)
    assert len(caplog.records) == 1
    assert "name a folder of yours" in caplog.text
    (tmp_path / "file").unlink()
    pixels(clip(), cache)
    assert not cache.folder.exists()  # it has said that nothing more is kept


def test_an_entry_that_cannot_be_read_costs_one_warning(clip, folder, caplog):
    wanted, _ = pixels(clip(), FrameCache(folder, 2**20))
    victim = entries(folder)[1]
    victim.unlink()
    victim.mkdir()
    assert equal(pixels(clip(), FrameCache(folder, 2**20))[0], wanted)
    assert len(caplog.records) == 1
    assert "Is a directory" in caplog.text


FULL_DISK = """
import resource, sys
from pathlib import Path
from lmms_kvtp.video.reader import Reader
from lmms_kvtp.video.cache import FrameCache
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.video.load import load_video

path, folder = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))  # a write behind that fails, as on a full disk
options = FrameOptions(max_frames_num=7, force_sample=True, chunk_size=3)
for cache in (None, FrameCache(Path(folder), 2**20)):
    video = load_video(path, options, cache)
    print([int(frames.resized(ResizedPixels((14, 10))).sum()) for frames in video.chunks()])
"""


def test_a_full_disk_costs_one_warning_and_leaves_nothing_half_written(clip, folder):
    command = [sys.executable, "-c", FULL_DISK, str(clip()), str(folder)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    without, with_cache = run.stdout.splitlines()
    assert without == with_cache
    assert run.stderr.count("keeps no more frames") == 1
    assert "File too large" in run.stderr
    assert [path.name for path in folder.iterdir()] == [".lock"]


def read_often(path, folder, seed):
    """A process among others: reads in an order of its own, under a limit that is far too small."""
    rng, wanted = np.random.default_rng(seed), {}
    for count in rng.integers(3, 9, 25).tolist():
        options = FrameOptions(max_frames_num=count, force_sample=True, chunk_size=3)
        wanted[count] = wanted.get(count) or pixels(path, None, options)[0]
        if not equal(pixels(path, FrameCache(folder, 6 * ENTRY), options)[0], wanted[count]):
            return False
    return True


def test_several_processes_share_a_folder(clip, folder):
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        assert all(pool.map(partial(read_often, clip(), folder), range(3)))
    assert list(folder.glob("*.part")) == []
    assert 0 < sum(path.stat().st_size for path in entries(folder)) <= 6 * ENTRY


class Nameless:
    """A recipe that does not say what it does."""

    def __init__(self, value):
        self.value = value

    def resize(self, rgb, fast=False):
        return torch.full((len(rgb), 2, 2, 3), self.value, dtype=torch.uint8)

    def normalise(self, resized):
        return resized.permute(0, 3, 1, 2).float()


def test_a_recipe_without_a_name_of_its_own_is_not_kept(clip, folder):
    cache = FrameCache(folder, 2**20)
    for value in (1, 2):
        [made], _ = pixels(clip(), cache, specs=(Nameless(value),))
        assert set(made.flatten().tolist()) == {value}
    assert not folder.exists()


def test_a_cached_video_can_go_to_another_process(clip, folder):
    video = pickle.loads(pickle.dumps(load_video(clip(), FRAMES, FrameCache(folder, 2**20))))
    assert equal([torch.cat([frames.pixels(SPEC) for frames in video.chunks()])], pixels(clip())[0])
    assert len(entries(folder)) == 3


def test_a_limit_of_nothing_is_refused(folder):
    with pytest.raises(ValueError, match="frame cache of 0 bytes holds nothing"):
        FrameCache(folder, 0)


def test_frames_are_resized_once_and_decoded_only_if_asked():
    asked = []

    def rgb():
        asked.append(1)
        return torch.zeros(2, 6, 5, 3, dtype=torch.uint8)

    frames = Frames(rgb, torch.zeros(2))
    assert not asked
    assert frames.pixels(SPEC) is frames.pixels(SPEC)
    assert frames.prepared == {SPEC}
    assert len(asked) == 1
