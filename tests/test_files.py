"""Files are written whole or not at all; the home folder and fingerprints follow what they stand for."""

from pathlib import Path

import pytest

from lmms_kvtp.files import (
    PIECE,
    append_line,
    content_key,
    fingerprint,
    from_json,
    home,
    is_inside,
    read_json,
    text_lines,
    write_atomically,
    write_whole,
    written_whole,
)


def refuse(source: str, target: object) -> None:
    assert Path(source).match(".clip.*.part")  # what others sweep after a crash
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("write", [write_atomically, write_whole])
def test_a_failed_write_leaves_the_old_file_and_no_litter(write, tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    write(path, b"old")
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write(path, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("clip.mp4", b"old")]


def test_what_a_command_cannot_write_is_named_with_the_way_out(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"cannot write .*out: .*; free some space there, or choose another folder"):
        write_whole(tmp_path / "file" / "out", b"")


@pytest.mark.parametrize(("there", "then"), [(None, "c\n"), ("a\n", "a\nc\n"), ('a\n{"b', 'a\n{"b\nc\n')])
def test_a_line_stands_alone_behind_one_that_was_torn(there, then, tmp_path):
    if there is not None:
        (tmp_path / "lines").write_text(there)
    append_line(tmp_path / "lines", "c", "and go on")
    assert (tmp_path / "lines").read_text() == then


@pytest.mark.parametrize("left", [False, True])  # by a process that was killed inside the block
def test_files_of_a_folder_are_replaced_together_and_others_stay(left, tmp_path):
    for name in ("a", "b", "other"):
        (tmp_path / name).write_text("old")
    if left:
        (tmp_path / ".new.part").mkdir()
        (tmp_path / ".new.part" / "other").write_text("half")
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path) as new:
        (new / "a").write_text("new")
        raise KeyboardInterrupt
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(("a", "b", "other"), "old")
    with written_whole(tmp_path) as new:
        (new / "a").write_text("new")
        (new / "b").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a": "new", "b": "new", "other": "old"}


def test_the_home_folder_is_the_first_that_is_named(monkeypatch):
    for name in ("LMMS_KVTP_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert home() == Path("/home/someone/.cache/lmms_kvtp")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert home() == Path("/xdg/lmms_kvtp")
    monkeypatch.setenv("LMMS_KVTP_HOME", "~/videos")
    assert home() == Path("/home/someone/videos")


def test_the_order_of_keys_does_not_matter():
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1})
    assert len({content_key({"a": 1}), content_key({"a": 2}), content_key(1, 2), content_key([1, 2])}) == 4


def test_a_folder_is_its_names_sizes_and_content(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "config.json").write_text("{}")
    before = fingerprint(tmp_path)
    (tmp_path / ".hidden").write_text("lock")
    assert fingerprint(tmp_path) == before
    (tmp_path / "inner" / "config.json").write_text("[]")
    changed = fingerprint(tmp_path)
    (tmp_path / "inner" / "config.json").rename(tmp_path / "config.json")
    assert len({before, changed, fingerprint(tmp_path)}) == 3


def test_both_ends_and_the_middle_of_a_large_file_count(tmp_path):
    marks = set()
    for position in (0, 5 * PIECE // 2 + 1, 5 * PIECE - 1):
        content = bytearray(5 * PIECE)
        content[position] = 1
        (tmp_path / "weights").write_bytes(content)
        marks.add(fingerprint(tmp_path / "weights"))
    for size in (5 * PIECE, 5 * PIECE + 1):
        (tmp_path / "weights").write_bytes(bytes(size))
        marks.add(fingerprint(tmp_path / "weights"))
    assert len(marks) == 5


def test_json_lines_end_at_newlines_alone(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes('\ufeff{"a": "one\u2028two\u0085three"}\r\n\n  \n{}'.encode())
    assert list(text_lines(path)) == [(1, '{"a": "one\u2028two\u0085three"}'), (4, "{}")]
    path.write_bytes(b"{}\n\xe9\n")
    with pytest.raises(ValueError, match=r"lines\.jsonl, line 2 is not UTF-8 .*; convert the file first"):
        list(text_lines(path))


@pytest.mark.parametrize("name", ["/a", "../a", "a/../../b", "..\\a", "C:/a", "c:a", "\\a", "a\0b"])
def test_a_path_that_leaves_its_folder_is_known(name):
    assert not is_inside(name)
    assert is_inside("a/b..mp4") and is_inside("a") and is_inside("ä/…/c d.mp4")


def test_json_of_the_harness_is_read_and_other_json_is_one_kind_of_error():
    assert from_json('{"a": NaN, "b": "\\ud800x", "c": [1e999]}') == {"a": None, "b": "?x", "c": [float("inf")]}
    for text in ("[" * 100_000, "", "\xff", "{"):
        with pytest.raises(ValueError):
            from_json(text.encode("latin-1"))


def test_a_text_that_is_no_unicode_is_written_all_the_same(tmp_path):
    write_whole(tmp_path / "a.html", "a\ud800b")
    assert (tmp_path / "a.html").read_text() == "a?b"


@pytest.mark.parametrize(("text", "told"), [("", "is not JSON"), ("[1", "is not JSON"), ("[]", "holds a list")])
def test_a_damaged_file_is_named(text, told, tmp_path):
    file = tmp_path / "cells.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"cells\.json {told}"):
        read_json(file, dict)
