"""Exchanges questions between ranks, so that those on one video meet on one rank, and sends the answers back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch.distributed as dist

from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.answerer import SampleError
from lmms_kvtp.run.asks import IN_MEMORY, Ask

Value = TypeVar("Value")
Place = tuple[int, int]
"""Where the harness asked: the rank, and the number of the request there."""


def gather(value: Value) -> list[Value]:
    """Collect a value from every rank, in their order; all ranks call this together."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def own_rank() -> int:
    """Rank of this process; 0 where there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def share_out(asks: Mapping[int, Ask]) -> tuple[dict[Place, Ask], list[Ask]]:
    """Divide the questions: those that this rank is to answer, and those of all ranks as far as known here.

    All ranks call this together.

    Args:
        asks: questions that the harness gave to this rank, by their number.
    """
    files = {i: ask for i, ask in asks.items() if not any(map(IN_MEMORY.match, ask.visuals))}  # images in memory stay
    can_go = {i: replace(ask, load=partial(list, ask.visuals)) for i, ask in files.items()}
    gathered = gather([(i, ask.visuals, can_go.get(i)) for i, ask in asks.items()])
    rank = own_rank()
    known = {(owner, i): ask for owner, theirs in enumerate(gathered) for i, _, ask in theirs if ask}
    known |= {(rank, i): ask for i, ask in asks.items()}
    shares = divide([[(i, visuals, ask is not None) for i, visuals, ask in theirs] for theirs in gathered])
    return {place: known[place] for place in shares[rank]}, list(known.values())


def send_back(answers: Mapping[Place, Answer], failure: SampleError | None) -> dict[Place, Answer]:
    """Exchange answers; all ranks call this together, also where one has failed.

    SampleError on every rank, when one has failed.
    """
    gathered = gather((dict(answers), str(failure) if failure else None))
    if failure:
        raise failure
    for rank, (_, error) in enumerate(gathered):
        if error:
            raise SampleError(f"on rank {rank}: {error}")
    return {place: answer for theirs, _ in gathered for place, answer in theirs.items()}


def divide(asked: Sequence[Sequence[tuple[int, tuple[str, ...], bool]]]) -> list[list[Place]]:
    """Give each video with its questions to the rank that has least to do, the largest first.

    Args:
        asked: of each rank, number, visuals, and whether the question may go to another rank.

    Returns:
        The questions of each rank, in the order in which the videos were met.
    """
    groups: dict[object, list[Place]] = {}
    load = [0] * len(asked)
    owner: dict[Place, int] = {}
    for rank, questions in enumerate(asked):
        for i, visuals, travels in questions:
            if travels:
                groups.setdefault(visuals or (rank, i), []).append((rank, i))  # text alone goes anywhere
            else:
                owner[rank, i] = rank
                load[rank] += 1
    for places in sorted(groups.values(), key=len, reverse=True):
        rank = load.index(min(load))
        load[rank] += len(places) + 1  # the video has to be read, too
        owner |= dict.fromkeys(places, rank)
    order = [(rank, i) for rank, questions in enumerate(asked) for i, _, _ in questions]
    return [[place for place in order if owner[place] == rank] for rank in range(len(asked))]
