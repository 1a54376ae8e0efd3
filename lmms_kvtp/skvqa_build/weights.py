"""What stands for the weights of a model that runs here, so that finished calls are not taken for another's."""

from pathlib import Path

from lmms_kvtp.skvqa_build.store import content_key
from lmms_kvtp.skvqa_build.videos import fingerprint

SUFFIXES = (".safetensors", ".bin", ".pt", ".json", ".txt", ".model")
"""Of weights, configurations and tokenizers: an index beside them changes nothing."""


def weights_of(checkpoint: str | Path) -> str:
    """Stands for the files in a folder: their names, sizes, and samples of their content, the tensors' names among it.

    Empty for what is no folder: a hub's id names its weights itself.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return ""
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    return content_key([(path.relative_to(folder).as_posix(), fingerprint(path)) for path in files])
