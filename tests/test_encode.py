"""Frames and pixels of a long video never stand in memory together."""

import gc
import weakref

import pytest
import torch
from helpers.checkpoints import write_tiny

from lmms_kvtp.api import Model
from lmms_kvtp.encode import encode
from lmms_kvtp.presets import settings_of
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video

CHUNK, CHUNKS = 3, 5


class Watched:
    """Before each chunk is decoded, notes how many of the chunks before still have frames or pixels somewhere."""

    source, key, duration, instruction, timing = "noise", "noise", float(CHUNK * CHUNKS), "", None
    indices, times = torch.arange(CHUNK * CHUNKS), torch.arange(float(CHUNK * CHUNKS))

    def __init__(self, specs):
        self.specs, self.given, self.alive = specs, [], []

    def chunks(self):
        for part in self.indices.split(CHUNK):
            gc.collect()
            self.alive.append(sum(any(tensor() is not None for tensor in tensors) for tensors in self.given))
            yield self._frames(part)
        gc.collect()
        self.alive.append(sum(any(tensor() is not None for tensor in tensors) for tensors in self.given))

    def _frames(self, part):
        rgb = torch.randint(0, 255, (len(part), 40, 60, 3), generator=torch.manual_seed(3)).to(torch.uint8)
        frames = Frames(rgb, self.times[part])
        # storages are watched, so that views of them count, too
        self.given.append([weakref.ref(x.untyped_storage()) for x in (rgb, *map(frames.pixels, self.specs))])
        return frames


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("model"))
    return Model(load_llava_video(str(folder), LoadOptions(device="cpu")))


@pytest.mark.parametrize("name", ["random", "kvtp+prumerge", "kvtp+visionzip"])
def test_a_chunks_frames_and_pixels_are_gone_before_the_next_is_decoded(model, name):
    method = model.method({**settings_of(name, 0.25), "encoder.device": "cpu"})
    encoder = getattr(method.encoder, "pixel_spec", model.vlm.pixel_spec)
    video = Watched({model.vlm.pixel_spec, encoder})
    encoded = encode(model.vlm, method, video)
    assert encoded.tokens.num_frames == CHUNK * CHUNKS
    assert video.alive == [0] * (CHUNKS + 1)
