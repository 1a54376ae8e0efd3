"""The Python examples of README.md and docs/python.md, as a reader would run them."""

import re
from pathlib import Path

from lmms_kvtp.embedded.draw import encode_bytes
from lmms_kvtp.embedded.script import write_script

ROOT = Path(__file__).parents[2]
README, PAGE = ((ROOT / name).read_text() for name in ("README.md", "docs/python.md"))


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "video.mp4").write_bytes(encode_bytes(write_script(0, "val")))
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.strip().splitlines()) <= 6
    exec(compile(code, "README.md", "exec"), {})
    text, kept, before = capsys.readouterr().out.split()
    assert text.isalpha()
    assert int(kept) == int(0.2 * int(before))


def test_every_example_of_the_python_page_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "video.mp4").write_bytes(encode_bytes(write_script(0, "val")))
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(code, "docs/python.md", "exec"), names)
    shown = capsys.readouterr().out
    first, second, *_ = shown.splitlines()
    assert len(first.split()) == 3 and second.startswith("torch.Size([")
    assert shown.count("What color is the star?") == 6
