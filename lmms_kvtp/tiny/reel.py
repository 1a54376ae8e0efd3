"""Shorter versions of the training videos: fewer frames of each shot, all events and their neighbours kept."""

from dataclasses import dataclass, replace

import numpy as np

from lmms_kvtp.embedded.script import Script, Shot, sampled_times, write_script


@dataclass(frozen=True)
class Reel:
    """Which frames of a training video to show, and the script that they tell."""

    frames: list[int]
    """Into the video's sampled frames."""
    script: Script


def whole(video: int) -> Reel:
    """The video as it is."""
    script = write_script(video, "train")
    return Reel(list(range(len(sampled_times(script)))), script)


def shorten(video: int, num_frames: int, rng: np.random.Generator) -> Reel:
    """About `num_frames` frames of a training video, as a script at one frame a second.

    Shots next to an event stay, so that order questions keep their answers; of other shots some go.

    Args:
        video: number of the training video.
        num_frames: frames wanted; kept exactly whenever the video has as many and its events leave room.
        rng: draws which frames stay.
    """
    script = write_script(video, "train")
    shot_of = np.array([script.shots.index(script.shot_at(time)) for time in sampled_times(script)])
    last = len(script.shots) - 1
    needed = {0, last}
    for index, shot in enumerate(script.shots):
        if shot.event is not None:
            needed |= {index - 1, index, index + 1}
    counts = np.zeros(last + 1, int)
    counts[sorted(needed & set(shot_of.tolist()))] = 1
    capacity = np.bincount(shot_of, minlength=last + 1)
    wanted = min(num_frames, len(shot_of))
    while counts.sum() < wanted:
        which = int(rng.integers(last + 1))
        more = min(int(rng.integers(1, 4)), int(capacity[which] - counts[which]), int(wanted - counts.sum()))
        counts[which] += max(more, 0)
    frames: list[int] = []
    shots: list[Shot] = []
    for index, count in enumerate(counts.tolist()):
        if count:
            own = np.flatnonzero(shot_of == index)
            first = int(own[rng.integers(len(own) - count + 1)])
            shots.append(replace(script.shots[index], start=float(len(frames)), end=float(len(frames) + count)))
            frames += range(first, first + count)
    key = f"reel-{video}-{rng.integers(2**31)}"
    return Reel(frames, Script(key, video, 1.0, float(len(frames)), tuple(shots)))
