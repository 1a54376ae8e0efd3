"""The model id of LLaVA-OneVision: the same code, another checkpoint where none is named."""

from typing import ClassVar

from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.run.options import Images


class LlavaOnevisionKvtp(LlavaVideoKvtp):
    """LLaVA-OneVision with pruned vision tokens; KVTP with PruMerge where no other parts are named."""

    pretrained: ClassVar[str] = "lmms-lab/llava-onevision-qwen2-7b-ov"
    images: ClassVar[Images] = "tiles"
