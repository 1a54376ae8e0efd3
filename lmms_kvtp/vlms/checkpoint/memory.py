"""Memory that runs out, told in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

WANTED = re.compile(r"tried to allocate ([\d.]+ ?[a-z]*)", re.IGNORECASE)


class OutOfMemoryError(RuntimeError):
    """An allocation failed; the message says what for, how much was wanted, and what to lower."""


@contextmanager
def told(doing: str, lower: str) -> Iterator[None]:
    """Turn a failed allocation of torch inside the block into one line.

    Args:
        doing: what the memory was for, with its sizes.
        lower: the settings that need less.

    Raises:
        OutOfMemoryError: an allocation failed; every other error passes.
    """
    try:
        yield
    except RuntimeError as error:  # torch's own type covers accelerators only
        wanted = WANTED.search(str(error))
        if wanted is None:
            raise
        raise OutOfMemoryError(f"out of memory: {doing} wanted {wanted[1].strip()} more; {lower}") from None
