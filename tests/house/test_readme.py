"""The Python example of the README, as a reader would run it."""

import re
from pathlib import Path

from lmms_kvtp.embedded.draw import encode_bytes
from lmms_kvtp.embedded.script import write_script

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "video.mp4").write_bytes(encode_bytes(write_script(0, "val")))
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.strip().splitlines()) <= 6
    exec(compile(code, "README.md", "exec"), {})
    text, kept, before = capsys.readouterr().out.split()
    assert text.isalpha()
    assert int(kept) == int(0.2 * int(before))
