"""The seven data sets, as the harness and the data sets' own pages distribute them: annotations and a video folder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_kvtp.skvqa.tables import Row, rows


def videomme(row: Row) -> tuple[str, str]:
    """Question and video of a row of Video-MME."""
    return str(row["question_id"]), str(row["videoID"])


def egoschema(row: Row) -> tuple[str, str]:
    """Of EgoSchema, which asks one question on each video."""
    return str(row["video_idx"]), str(row["video_idx"])


def nextqa(row: Row) -> tuple[str, str]:
    """Of NExT-QA, which numbers the questions of each video."""
    return f"{row['video']}-{row['qid']}", str(row["video"])


EVALUATED: Mapping[str, Callable[[Row], tuple[str, str]]] = {
    "videomme": videomme,
    "egoschema": egoschema,
    "nextqa": nextqa,
}
"""Data sets with a task."""


@dataclass(frozen=True)
class SourceQuestion:
    """A question as its data set has it."""

    question_id: str
    video_id: str
    video: str
    """Name of the video's file, with or without folder and extension."""
    question: str
    options: tuple[str, ...] = ()


Reader = Callable[[Row, Path, int], list[SourceQuestion]]


class LayoutError(ValueError):
    """Annotations or videos are not where they are wanted; the message has the expected layout."""


def _videomme(row: Row, file: Path, number: int) -> list[SourceQuestion]:
    name, video = videomme(row)
    return [SourceQuestion(name, video, video, _text(row["question"]), _texts(row["options"]))]


def _egoschema(row: Row, file: Path, number: int) -> list[SourceQuestion]:
    name, video = egoschema(row)
    return [SourceQuestion(name, video, video, _text(row["question"]), _texts(row["option"]))]


def _nextqa(row: Row, file: Path, number: int) -> list[SourceQuestion]:
    name, video = nextqa(row)
    options = _texts([row[f"a{index}"] for index in range(5)])
    return [SourceQuestion(name, video, video, _text(row["question"]), options)]


def _activitynetqa(row: Row, file: Path, number: int) -> list[SourceQuestion]:
    if set(row) == {"answer", "type", "question_id"}:  # *_a.json: answers, apart from their questions
        return []
    video = str(row["video_name"])
    return [SourceQuestion(str(row["question_id"]), video, f"v_{video}", _text(row["question"]))]


def _perceptiontest(row: Row, file: Path, number: int) -> list[SourceQuestion]:
    if "mc_question" in row:  # the data set's own page: one object for each video
        video = str(row["_key"])
        asked: list[Row] = [{**question, "question_id": question["id"]} for question in row["mc_question"]]
    else:
        video, asked = str(row["video_name"]), [row]
    return [
        SourceQuestion(f"{video}-{one['question_id']}", video, video, _text(one["question"]), _texts(one["options"]))
        for one in asked
    ]


def _videochatgpt(row: Row, file: Path, number: int) -> list[SourceQuestion]:
    video, kind = str(row["video_name"]), file.parent.name if file.suffix == ".parquet" else file.stem
    names = [name for name in ("question", "question_1", "question_2", "Q", "Q1", "Q2") if row.get(name)]
    if not names:
        raise KeyError("question")
    return [SourceQuestion(f"{kind}-{number}-{name[-1]}", video, video, _text(row[name])) for name in names]


def _mvbench(row: Row, file: Path, number: int) -> list[SourceQuestion]:
    task = file.parent.name if file.suffix == ".parquet" else file.stem
    video = str(row["video"])
    options = _texts(row["candidates"])
    path = f"{MVBENCH_FOLDERS.get(task, '')}/{video}"
    return [SourceQuestion(f"{task}-{number}", path, path, _text(row["question"]), options)]


MVBENCH_FOLDERS = {
    "object_interaction": "star/Charades_segment",
    "action_sequence": "star/Charades_segment",
    "action_prediction": "star/Charades_segment",
    "action_localization": "sta/sta_video_segment",
    "moving_count": "clevrer/video_validation",
    "fine_grained_pose": "nturgbd_convert",
    "character_order": "perception/videos",
    "object_shuffle": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "moving_direction": "clevrer/video_validation",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "moving_attribute": "clevrer/video_validation",
    "action_antonym": "ssv2_video_mp4",
    "unexpected_action": "FunQA_test/test",
    "counterfactual_inference": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "action_count": "perception/videos",
}
"""Where the hub's release keeps the videos of each sub-task; those of episodic_reasoning may be folders of frames."""


