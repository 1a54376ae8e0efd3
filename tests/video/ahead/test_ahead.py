"""Decoding ahead: the same answers, in order, within a limit of memory, whatever happens to the process."""

import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from itertools import pairwise
from multiprocessing import Pipe

import psutil
import pytest
import torch
from lmms_eval.api.instance import Instance
from PIL import Image

import lmms_kvtp.video.load as load
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.run.journal import read
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.video.ahead.ahead import Ahead, decode_ahead, free_cores, worth_mib
from lmms_kvtp.video.ahead.feed import limit
from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.video.sampling import FrameOptions

TASK = "skvqa_synth_look"
FRAMES = FrameOptions(max_frames_num=7, force_sample=True, chunk_size=3)
PLANTED = """
import os
import time

import lmms_kvtp.video.load as video

read_index, chunks, folder = video.read_index, video.SampledVideo.chunks, os.path.dirname(__file__)


def once(name):
    # whether this is to happen here, and has not happened yet
    try:
        os.unlink(os.path.join(folder, name))
    except FileNotFoundError:
        return False
    return True


def fall(self):
    for number, frames in enumerate(chunks(self)):
        if number == 1 and once("killed_inside"):
            os.kill(os.getpid(), 9)
        yield frames


if once("killed_at_start"):
    os.kill(os.getpid(), 9)
if once("stopped_at_start"):
    os.fork() or time.sleep(3600)  # a child that outlives the process, and has its end of the pipe
    time.sleep(3600)
video.SampledVideo.chunks = fall


def planted(path):
    if path.endswith("hangs.mp4"):
        time.sleep(3600)
    if path.endswith("crashes.mp4"):
        os.kill(os.getpid(), 11)
    if path.endswith("hungry.mp4"):
        bytearray(1 << 50)
    return read_index(path)


video.read_index = planted
"""


@pytest.fixture(scope="module")
def docs(lookalike, tmp_path_factory):
    return lookalike.write_task(tmp_path_factory.mktemp("task"), TASK, videos=3, questions=2)


@pytest.fixture
def paths(docs):
    return sorted({doc["video_path"] for doc in docs})


