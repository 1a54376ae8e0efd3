"""What a run over thousands of short videos leaves behind: memory, threads and open files, as it goes on.

`python benchmarks/soak.py --videos 2000` answers a question on each video with the embedded model, decoding ahead and
with a frame cache that is far too small, so that its oldest entries make room all the time; it writes
benchmarks/results/soak.json. A thread notes what this process and the decoding one hold. The first fifth of the run,
in which libraries load and pools fill, is left out of the slopes.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
from decoders import machine

RESULTS = Path(__file__).parent / "results" / "soak.json"
TASK = "soak"
DIFFERENT = 40
"""Videos that are drawn; the others are copies with names and times of their own."""
Note = dict[str, float]


def write_videos(folder: Path, count: int) -> list[str]:
    """Five frames of noise each, 96 x 64."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        if number >= DIFFERENT:
            path.write_bytes(paths[number % DIFFERENT].read_bytes())
        else:
            rng = np.random.default_rng(number)
            with av.open(str(path), "w") as container:
                stream = container.add_stream("libx264", rate=1)
                stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
                for _ in range(5):
                    noise = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
                container.mux(stream.encode(None))
        os.utime(path, ns=(number, number))
    return [str(path) for path in paths]


def held(process: str) -> Note:
    """MiB, threads and open files of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return {
        "mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "threads": len(os.listdir(f"/proc/{process}/task")),
        "files": len(os.listdir(f"/proc/{process}/fd")),
    }


def children() -> list[str]:
    """Children of all threads of this process, since any thread may start the one that decodes."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # the thread has just ended
            found += (task / "children").read_text().split()
    return found


def watch(model: object, notes: list[Note], done: threading.Event) -> None:
    """Note what is held, against the answers in the journal."""
    while not done.wait(1.0):
        session = model.session
        if session is None or not session.journal.path.exists():
            continue
        note: Note = {"answers": session.journal.path.read_bytes().count(b"\n")}
        note |= {f"model_{name}": value for name, value in held("self").items()}
        for child in children()[:1]:
            try:
                note |= {f"decoder_{name}": value for name, value in held(child).items()}
            except OSError:  # it has just ended
                continue
        notes.append(note)


def answer(paths: list[str], cache: Path) -> list[Note]:
    """One run over all videos."""
    import torch
    from lmms_eval.api.instance import Instance

    from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp

    torch.set_num_threads(1)
    model = LlavaVideoKvtp(
        **{"pretrained": "tiny", "allow_toy": True, "device": "cpu", "journal": tempfile.mkdtemp()},
        **{"scorer": "uniform", "allocator": "uniform", "pruner": "random", "max_frames_num": 4, "chunk_size": 2},
        **{"decode_ahead_mib": 16, "frame_cache": str(cache), "frame_cache_gib": 4 / 1024},
    )
    model.task_dict[TASK] = {"test": [{"path": path} for path in paths]}
    requests = []
    for number in range(len(paths)):
        told = ("What is it?\nA. red\nB. blue", {"max_new_tokens": 2}, lambda doc: [doc["path"]], number, TASK, "test")
        about = {"task": TASK, "doc_id": number, "repeats": 1, "version": 1}
        requests.append(Instance("generate_until", told, 0, about))
    notes: list[Note] = []
    done = threading.Event()
    thread = threading.Thread(target=watch, args=(model, notes, done))
    thread.start()
    try:
        answers = model.generate_until(requests)
    finally:
        done.set()
        thread.join()
    assert len(answers) == len(paths)
    assert not model.session.failures
    return notes


def slopes(notes: list[Note], total: int) -> dict[str, dict[str, float]]:
    """Growth of each number in 1,000 videos, by least squares, and its range."""
    late = [note for note in notes if note["answers"] >= total / 5]
    rows = {}
    for name in (f"{side}_{what}" for side in ("model", "decoder") for what in ("mib", "threads", "files")):
        points = [(note["answers"], note[name]) for note in late if name in note]
        if len(points) < 2:
            continue
        at, values = np.array(points).T
        slope, _ = np.polyfit(at, values, 1)
        rows[name] = {
            "per_1000_videos": round(1000 * float(slope), 2),
            "min": round(float(values.min()), 1),
            "max": round(float(values.max()), 1),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_videos(Path(folder) / "videos", given.videos)
        start = time.perf_counter()
        notes = answer(paths, Path(folder) / "cache")
        result = {
            "command": f"python benchmarks/soak.py --videos {given.videos}",
            "machine": machine(),
            "seconds": round(time.perf_counter() - start),
            "notes": len(notes),
            "some_notes": notes[:: max(1, len(notes) // 20)],
            "cache_mib": round(sum(file.stat().st_size for file in (Path(folder) / "cache").iterdir()) / 2**20, 2),
            "left_after_the_run": {"children": len(children()), **held("self")},
            "slopes": slopes(notes, given.videos),
        }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
