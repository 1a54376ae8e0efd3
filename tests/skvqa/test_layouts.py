import io
import json
import resource
import tarfile
import zipfile

import pytest
from helpers.skvqa_lookalikes import WRITERS, nextqa_rows, videomme_rows, write_frames, write_json, write_parquet

from lmms_kvtp.skvqa.layouts import LAYOUTS, LayoutError, read_questions
from lmms_kvtp.skvqa_build.videos import ArchiveError, scan, unpack

COUNTS = {
    "videomme": 4,
    "egoschema": 2,
    "nextqa": 4,
    "activitynetqa": 2,
    "perceptiontest": 4,
    "videochatgpt": 6,
    "mvbench": 6,
}
"""Questions of a look-alike with two videos."""


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_questions_and_videos_of_each_layout_are_found(tmp_path, dataset):
    annotations, root, names = WRITERS[dataset](tmp_path, 2)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if "." in name:
            (root / name).touch()
        else:
            write_frames(root / name, 0, seconds=1)
    questions = read_questions(dataset, annotations)
    assert len(questions) == COUNTS[dataset]
    found = scan(root).find_all(dataset, [asked.video for asked in questions])
    assert {path.relative_to(root).as_posix() for path in found.values()} == set(names)
    assert all(asked.question and asked.video_id for asked in questions)


def test_options_and_ids_are_those_of_the_data_set(tmp_path):
    asked = read_questions("nextqa", write_parquet(tmp_path / "MC" / "test.parquet", nextqa_rows(1, 1)))[0]
    assert (asked.question_id, asked.video_id) == ("4010069381-0", "4010069381")
    assert asked.options == ("tickled", "funny dog", "music", "fell", "mother")
    [first, *_] = read_questions("videomme", write_parquet(tmp_path / "test.parquet", videomme_rows(1, 1)))
    assert first.options[0] == "A. A red star."


def test_the_hubs_form_of_perception_test_gives_the_same_ids_as_the_data_sets_own(tmp_path):
    own = read_questions("perceptiontest", WRITERS["perceptiontest"](tmp_path, 1)[0])
    row = {"video_name": "video_0", "question": "Is it?", "options": ["a", "b", "c"], "answer_id": 1}
    rows = [{**row, "question_id": number} for number in (4, 7)]
    hub = read_questions("perceptiontest", write_parquet(tmp_path / "hub.parquet", rows))
    assert [asked.question_id for asked in hub] == [asked.question_id for asked in own]


def test_a_missing_field_is_named_with_the_expected_layout(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "videoID"} for row in videomme_rows(1, 2)]
    with pytest.raises(LayoutError, match=r"row 1 lacks the field 'videoID'; videomme is read from the parquet file"):
        read_questions("videomme", write_parquet(tmp_path / "test.parquet", rows))


@pytest.mark.parametrize("field", [{"question": ""}, {"question": None}, {"options": "A. x"}, {"options": ["", "b"]}])
def test_an_empty_field_is_refused(tmp_path, field):
    path = write_json(tmp_path / "test.json", [{**videomme_rows(1, 1)[0], **field}])
    with pytest.raises(LayoutError, match=r"row 1 has (a question|options) that"):
        read_questions("videomme", path)


def test_duplicate_question_ids_are_refused(tmp_path):
    rows = videomme_rows(1, 2)
    with pytest.raises(LayoutError, match="1 question ids more than once, such as 000-1"):
        read_questions("videomme", write_json(tmp_path / "test.json", [*rows, rows[1]]))


def test_unreadable_annotations_are_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.parquet").write_text("no parquet")
    for name in ("broken.json", "broken.parquet"):
        with pytest.raises(LayoutError, match=f"cannot read .*{name}"):
            read_questions("videomme", tmp_path / name)
    with pytest.raises(LayoutError, match="no annotations at"):
        read_questions("videomme", tmp_path / "nowhere")
    with pytest.raises(LayoutError, match="not an object"):
        read_questions("videomme", write_json(tmp_path / "list.json", [1]))


def test_all_missing_videos_are_listed_at_once(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(LayoutError) as error:
        scan(tmp_path).find_all("egoschema", ["a", "b", "c"])
    assert "2 of 3 videos are not below" in str(error.value)
    assert "\n  b\n  c\n" in str(error.value)
    assert "<video_idx>.mp4" in str(error.value)
    assert list(scan(tmp_path).find_all("egoschema", ["a", "b"], skip_missing=True)) == ["a"]
    many = [f"video{number}" for number in range(99)]
    with pytest.raises(LayoutError, match=r"and 79 more: video20, video21, .*, video98\n") as error:
        scan(tmp_path).find_all("egoschema", many)
    assert all(name in str(error.value) for name in many)


def test_of_two_files_with_one_name_the_one_in_the_named_folder_is_taken(tmp_path):
    for folder in ("clevrer/video_validation", "perception/videos"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "video_1.mp4").touch()
    assert scan(tmp_path).find("perception/videos/video_1.mp4") == tmp_path / "perception/videos/video_1.mp4"


def test_of_a_file_and_a_folder_of_frames_with_one_name_the_file_is_taken(tmp_path):
    write_frames(tmp_path / "frames" / "v1", 0, seconds=1)
    assert scan(tmp_path).find("v1") == tmp_path / "frames" / "v1"
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "v1.mp4").touch()
    assert scan(tmp_path).find("v1") == tmp_path / "videos" / "v1.mp4"
    assert scan(tmp_path).find("frames/v1") == tmp_path / "frames" / "v1"


