"""Ten minutes of 1280x720 video in several codecs, made once, in the temporary folder."""

import io
import tempfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT, RATE, FRAMES, COPIES = 1280, 720, 30, 2250, 8
SCENE = 250
"""Frames for which the camera pans over one landscape."""


def _x26(name: str, group: int, more: str = "") -> dict[str, str]:
    return {
        "crf": "26",
        "preset": "veryfast",
        f"{name}-params": f"keyint={group}:min-keyint={group}:scenecut=0{more}",
    }


KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", _x26("x264", 250)),
    "h264, key frames every second": ("libx264", _x26("x264", 30)),
    "hevc": ("libx265", _x26("x265", 250, ":open-gop=0:log-level=none")),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "250", "crf": "36"}),
    "av1": ("libsvtav1", {"preset": "10", "crf": "35", "svtav1-params": "keyint=250"}),
}
"""Encoder and its options; a key frame every 250 frames unless the name says otherwise."""


def make(kind: str, copies: int = COPIES) -> Path:
    """A file of one part, again and again."""
    codec, options = KINDS[kind]
    name = "".join(letter if letter.isalnum() else "_" for letter in kind)
    path = Path(tempfile.gettempdir()) / f"lmms_kvtp_{name}_{WIDTH}x{HEIGHT}_{FRAMES}x{copies}.mp4"
    if path.exists():
        return path
    part, unfinished = _encode_part(codec, options), path.with_suffix(".part.mp4")
    with av.open(str(unfinished), "w") as output:
        stream = None
        for copy in range(copies):
            with av.open(io.BytesIO(part)) as source:
                template = source.streams.video[0]
                stream = stream or output.add_stream_from_template(template, opaque=True)
                shift = int(copy * FRAMES / RATE / template.time_base)
                for packet in source.demux(template):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        output.mux(packet)
    unfinished.rename(path)
    return path


def _encode_part(codec: str, options: dict[str, str]) -> bytes:
    """75 seconds of a camera that pans over landscapes."""
    scenes, buffer = pictures(), io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            x, y = int(number % SCENE * 4.3), int(60 + 50 * np.sin(number / 25))
            crop = scenes[number // SCENE][y : y + HEIGHT, x : x + WIDTH]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(crop), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def pictures() -> list[np.ndarray]:
    """Smooth random landscapes, each wider and higher than a frame."""
    rng = np.random.default_rng(0)
    scenes = []
    for _ in range(FRAMES // SCENE):
        layers = [(8, 60), (32, 40), (120, 25), (400, 12)]
        noise = [(Image.fromarray(rng.integers(0, 256, (n, 3 * n, 3), dtype=np.uint8)), amount) for n, amount in layers]
        sized = [np.asarray(image.resize((2600, 900), Image.Resampling.BICUBIC), np.float32) for image, _ in noise]
        total = sum(layer * amount / 128 for layer, (_, amount) in zip(sized, noise, strict=True))
        scenes.append(np.clip(total, 0, 255).astype(np.uint8))
    return scenes
