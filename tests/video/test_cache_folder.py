"""The folder of a frame cache: its limit, its ledger and lock, and what tells entries apart."""

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest
import torch

import lmms_kvtp.video.cache as module
from lmms_kvtp.files import PIECE
from lmms_kvtp.video.cache import MAKERS, FrameCache
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.video.sampling import FrameOptions

SPEC = ResizedPixels((14, 10))
FRAMES = torch.zeros(3, 10, 14, 3, dtype=torch.uint8)
ENTRY = 32 + 16 + FRAMES.numel()
"""Bytes of an entry of these."""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def looks(monkeypatch):
    """Each look at all files of a folder."""
    seen, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(path) or scandir(path))
    return seen


def entries(folder):
    return [name for name in os.listdir(folder) if name.endswith(".frames")]


def fill(cache, *names):
    for name in names:
        cache.put(f"{name}.frames", FRAMES)


def keep(path, cache, spec=SPEC, chunk_size=3):
    """Read a video through a cache; returns what a tower reads, and how often the file was opened to decode it."""
    opened = []
    video = load_video(path, FrameOptions(max_frames_num=7, force_sample=True, chunk_size=chunk_size), cache)
    plain = video.open
    object.__setattr__(video, "open", lambda: opened.append(path) or plain())
    return torch.cat([frames.resized(spec) for frames in video.chunks()]), len(opened)


@pytest.mark.parametrize("writers", [1, 3])
@pytest.mark.parametrize(("limit", "kept"), [(3 * ENTRY, 3), (3 * ENTRY - 1, 2)])
def test_the_limit_counts_whole_files_to_the_byte(folder, limit, kept, writers):
    caches = [FrameCache(folder, limit) for _ in range(writers)]
    for number in range(3):
        fill(caches[number % writers], number)
    assert len(entries(folder)) == kept


def test_an_entry_larger_than_the_limit_leaves_the_others_there(folder):
    cache = FrameCache(folder, ENTRY)
    fill(cache, "a")
    cache.put("large.frames", FRAMES.repeat(2, 1, 1, 1))
    assert entries(folder) == ["a.frames"]


def test_the_ledger_saves_looks_at_the_folder(folder, looks):
    ours, other = (FrameCache(folder, 2**20) for _ in range(2))
    for number in range(9):
        fill(ours, f"ours{number}")
        fill(other, f"other{number}")
    assert len(looks) == 2  # the first of each


def test_the_ledger_counts_as_much_as_disks_hold(folder, looks):
    cache = FrameCache(folder, 2**43)
    fill(cache, "a")
    assert (folder / ".lock").read_bytes() == ENTRY.to_bytes(16, "little")
    (folder / ".lock").write_bytes((2**42).to_bytes(16, "little"))
    fill(cache, "b")
    assert (folder / ".lock").read_bytes() == (2**42 + ENTRY).to_bytes(16, "little")
    assert len(looks) == 1


@pytest.mark.parametrize("damage", [b"", b"\1", b"\0" * 15, b"damaged " * 5], ids=["empty", "byte", "short", "long"])
def test_a_damaged_ledger_is_made_again_by_one_look(folder, looks, damage):
    cache = FrameCache(folder, 5 * ENTRY)
    fill(cache, *"abcde")
    (folder / ".lock").write_bytes(damage)
    fill(cache, "f")
    assert len(entries(folder)) == 4  # the limit held, and a tenth of it is left
    assert (folder / ".lock").read_bytes() == (4 * ENTRY).to_bytes(16, "little")
    fill(cache, "g")
    assert len(looks) == 2


def test_an_entry_appears_whole_while_other_writers_wait(folder, monkeypatch):
    def watched(part, target):
        with (folder / ".lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                seen.append((target.exists(), part.suffix, part.stat().st_size))
        return replace(part, target)

    seen, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", watched)
    fill(FrameCache(folder, 2**20), "a")
    assert seen == [(False, ".part", ENTRY)]
    assert entries(folder) == ["a.frames"]


def test_files_that_others_remove_meanwhile_are_no_error(folder, monkeypatch, caplog):
    def removed_twice(path):
        unlink(path)
        unlink(path)

    unlink, cache = os.unlink, FrameCache(folder, 2 * ENTRY)
    fill(cache, "a", "b")
    (folder / "gone.frames").symlink_to(folder / "nowhere")  # there in the list of files, and not when it is looked at
    monkeypatch.setattr(os, "unlink", removed_twice)
    fill(cache, "c")
    assert "c.frames" in entries(folder)
    assert not caplog.records


def test_unfinished_files_of_dead_writers_go(folder):
    folder.mkdir()
    for minutes in (50, 70):
        path = folder / f".of{minutes}.frames.1.part"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 60 * minutes,) * 2)
    fill(FrameCache(folder, 2**20), "a")
    assert [path.name for path in folder.glob("*.part")] == [".of50.frames.1.part"]