def test_a_dot_in_a_name_is_no_extension(tmp_path):
    (tmp_path / "v_1.2.mp4").touch()
    assert scan(tmp_path).find("v_1.2") == tmp_path / "v_1.2.mp4"


def zipped(path, names, content=b"film"):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return path


def tarred(path, names, content=b"film"):
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("make", [zipped, tarred])
def test_archives_are_unpacked(tmp_path, make):
    unpack(make(tmp_path / "archive", ["data/a.mp4", "b.mp4"]), tmp_path / "out")
    assert (tmp_path / "out" / "data" / "a.mp4").read_bytes() == b"film"
    assert set(scan(tmp_path / "out").found) == {"a", "b"}


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", ["/tmp/evil.mp4", "../evil.mp4", "data/../../evil.mp4", "..\\evil.mp4", "C:/evil.mp4"])
def test_an_archive_that_would_leave_the_folder_unpacks_nothing(tmp_path, make, name):
    archive = make(tmp_path / "archive", ["good.mp4", name])
    with pytest.raises(ArchiveError, match="lies outside of the folder; nothing unpacked"):
        unpack(archive, tmp_path / "in" / "out")
    assert [path.name for path in tmp_path.rglob("*.mp4")] == []


def test_a_damaged_archive_is_named(tmp_path):
    archive = zipped(tmp_path / "videos.zip", ["a.mp4"])
    archive.write_bytes(archive.read_bytes().replace(b"film", b"filn"))
    with pytest.raises(ArchiveError, match=r"cannot unpack .*videos.zip: .*download it again"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []  # of the full size, it would be taken for the film next time
    (tmp_path / "text").write_text(json.dumps({}))
    with pytest.raises(ArchiveError, match="neither a zip nor a tar"):
        unpack(tmp_path / "text", tmp_path / "out")


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_file_that_is_cut_off_for_want_of_room_does_not_take_its_place(tmp_path, make):
    archive, there = make(tmp_path / "archive", ["a.mp4"], bytes(100_000)), tmp_path / "out" / "a.mp4"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # bytes of a file, as if the disk were full then
    try:
        with pytest.raises(ArchiveError, match=rf"File too large; free some space for {there.parent}, or choose"):
            unpack(archive, there.parent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(there.parent.iterdir()) == []
    unpack(archive, there.parent)
    assert there.read_bytes() == bytes(100_000)


def test_an_archive_of_a_member_that_would_be_read_for_ever_unpacks_nothing(tmp_path):
    with tarfile.open(tmp_path / "archive.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, size in (("a.mp4", 0), ("b.mp4", -512)):  # the next member of b.mp4 is b.mp4
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member)
    with pytest.raises(ArchiveError, match=r"unpacks to -512 bytes with 'b.mp4'"):
        unpack(tmp_path / "archive.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_of_an_archive_are_left_out(tmp_path):
    with tarfile.open(tarred(tmp_path / "archive", ["a.mp4"]), "a") as archive:
        member = tarfile.TarInfo("b.mp4")
        member.type, member.linkname = tarfile.SYMTYPE, "../../a.mp4"
        archive.addfile(member)
    unpack(tmp_path / "archive", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]


def test_an_archive_that_unpacks_to_far_more_than_videos_can_unpacks_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mp4", bytes(80_000_000))
    with pytest.raises(
        ArchiveError, match=r"unpacks to 80000000 bytes with 'a.mp4', .* has at most 67108864; nothing unpacked"
    ):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("at", [6, 8])  # flags: encrypted; an unknown method
def test_an_archive_that_python_cannot_read_is_named(tmp_path, at):
    archive = zipped(tmp_path / "videos.zip", ["a.mp4"])
    data = bytearray(archive.read_bytes())
    for head, offset in ((b"PK\3\4", at), (b"PK\1\2", at + 2)):
        data[data.index(head) + offset] = 1 if at == 6 else 99
    archive.write_bytes(bytes(data))
    with pytest.raises(ArchiveError, match=r"cannot unpack .*videos.zip: .*unpack by hand"):
        unpack(archive, tmp_path / "out")