@pytest.fixture
def ahead():
    """Makes what decodes ahead, and closes it."""
    made = []

    def make(paths, limit_bytes=2**30, seconds=600.0, options=FRAMES, processes=1):
        made.append(Ahead([(path,) for path in paths], options, limit_bytes, seconds, processes=processes))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_images_that_are_seen_in_tiles_are_not_decoded_as_frames(docs, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    image, film = (str(tmp_path / "a.png"),), (docs[0]["video_path"],)
    for images, visuals, expected in (
        ("tiles", [image], None),
        ("tiles", [image, film], [film]),
        ("frames", [image, film], [image, film]),
    ):
        with decode_ahead(RunOptions(images=images, decode_ahead_mib=64).ahead, FRAMES, visuals) as found:
            assert (found and list(found.places)) == expected


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Files on which the decoder of the other process hangs, or ends it; this process is as always."""
    import lmms_kvtp.video.ahead.feed as module

    (tmp_path / "planted_decoder.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(tmp_path)
    start = "import planted_decoder; from"
    monkeypatch.setattr(module, "START", module.START.replace("from", start, 1))
    for name in ("hangs.mp4", "crashes.mp4", "hungry.mp4"):
        (tmp_path / name).write_bytes(b"as if it were a video")
    return tmp_path


def everything(video):
    chunks = list(video.chunks())
    return torch.cat([chunk.rgb for chunk in chunks]), torch.cat([chunk.times for chunk in chunks])


@pytest.mark.parametrize("processes", [1, 2])
def test_frames_are_those_of_this_process_in_order_and_in_any_other(paths, ahead, processes):
    one = ahead(paths, processes=processes)
    for path in [paths[0], paths[2], paths[1]]:  # the last is asked for again, after it was passed over
        [video] = one.videos((path,))
        here = load_video(path, FRAMES)
        assert (video.key, video.instruction) == (here.key, here.instruction)
        for found, wanted in zip(everything(video), everything(here), strict=True):
            assert torch.equal(found, wanted)


def test_pixels_that_a_tower_asked_for_come_ready_with_the_next_videos(paths, ahead, tmp_path):
    paths = [*paths, str(tmp_path / "again.mp4")]
    os.symlink(paths[0], paths[-1])
    many = FrameOptions(max_frames_num=60, force_sample=True, chunk_size=3)  # more than the pipe itself holds
    one, spec = ahead(paths, limit_bytes=2, options=many, processes=2), ResizedPixels((14, 10))
    for number, path in enumerate(paths):
        [video] = one.videos((path,))
        for frames in video.chunks():
            if number >= 2:  # what each process begins with is begun before anything is asked for
                assert frames.prepared == {spec}
                assert frames.spent["preprocess"] > 0
            assert torch.equal(frames.pixels(spec), spec(frames.rgb))


def test_what_waits_stays_within_the_limit_and_one_chunk(paths, ahead):
    chunk = 3 * 96 * 64 * 3
    small = ahead(paths, limit_bytes=2 * chunk, processes=2)
    large = ahead(paths)
    for one in (small, large):
        deadline = time.monotonic() + 120
        while one.feeds[0].peak < chunk and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        for path in paths:
            [video] = one.videos((path,))
            assert len(everything(video)[0]) == 7
    assert all(chunk <= feed.peak < 1.5 * chunk for feed in small.feeds)
    assert large.feeds[0].peak > 3 * chunk


@pytest.fixture
def waits(monkeypatch):
    """The limits of all waits for the other process, in the order in which they are set."""
    found = []
    noted = lambda connection, seconds: (found.append(seconds), limit(connection, seconds))  # noqa: E731
    monkeypatch.setattr("lmms_kvtp.video.ahead.feed.limit", noted)
    return found


def test_an_error_and_the_time_that_is_left_belong_to_one_video(paths, ahead, tmp_path, waits):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    with pytest.raises(VideoError) as here:
        load_video(bad, FRAMES)
    one = ahead([paths[0], str(bad), paths[1]])
    assert len(everything(one.videos((paths[0],))[0])[0]) == 7
    for _ in range(2):
        with pytest.raises(VideoError) as there:
            one.videos((str(bad),))
        assert str(there.value) == str(here.value)
    assert len(everything(one.videos((paths[1],))[0])[0]) == 7
    one.close()
    start, *each = waits
    assert start == 305.0 and len(each) == 13  # opened, three chunks and two ends of a video, or its failure
    assert [at for at, left in enumerate(each) if left == 600.0] == [0, 6, 7]
    assert all(left < before or left == 600.0 for before, left in pairwise(each))


def test_a_decoder_that_hangs_or_dies_fails_its_video_alone(paths, ahead, planted):
    hangs, crashes = str(planted / "hangs.mp4"), str(planted / "crashes.mp4")
    one = ahead([hangs, paths[0], crashes, paths[1]], seconds=6.0, processes=2)
    with pytest.raises(VideoError, match=r"cannot read video .*hangs\.mp4: it takes longer than video_seconds=6;"):
        one.videos((hangs,))
    assert len(everything(one.videos((paths[0],))[0])[0]) == 7
    with pytest.raises(VideoError, match=r"crashes\.mp4: it ends the decoder's process \(exit code -11\), twice"):
        one.videos((crashes,))
    assert len(everything(one.videos((paths[1],))[0])[0]) == 7


STOPPED = pytest.param(("stopped_at_start",), 20.0, marks=pytest.mark.slow)


@pytest.mark.parametrize(("faults", "seconds"), [(("killed_at_start", "killed_inside"), 600.0), STOPPED])
def test_a_decoder_that_somebody_ends_is_replaced_and_loses_nothing(paths, ahead, planted, faults, seconds):
    for fault in faults:
        (planted / fault).touch()
    one = ahead(paths, seconds=seconds)
    for path in paths:
        [video] = one.videos((path,))
        for found, wanted in zip(everything(video), everything(load_video(path, FRAMES)), strict=True):
            assert torch.equal(found, wanted)
    assert not any((planted / fault).exists() for fault in faults)


@pytest.mark.parametrize(("seconds", "share"), [(600.0, [305.0, 305.0]), (4.0, [7.0, 60.0])])
def test_decoders_that_die_at_their_start_are_an_error_with_a_way_out(paths, ahead, waits, monkeypatch, seconds, share):
    monkeypatch.setattr("lmms_kvtp.video.ahead.feed.START", "import sys; {path}; sys.exit(3)")
    one = ahead(paths, seconds=seconds)
    for path in paths[:2]:
        with pytest.raises(RuntimeError, match=r"ends at its start \(exit code 3\), twice; set decode_ahead_mib=0"):
            one.videos((path,))
    assert waits == share  # both together: video_seconds and 10 s, and the second a minute at least


def test_a_wait_ends_in_both_directions_and_inside_a_message():
    ours, theirs = Pipe()
    with ours, theirs:
        limit(ours, 0.02)
        with pytest.raises(BlockingIOError):
            ours.recv_bytes()
        os.write(theirs.fileno(), struct.pack("!i", 100) + b"some of them")
        with pytest.raises(BlockingIOError):
            ours.recv_bytes()
        with pytest.raises(BlockingIOError):
            ours.send_bytes(bytes(2**24))


def test_a_decoder_that_stops_inside_a_message_fails_its_video_alone(clip, paths, ahead):
    big = str(clip(size=(640, 480), num_frames=12))
    one = ahead([big, paths[0]], limit_bytes=1, seconds=10.0)
    [video] = one.videos((big,))
    stream = video.chunks()
    assert len(next(stream).rgb) == 3
    time.sleep(1)  # the next chunk fills the pipe, which holds a part of it
    [decoder] = [child for child in psutil.Process().children() if "video.ahead" in " ".join(child.cmdline())]
    decoder.suspend()
    with pytest.raises(VideoError, match=r"it takes longer than video_seconds=10;"):
        list(stream)
    assert len(everything(one.videos((paths[0],))[0])[0]) == 7


def test_process_and_thread_end_with_it_and_with_the_last_video(paths, ahead):
    for read_first in (0, 3):
        one = ahead(paths, processes=2)
        for path in paths[:read_first]:
            everything(one.videos((path,))[0])
        one.close()
        assert len(one.feeds) == 2
        assert all(feed.process is None or feed.process.returncode is not None for feed in one.feeds)
        assert "decode-ahead" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def run(checkpoint, docs, tmp_path):
    """Answer requests with pruning at random."""

    def answer(requests, **settings):
        random = {"scorer": "uniform", "allocator": "uniform", "pruner": "random", "keep_ratio": 0.4}
        common = {"pretrained": str(checkpoint), "journal": str(tmp_path / "journals"), "device": "cpu"}
        model = LlavaVideoKvtp(**common | random | settings)
        model.task_dict[TASK] = {"test": docs}
        answers = model.generate_until(requests)
        costs = [cost for *_, cost in costs_of(model)]
        return [answer.text for answer in answers], model.session, costs

    return answer


def costs_of(model):
    return [(key, answer.cost) for key, answer in read(model.session.journal.path).answers.items()]


def instance(doc_id, path, visuals=None):
    visuals = visuals or (lambda doc: [path])
    arguments = (f"What is thing {doc_id}?", {"max_new_tokens": 4}, visuals, doc_id, TASK, "test")
    return Instance("generate_until", arguments, 0, {"task": TASK, "doc_id": doc_id, "repeats": 1, "version": 1.5})


@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_are_the_same_with_it_and_without(run, docs, batch_size):
    requests = [instance(i, doc["video_path"]) for i, doc in enumerate(docs)]
    texts, _, costs = run(requests, decode_ahead_mib=0, batch_size=batch_size)
    ahead, _, costs_ahead = run(requests, decode_ahead_mib=64, batch_size=batch_size)
    assert ahead == texts
    assert len(set(texts)) > 2
    assert not any("waiting" in cost.seconds for cost in costs)
    assert all({"waiting", "decode", "preprocess"} <= set(cost.seconds) for cost in costs_ahead)


@pytest.mark.slow
def test_a_run_goes_on_past_a_video_that_hangs_and_one_that_crashes(run, docs, paths, planted):
    bad = [str(planted / f"{name}.mp4") for name in ("hangs", "crashes", "hungry")]
    files = [bad[0], paths[0], bad[1], paths[1], bad[2], paths[2]]
    requests = [instance(i, path) for i, path in enumerate(files)]
    start = time.monotonic()
    texts, session, _ = run(requests, decode_ahead_mib=64, video_seconds=4, on_error="skip")
    assert [bool(text) for text in texts] == [False, True] * 3
    assert len(session.failures) == 3
    for failure, cause in zip(session.failures, ("video_seconds=4", "exit code -11", "MemoryError"), strict=True):
        assert cause in failure
    assert time.monotonic() - start < 300


@pytest.fixture
def ctrl_c():
    """Python's own handler: a process that a shell started in the background ignores Ctrl-C."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file may just have been opened
def test_ctrl_c_ends_the_process_and_keeps_what_was_answered(run, paths, tmp_path, ctrl_c):
    decoders, wait = [], threading.Event()

    def interrupt():
        while not any(read(path).answers for path in (tmp_path / "journals").rglob("*.jsonl")):
            wait.wait(0.01)
        decoders.extend(one for one in psutil.Process().children() if "video.ahead" in " ".join(one.cmdline()))
        os.kill(os.getpid(), signal.SIGINT)

    many = [str(shutil.copy(paths[0], tmp_path / f"{number}.mp4")) for number in range(200)]  # more than it decodes
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run([instance(i % 6, path) for i, path in enumerate(many)], decode_ahead_mib=64)
    assert "decode-ahead" not in [thread.name for thread in threading.enumerate()]
    assert decoders
    assert not [process for process in decoders if process.is_running()]
    [journal] = (tmp_path / "journals").rglob("*.jsonl")
    assert 1 <= len(read(journal).answers) < len(many)


def test_frames_that_an_earlier_run_kept_are_not_decoded(run, docs, tmp_path, monkeypatch):
    requests = [instance(i, doc["video_path"]) for i, doc in enumerate(docs)]
    texts, _, _ = run(requests)
    kept, _, _ = run(requests, decode_ahead_mib=64, frame_cache=str(tmp_path / "cache"))
    assert kept == texts
    refuse = lambda *_: pytest.fail("a file was opened to decode it")  # noqa: E731
    monkeypatch.setattr(load, "open_reader", refuse)
    found, _, _ = run(requests, frame_cache=str(tmp_path / "cache"))
    assert found == texts


@pytest.mark.parametrize("mib", [0, 64])
def test_frames_that_a_codec_patched_are_in_the_ledger_on_every_run(run, damaged, tmp_path, mib):
    path = str(damaged())
    settings = {"max_frames_num": 50, "force_sample": True, "decode_ahead_mib": mib}
    wrong = sum(chunk.patched for chunk in load.load_video(path, FrameOptions(50, force_sample=True)).chunks())
    for _ in range(2):  # the second finds the others in the cache
        _, _, costs = run([instance(0, path)], frame_cache=str(tmp_path / "cache"), **settings)
        assert [(cost.num_frames, cost.frames_patched) for cost in costs] == [(50, wrong)] and wrong


def test_no_process_for_want_of_files_is_an_error_with_a_way_out(paths, ahead):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
    try:
        with pytest.raises(RuntimeError, match=r"no process .* Too many open files.*; set decode_ahead_mib=0"):
            ahead(paths).videos((paths[0],))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


MANY = """
import resource, sys
from lmms_kvtp.video.ahead.ahead import Ahead
from lmms_kvtp.video.sampling import FrameOptions

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
paths = sys.argv[1:]
ahead = Ahead([(path,) for path in paths], FrameOptions(max_frames_num=2, force_sample=True), 2**20, 600.0)
print(sum(len(chunk.times) for path in paths for video in ahead.videos((path,)) for chunk in video.chunks()))
ahead.close()
"""


def test_many_videos_need_few_open_files(paths, tmp_path):
    many = [tmp_path / f"{number}.mp4" for number in range(60)]  # more than the files that may be open
    for link in many:
        link.symlink_to(paths[0])
    made = subprocess.run([sys.executable, "-c", MANY, *map(str, many)], check=True, capture_output=True, text=True)
    assert made.stdout.strip() == "120"


@pytest.mark.parametrize(
    ("cores", "ranks", "free_gib", "processes"),
    [(1, 1, 64, 1), (2, 1, 64, 1), (3, 1, 64, 2), (16, 1, 64, 15), (16, 8, 64, 1), (16, 1, 8, 3), (16, 1, 1, 1)],
)
def test_as_many_processes_decode_as_there_are_cores_and_memory_to_spare(
    cores, ranks, free_gib, processes, monkeypatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    free = psutil.virtual_memory()._replace(available=free_gib * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert free_cores() == processes


@pytest.mark.parametrize(
    ("count", "mib", "cores", "processes", "room"),
    [(2, 40, 2, 1, 1024), (2, 40, 3, 2, 0), (1, 80, 2, 1, 0), (2, 20, 2, 1, 0), (2, 40, 1, 1, 0), (2, 40, 4, 2, 1024)],
)
def test_it_begins_by_itself_where_it_pays(count, mib, cores, processes, room, tmp_path, monkeypatch):
    upcoming = []
    for number in range(count):
        path = tmp_path / f"{number}.mp4"
        with path.open("wb") as file:
            file.truncate(mib * 2**20)
        upcoming.append((str(path),))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert worth_mib(upcoming) == room
