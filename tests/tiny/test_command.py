"""The command that trains the embedded model: its arguments, and how it refuses them."""

import pytest

from benchmarks.embedded_model.__main__ import main


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--threads", "0"], "argument --threads: 0 is no whole number of at least 1; see {0} --help"),
        (["--seed", "-1"], "argument --seed: -1 is no whole number of at least 0; see {0} --help"),
        (["--device", "mars"], "device=mars is not a torch device; use cpu, cuda or cuda:0, or leave it out"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_refused_in_one_line(given, message, tmp_path, capsys):
    command = "python -m benchmarks.embedded_model"
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path / "x"), *given])
    assert ended.value.code == 2 and not (tmp_path / "x").exists()
    assert capsys.readouterr().err == f"{command}: {message.format(command)}\n"


def test_a_file_in_the_way_is_named(tmp_path, capsys):
    (tmp_path / "x").write_text("a file")
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "x"), "--device", "cpu"])
    assert "check this path, or give another" in capsys.readouterr().err