def test_what_others_keep_counts(folder):
    ours, other = (FrameCache(folder, 30 * ENTRY) for _ in range(2))
    fill(ours, "first")
    fill(other, *range(29))
    assert len(entries(folder)) == 30
    fill(ours, "last")
    assert len(entries(folder)) == 27
    assert "last.frames" in entries(folder)


@pytest.mark.parametrize("oldest", ["ab", "ej", "hi"])
def test_the_oldest_go_first_in_whatever_order_a_folder_lists_them(folder, oldest):
    cache = FrameCache(folder, 10 * ENTRY)
    fill(cache, *"abcdefghij")
    for name in "abcdefghij":
        os.utime(folder / f"{name}.frames", ns=(0, 5 - (name in oldest)))
    fill(cache, "k")
    assert sorted(entries(folder)) == [f"{name}.frames" for name in "abcdefghijk" if name not in oldest]


def test_entries_removed_by_hand_make_room(folder):
    cache = FrameCache(folder, 2 * ENTRY)
    for name in "ab":
        fill(cache, name)
        (folder / f"{name}.frames").unlink()
    fill(cache, "c", "d")
    assert len(entries(folder)) == 2


def test_entries_that_nothing_has_counted_count(folder):
    for name in "abc":
        fill(FrameCache(folder, 2 * ENTRY), name)
        (folder / ".lock").unlink()
        assert len(entries(folder)) <= 2


@pytest.mark.parametrize("lock_of_another", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_one_process_at_a_time_makes_room(folder, lock_of_another):
    folder.mkdir()
    waits = threading.Thread(target=fill, args=(FrameCache(folder, 2**20), "a"))
    with (folder / ".lock").open("wb") as lock:
        fcntl.flock(lock, lock_of_another)
        waits.start()
        waits.join(0.5)
        assert waits.is_alive()
        assert entries(folder) == []
    waits.join(60)
    assert entries(folder) == ["a.frames"]


def test_a_file_is_told_from_others_by_size_time_and_both_ends(tmp_path):
    def made(place=None, size=3 * PIECE, stamp=5):
        content, path = bytearray(size), tmp_path / "video.mp4"
        if place is not None:
            content[place] = 1
        path.write_bytes(content)
        os.utime(path, ns=(stamp, stamp))
        return FrameCache(tmp_path, 1).shelf(str(path), "auto").video

    assert made() == made()
    assert len({made(), made(0), made(PIECE - 1), made(-1), made(-PIECE), made(size=3 * PIECE + 1), made(stamp=6)}) == 7
    assert len({made(size=0), made(size=9), made(0, size=9), made(-1, size=9)}) == 4


def test_other_versions_of_what_makes_the_bytes_make_them_again(clip, folder, monkeypatch):
    keep(clip(), FrameCache(folder, 2**20))
    makers, plain = module.makers, module.version
    for name in MAKERS:
        makers.cache_clear()
        newer = lambda asked, name=name: "99" if asked == name else plain(asked)  # noqa: E731
        monkeypatch.setattr(module, "version", newer)
        assert keep(clip(), FrameCache(folder, 2**20))[1] > 0
    monkeypatch.undo()
    makers.cache_clear()
    assert keep(clip(), FrameCache(folder, 2**20))[1] == 0


def test_recipes_of_one_name_in_two_modules_are_two(clip, folder):
    other = type("ResizedPixels", (ResizedPixels,), {"resize": lambda spec, rgb, fast=False: 255 - SPEC.resize(rgb)})
    cache, namesake = FrameCache(folder, 2**20), other((14, 10))
    assert repr(namesake) == repr(SPEC)
    ours, theirs = keep(clip(), cache)[0], keep(clip(), cache, namesake)[0]
    assert torch.equal(theirs, 255 - ours)


def test_a_video_that_is_not_kept_is_opened_once_as_soon_as_it_is_known_what_is_read(clip, folder):
    assert keep(clip(), FrameCache(folder, 2**20), chunk_size=1)[1] == 1


@pytest.mark.parametrize(("rights", "lock"), [(0o2770, 0o660), (0o777, 0o666), (0o755, 0o644)])
def test_whoever_may_write_in_the_folder_may_take_its_lock(folder, rights, lock):
    folder.mkdir()
    folder.chmod(rights)
    FrameCache(folder, 2**20).put("a.frames", FRAMES)
    assert (folder / ".lock").stat().st_mode & 0o777 == lock
