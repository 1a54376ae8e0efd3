"""Our end of the pipe to a process that decodes ahead; it outlives processes that a video hangs or crashes."""

import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from lmms_kvtp.video.ahead.worker import Failed, Finished, Jobs, Message
from lmms_kvtp.video.pixels import PixelSpec

START = "import sys; sys.path[:] = {path!r}; from lmms_kvtp.video.ahead.worker import main; main()"


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
            if self.process:
                self.process.kill()
            self._changed.notify_all()
        self._thread.join()
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
            try:
                ours.send(self._announce(self._jobs[number:], specs=specs))
                ours.recv_bytes()  # it is ready; loading its libraries is no video's fault
            except (EOFError, OSError):
                code = self.process.wait()
                return self._fail_from(number, f"the process that decodes ahead ends at its start (exit code {code})")
            else:
                return self._take_in(ours, number)
            finally:
                with self._changed:
                    self._connection = None
                self.process.kill()
                self.process.wait()

    def _take_in(self, connection: Connection, number: int) -> int:
        left = self._seconds
        try:
            while number < len(self._jobs):
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._held < self._limit)
                start = time.monotonic()
                if not connection.poll(max(0.0, left)):
                    return self._give_up(number, f"it takes longer than video_seconds={self._seconds:g}")
                data = connection.recv_bytes()
                left -= time.monotonic() - start
                message = pickle.loads(data)
                self._put(number, message, len(data))
                if isinstance(message, Finished | Failed):
                    number, left = number + 1, self._seconds
        except (EOFError, OSError):
            assert self.process
            return self._give_up(number, f"it ends the decoder's process (exit code {self.process.wait()})")
        return number

    def _give_up(self, number: int, reason: str) -> int:
        text = f"cannot read video {' '.join(self._jobs[number])}: {reason}; replace the file, or leave it out"
        self._put(number, Failed("VideoError", text), 0)
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
