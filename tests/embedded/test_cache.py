"""The cache makes what is missing, distrusts what is there, and says what it needs when it cannot write."""

import os
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from lmms_kvtp.embedded import cache
from lmms_kvtp.embedded.script import Script, write_script

SEEDS = [0, 1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and scripts of a few seconds."""
    monkeypatch.setenv("LMMS_KVTP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache, "write_script", short)
    return tmp_path / "home"


def short(seed: int, split: str) -> Script:
    script = write_script(seed, split)
    shots = script.shots[:2]
    return Script(script.key, script.seed, script.fps, shots[-1].end, shots)


def made(seeds: list[int]) -> int:
    """Ensure training videos; returns how many had to be made."""
    steps: list[int] = []
    cache.ensure("train", seeds, lambda done, total: steps.append(done))
    return len(steps)


def num_decoded(path: Path) -> int:
    count = 0
    with av.open(str(path)) as container:
        for _ in container.decode(video=0):
            count += 1
    return count


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("LMMS_KVTP_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder() == Path("/home/someone/.cache/lmms_kvtp/synth-v2")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.folder() == Path("/xdg/lmms_kvtp/synth-v2")
    monkeypatch.setenv("LMMS_KVTP_HOME", "~/videos")
    assert cache.folder() == Path("/home/someone/videos/synth-v2")


def test_videos_are_made_once(home: Path) -> None:
    steps: list[tuple[int, int]] = []
    paths = cache.ensure("train", SEEDS, lambda done, total: steps.append((done, total)))
    assert list(paths) == ["train-00000", "train-00001"]
    assert steps == [(1, 2), (2, 2)]
    for seed, path in zip(SEEDS, paths.values(), strict=True):
        assert path.parent == home / "synth-v2"
        assert num_decoded(path) == short(seed, "train").num_frames
    written = [path.stat().st_mtime_ns for path in paths.values()]
    assert cache.ensure("train", SEEDS, lambda done, total: steps.append((done, total))) == paths
    assert [path.stat().st_mtime_ns for path in paths.values()] == written
    assert len(steps) == 2
    assert made([*SEEDS, 2]) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other video", "gone", "unsealed"])
def test_a_damaged_file_is_made_again(home: Path, damage: str) -> None:
    one, other = cache.ensure("train", SEEDS).values()
    whole = one.read_bytes()
    if damage == "gone":
        one.unlink()
    else:
        flipped = whole[:999] + bytes([whole[999] ^ 1]) + whole[1000:]
        broken = {"cut": whole[:-500], "flipped": flipped, "empty": b"", "unsealed": whole[:-76]}
        one.write_bytes(broken.get(damage, other.read_bytes()))
    assert made(SEEDS) == 1
    assert one.read_bytes() == whole


def test_a_file_of_another_version_is_made_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.ensure("train", SEEDS)
    folder = cache.folder()
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert cache.folder() != folder
    monkeypatch.setattr(cache, "folder", lambda: folder)  # even in the same folder
    assert made(SEEDS) == len(SEEDS)


def test_decoders_pass_over_the_seal(home: Path) -> None:
    decord = pytest.importorskip("decord")
    assert len(decord.VideoReader(str(cache.video("train", 1)))) == short(1, "train").num_frames


def test_two_processes_at_once_both_succeed(tmp_path: Path) -> None:
    seeds = [seed for seed in range(30) if write_script(seed, "val").num_frames < 200][:3]
    code = f"from lmms_kvtp.embedded.cache import *; print(len(ensure('val', {seeds})))"
    env = os.environ | {"LMMS_KVTP_HOME": str(tmp_path)}
    pipe, command = subprocess.PIPE, [sys.executable, "-c", code]
    runs = [subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert (out.strip(), err) == ("3", "")
    assert sorted(file.name for file in (tmp_path / "synth-v2").iterdir()) == [f"val-{i:05d}.mp4" for i in seeds]


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LMMS_KVTP_HOME", str(tmp_path / "file"))
    with pytest.raises(cache.CacheError) as caught:
        cache.ensure("test", range(18))
    for part in (
        "file/synth-v2 for 18 more synthetic videos (about 2 MB)",
        "set LMMS_KVTP_HOME to a writable folder",
    ):
        assert part in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that nobody can write")
def test_a_read_only_folder_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMMS_KVTP_HOME", "/proc/self")
    with pytest.raises(cache.CacheError, match="cannot use the cache folder /proc/self/synth-v2 for 1 more synth"):
        cache.video("test", 0)


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files by setrlimit")
def test_a_full_disk_is_explained_and_leaves_no_part(tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "from lmms_kvtp.embedded import cache; cache.ensure('val', [0, 1])"
    )
    env = os.environ | {"LMMS_KVTP_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert f"CacheError: cannot use the cache folder {tmp_path}/synth-v2 for 2 more synthetic videos" in last
    assert "File too large" in last
    assert list((tmp_path / "synth-v2").iterdir()) == []


def test_what_a_crash_left_is_swept_when_old(home: Path) -> None:
    folder = cache.folder()
    folder.mkdir(parents=True)
    old, new = folder / ".train-00001.x.part", folder / ".train-00001.y.part"
    for part in (old, new):
        part.write_bytes(b"half a vid")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.video("train", 1)
    assert (old.exists(), new.exists()) == (False, True)
