"""Our end of the pipe to a process that decodes ahead; it outlives processes that a video hangs or crashes."""

import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from lmms_kvtp.video.ahead.worker import Failed, Finished, Jobs, Message
from lmms_kvtp.video.pixels import PixelSpec

START = "import sys; sys.path[:] = {path!r}; from lmms_kvtp.video.ahead.worker import main; main()"
TRIES = 2
"""Processes that may die at their start, or on one sample: a lack of memory, or a person, ends sound ones, too."""
START_SECONDS, AGAIN_SECONDS = 10.0, 60.0
"""What two starts may take together beyond the time of a sample's videos, shared evenly, and the second at least."""
END_SECONDS = 5.0
"""Time in which a killed process ends; one that waits for a dead disk does not, and is left to the system."""


class Feed:
    """Takes in messages about videos, in order, and starts a new process where a video ends the old one.

    A thread does both. It stops where `limit_bytes` wait already, and the process then waits, too.
    """

    def __init__(
        self,
        jobs: Sequence[tuple[str, ...]],
        announce: Callable[..., Jobs],
        specs: frozenset[PixelSpec],
        limit_bytes: int,
        seconds: float,
    ) -> None:
        """Start thread and process."""
        self._jobs, self._announce, self._specs = list(jobs), announce, specs
        self._limit, self._seconds = limit_bytes, seconds
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Message, int]] = deque()
        self._held = 0
        self.peak = 0
        """Largest number of bytes that ever waited."""
        self._closed = False
        self._starts = self._deaths = self._told = 0
        """Failed starts in a row; of the sample that is next, processes that died on it, and messages handed on."""
        self._left = seconds
        self._connection: Connection | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="decode-ahead", daemon=True)
        self._thread.start()

    def get(self) -> tuple[int, Message]:
        """Wait for the next message; returns the number of its sample, and the message."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            number, message, size = self._waiting.popleft()
            self._held -= size
            self._changed.notify_all()
            return number, message

    def learn(self, specs: frozenset[PixelSpec]) -> None:
        """Have frames resized for these towers from now on."""
        with self._changed:
            self._specs = specs
            try:
                if self._connection:
                    self._connection.send(specs)
            except OSError:
                pass  # the process has just ended: the next one is told at its start

    def close(self) -> None:
        """End process and thread."""
        with self._changed:
            self._closed = True
            self._kill()
            self._changed.notify_all()
        self._thread.join(END_SECONDS)
        self._waiting.clear()

    def _run(self) -> None:
        number, reason = 0, "decoding ahead ended"
        try:
            while number < len(self._jobs) and not self._closed:
                number = self._serve(number)
        except OSError as error:
            reason = f"no process can be started to decode ahead: {error}"
        finally:
            if not self._closed:  # without a word on the rest, the model would wait for ever
                self._fail_from(number, reason)

    def _serve(self, number: int) -> int:
        """Take in what one process sends, from sample `number` on; returns the sample to go on with."""
        ours, theirs = Pipe()
        start = START.format(path=sys.path)
        with ours:
            with theirs, self._changed:
                if self._closed:
                    return len(self._jobs)
                command = [sys.executable, "-c", start, str(theirs.fileno())]
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
                )  # a session of its own: Ctrl-C is for us, and closing the pipe ends it
                self._connection, specs = ours, self._specs
            late = max((self._seconds + START_SECONDS) / 2, self._starts * AGAIN_SECONDS)
            try:
                limit(ours, late)
                ours.send(self._announce(self._jobs[number:], specs=specs))
                ours.recv_bytes()  # it is ready; loading its libraries is no video's fault
            except (EOFError, OSError) as error:
                self._starts += 1
                if self._starts < TRIES:
                    return number
                slow = isinstance(error, BlockingIOError)
                how = f"is not ready after {late:g} s" if slow else f"ends at its start (exit code {self._exit_code()})"
                return self._fail_from(number, f"the process that decodes ahead {how}, twice")
            else:
                self._starts = 0
                return self._take_in(ours, number)
            finally:
                with self._changed:
                    self._connection = None
                self._kill()
                self._exit_code()

    def _take_in(self, connection: Connection, number: int) -> int:
        received = 0  # messages of this sample; a second process repeats those of the first
        try:
            while number < len(self._jobs):
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._held < self._limit)
                start = time.monotonic()
                limit(connection, self._left)
                data = connection.recv_bytes()
                self._left -= time.monotonic() - start
                message, received = pickle.loads(data), received + 1
                if received > self._told:
                    self._put(number, message, len(data))
                    self._told = received
                if isinstance(message, Finished | Failed):
                    number, received = self._after(number), 0
        except BlockingIOError:
            return self._give_up(number, f"it takes longer than video_seconds={self._seconds:g}")
        except (EOFError, OSError):
            self._deaths += 1
            if self._deaths == TRIES:
                return self._give_up(number, f"it ends the decoder's process (exit code {self._exit_code()}), twice")
        return number

    def _kill(self) -> None:
        """End the process and its children."""
        if self.process and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _exit_code(self) -> int | None:
        assert self.process
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        return self.process.returncode

    def _give_up(self, number: int, reason: str) -> int:
        text = f"cannot read video {' '.join(self._jobs[number])}: {reason}; replace the file, or leave it out"
        self._put(number, Failed("VideoError", text), 0)
        return self._after(number)

    def _after(self, number: int) -> int:
        self._deaths, self._told, self._left = 0, 0, self._seconds
        return number + 1

    def _fail_from(self, number: int, reason: str) -> int:
        for place in range(number, len(self._jobs)):
            self._put(place, Failed("OSError", f"{reason}; set decode_ahead_mib=0"), 0)
        return len(self._jobs)

    def _put(self, number: int, message: Message, size: int) -> None:
        with self._changed:
            self._waiting.append((number, message, size))
            self._held += size
            self.peak = max(self.peak, self._held)
            self._changed.notify_all()


def limit(connection: Connection, seconds: float) -> None:
    """Have each wait for the other end raise BlockingIOError after some seconds, also inside a message."""
    time_left = struct.pack("@ll", *divmod(max(1, int(1e6 * seconds)), 10**6))
    with socket.socket(fileno=os.dup(connection.fileno())) as pipe:
        for way in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            pipe.setsockopt(socket.SOL_SOCKET, way, time_left)
