"""The prompts of the construction: one folder of text files for each version, never changed once released.

They ask for what appendix A of KVTP (arXiv 2503.10742) asks for, in our words, with answers in JSON.
"""

from pathlib import Path

VERSION = "v1"


def prompt(name: str, **values: object) -> str:
    """Fill `values` into a prompt; braces inside the values stay as they are."""
    return (Path(__file__).parent / VERSION / f"{name}.txt").read_text(encoding="utf-8").strip().format(**values)
