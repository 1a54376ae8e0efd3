"""Videos: from a file, a folder of frames or images in memory to pixels. What is named here is the public face."""

from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.load import image_files, load_video
from lmms_kvtp.video.sampling import FrameOptions

__all__ = ["FrameOptions", "VideoError", "image_files", "load_video"]
