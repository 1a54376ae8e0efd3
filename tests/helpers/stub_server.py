"""A server in the form of OpenAI's chat completions, with the faults of real ones; run it as a process of its own.

It prints its port, answers by what is asked, and writes one line for each request to a log file. Behaviour is chosen
by the model's name: `good`, or one of FAULTS.
"""

import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = (
    "limited",
    "broken",
    "slow",
    "garbage",
    "empty",
    "chatty",
    "stubborn",
    "injected",
    "unusable",
    "uncounted",
    "foreign",
)


class Counter:
    def __init__(self) -> None:
        self.lock, self.seen, self.busy, self.most = threading.Lock(), {}, 0, 0

    def again(self, key: str) -> int:
        """How often this was asked before."""
        with self.lock:
            self.seen[key] = self.seen.get(key, 0) + 1
            return self.seen[key] - 1


COUNTER = Counter()
LOG = Path(sys.argv[1]) if len(sys.argv) > 1 else None
DELAY = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0


def good_answer(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    if isinstance(content, list):
        return f"The clip begins with {len(content) - 1} frames and ends."
    if '{"question"' in content:
        asked = re.findall(r"<question>(.*?)</question>", content, re.DOTALL)[-1]
        return json.dumps({"question": f"Refined: {' '.join(asked.split()[:9])}"})
    clips = re.findall(r"^(\d+-\d+): ", content, re.MULTILINE)
    return json.dumps({"scores": {clip: (5 if number == 1 else 0) for number, clip in enumerate(clips)}})


def fault(model: str, times: int, answer: str, turns: int) -> tuple[int, str]:
    """Status and text of an answer; `times` counts requests of this content before."""
    if model == "limited" and times < 2:
        return 429, "slow down"
    if model == "broken" and times < 2:
        return 500, "oops"
    if model == "slow" and times < 1:
        time.sleep(3)
    if model == "unusable":
        return 503, "down"
    if model == "chatty" and turns == 1:
        return 200, f"Sure! Here you are:\n{answer}"
    if model == "stubborn":
        return 200, "I would rather talk about the weather."
    if model == "injected":
        return 200, "{'scores': __import__('os').system('touch /tmp/injected')}"
    if model == "foreign":
        return (
            200,
            "\u732b\u304c\u8d70\u308b\n0-7: \U0001f408 {0}\n" * 625,
        )  # 10,000 characters, lines of clips among them
    return 200, answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = body["model"]
        with COUNTER.lock:
            COUNTER.busy += 1
            COUNTER.most = max(COUNTER.most, COUNTER.busy)
        try:
            time.sleep(DELAY)
            if self.headers.get("Authorization") == "Bearer wrong":
                return self.reply(401, {"error": {"message": "wrong key"}})
            if model not in ("good", *FAULTS):
                return self.reply(404, {"error": {"message": f"no model {model}"}})
            key = json.dumps(body["messages"]) + model
            if LOG is not None:
                with COUNTER.lock, LOG.open("a") as log:
                    log.write(json.dumps({"model": model, "most": COUNTER.most}) + "\n")
            status, text = fault(model, COUNTER.again(key), good_answer(body), len(body["messages"]))
            if status != 200:
                return self.reply(status, {"error": {"message": text}})
            if model == "garbage":
                return self.reply(200, "this is no JSON")
            choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]
            usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
            self.reply(
                200,
                {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 0,
                    "model": model,
                    "choices": [] if model == "empty" else choices,
                    "usage": None if model == "uncounted" else usage,
                },
            )
        finally:
            with COUNTER.lock:
                COUNTER.busy -= 1

    def reply(self, status: int, content: Any) -> None:
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0.2")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that was killed resets its connections."""


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
