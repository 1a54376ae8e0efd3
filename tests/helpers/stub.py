"""The stub server as a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class Stub:
    """A running server."""

    def __init__(self, log: Path, delay: float) -> None:
        script = Path(__file__).with_name("stub_server.py")
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(script), str(log), str(delay)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"

    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