@dataclass(frozen=True)
class Layout:
    """How one data set is read, and what a user must have."""

    read: Reader
    annotations: str
    videos: str


LAYOUTS: Mapping[str, Layout] = {
    "videomme": Layout(
        _videomme,
        "the parquet file of lmms-lab/Video-MME: videoID, question_id, question, options",
        "<videoID>.mp4 (its archives unpack to data/)",
    ),
    "egoschema": Layout(
        _egoschema,
        "the parquet file of lmms-lab/egoschema, config Subset (500 labelled questions): video_idx, question, option",
        "<video_idx>.mp4 (its archives unpack to videos/)",
    ),
    "nextqa": Layout(
        _nextqa,
        "the parquet file of lmms-lab/NExTQA, config MC, or the data set's own test.csv: video, qid, question, a0..a4",
        "<video>.mp4 (NExTVideo/, with or without its numbered folders)",
    ),
    "activitynetqa": Layout(
        _activitynetqa,
        "the parquet file of lmms-lab/ActivityNetQA, or the data set's own *_q.json: video_name, question_id, question",
        "v_<video_name>.mp4, .webm or .mkv (all_test/)",
    ),
    "perceptiontest": Layout(
        _perceptiontest,
        "the parquet file of lmms-lab/PerceptionTest_Val, config mc_question_val (video_name, question_id, question, "
        "options), or the data set's own all_*.json with mc_question for each video",
        "<video_name>.mp4 (videos/)",
    ),
    "videochatgpt": Layout(
        _videochatgpt,
        "the folders Generic, Temporal and Consistency of lmms-lab/VideoChatGPT with their parquet files (video_name, "
        "question or question_1 and question_2), or the data set's own *_qa.json (video_name, Q or Q1 and Q2)",
        "<video_name>.mp4 (Test_Videos/)",
    ),
    "mvbench": Layout(
        _mvbench,
        "the folder json of OpenGVLab/MVBench, one file for each sub-task: video, question, candidates",
        "the unpacked folders star, clevrer, perception and so on; in tvqa, folders of frames, three a second",
    ),
}


def read_questions(dataset: str, annotations: Path) -> list[SourceQuestion]:
    """All questions of a data set.

    Raises:
        LayoutError: a field is missing or empty, a question occurs twice, or there is none.
        TableError: a file cannot be read.
    """
    layout, found = LAYOUTS[dataset], []
    for file, number, row in rows(annotations):
        try:
            found += layout.read(row, file, number)
        except (KeyError, TypeError) as error:
            lacks = f"lacks the field {error}" if isinstance(error, KeyError) else f"is not as expected ({error})"
            raise LayoutError(f"{file}, row {number} {lacks}; {expected(dataset)}") from error
        except ValueError as error:
            raise LayoutError(f"{file}, row {number} {error}; {expected(dataset)}") from error
    twice = _twice(question.question_id for question in found)
    if twice:
        raise LayoutError(
            f"{annotations} has {len(twice)} question ids more than once, such as {', '.join(twice[:5])}; give each "
            "split or release on its own"
        )
    if not found:
        raise LayoutError(f"{annotations} has no question; {expected(dataset)}")
    return found


def expected(dataset: str) -> str:
    """What a data set looks like, for messages."""
    layout = LAYOUTS[dataset]
    return f"{dataset} is read from {layout.annotations}; its videos are {layout.videos}"


def _twice(names: Iterator[str]) -> list[str]:
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"has a question that is no text: {value!r}")
    return value.strip()


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise ValueError(f"has options that are no texts: {values!r}")
    return tuple(value.strip() for value in values)


SHOWN = 20
"""Missing videos that have a line of their own in a message."""


def missing_message(dataset: str, root: Path, missing: list[str], total: int) -> str:
    """Which videos are not there, all of them, and what is expected."""
    shown = "".join(f"\n  {name}" for name in missing[:SHOWN])
    more = f"\n  and {len(missing) - SHOWN} more: {', '.join(missing[SHOWN:])}" if len(missing) > SHOWN else ""
    return f"{len(missing)} of {total} videos are not below {root}:{shown}{more}\n{expected(dataset)}"
