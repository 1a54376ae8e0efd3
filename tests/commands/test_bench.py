"""`lmms-kvtp bench e2e` on journals."""

import pytest
from helpers.checkpoints import write_tiny
from helpers.lookalike import write_video

from lmms_kvtp.__main__ import main
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.journal import Journal


def journal(folder, rank, **cost):
    made = Journal.create(folder, "20260102_030405", rank, {})
    if cost:
        made.write(f"key{rank}", f"document{rank}", Answer("A", SampleCost(**cost)))
    return str(made.path)


def test_journals_of_all_ranks_count(tmp_path, capsys):
    files = [journal(tmp_path, rank, seconds={"decode": 1.25 + rank, "prefill": 0.5}) for rank in (0, 1)]
    assert main(["bench", "e2e", *files]) == 0
    written = capsys.readouterr().out
    assert written.startswith("2 answers\n")
    assert "| decode                      | 3.50    | 77.8      |" in written


def test_a_warm_up_that_is_in_the_table_is_told(tmp_path, capsys):
    files = [journal(tmp_path, rank, seconds={"prefill": 0.5}, cold=rank == 0) for rank in range(3)]
    assert main(["bench", "e2e", *files]) == 0
    written = capsys.readouterr().out
    assert written.startswith("3 answers, the warm-up included: 1 on the first video of a process\n")


@pytest.mark.parametrize(
    ("cost", "message"), [({}, "holds no answers"), ({"swept": True, "seconds": {"decode": 1.0}}, "is of a sweep")]
)
def test_runs_that_say_nothing_of_time_are_refused(tmp_path, capsys, cost, message):
    with pytest.raises(SystemExit):
        main(["bench", "e2e", journal(tmp_path, 0, **cost)])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing given; name one of JOURNAL, --task, --videos, --random-weights"),
        (["some.jsonl", "--task", "skvqa_synth"], "JOURNAL and --task given; name one of"),
        (["--random-weights", "llava-video-8b"], "no sizes of model 'llava-video-8b'; did you mean llava-video-7b"),
        (["--videos", "EMPTY"], "holds no video; files ending in .mp4, .mkv"),
    ],
)
def test_what_cannot_be_timed_is_refused(tmp_path, capsys, given, message):
    with pytest.raises(SystemExit):
        main(["bench", "e2e", *[str(tmp_path) if part == "EMPTY" else part for part in given]])
    assert message in capsys.readouterr().err


def columns(written):
    """The cells of each row of a table."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in written.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_a_random_model_is_timed_stage_by_stage_beside_its_floors(capsys):
    given = "--random-weights tiny --frames 4 --encoder shared --rounds 1 --device cpu"
    assert main(["bench", "e2e", *given.split()]) == 0
    written = capsys.readouterr().out
    assert "tiny with random weights, 4 frames, kvtp+prumerge, encoder shared, torch.float32 on cpu" in written
    assert "kept: 28 of 144 tokens" in written
    found = columns(written)
    for stage in ("vision", "encoder", "scorer", "prefill"):
        assert float(found[stage][0]) >= 0 and float(found[stage][2]) > 0
    assert found["decode"][2] == found["preprocess"][2] == ""


def test_a_folder_of_videos_is_answered_and_its_decoding_timed_alone(tmp_path, capsys):
    checkpoint = write_tiny(tmp_path / "model")
    for number in range(3):
        write_video(tmp_path / f"clip{number}.mp4", number)
    (tmp_path / "a note.txt").write_text("no video")
    settings = f"pretrained={checkpoint},keep_ratio=0.5,device=cpu"
    assert main(["bench", "e2e", "--videos", str(tmp_path), "--limit", "2", "--model_args", settings]) == 0
    written = capsys.readouterr().out
    assert "2 answers, the warm-up included: 1 on the first video of a process; matrix products: " in written
    found = columns(written)
    assert float(found["decode"][2]) > 0 and float(found["vision"][2]) > 0
    assert float(found["ideal, one after the other"][2]) > 0
