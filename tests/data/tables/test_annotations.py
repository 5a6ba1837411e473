"""Annotations of segments in every form, and odd ones told by file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from videomae2.data.tables.annotations import AnnotatedVideo, read_annotations
from videomae2.errors import UserError


def told(path: Path, **options: Any) -> dict[str, list[tuple[float, float, str]]]:
    found = read_annotations(path, **options)
    return {video.name: [(s.start, s.end, s.label) for s in video.segments] for video in found.videos}


def database(**videos: Any) -> str:
    return json.dumps({"version": "x", "taxonomy": [], "database": videos}, indent=1)


SOUND = {
    "subset": "val",
    "duration": 20.0,
    "annotations": [
        {"segment": ["1.5", 3], "label": "jump"},
        {"segment": [4, 9], "label": "run", "group": "b"},
    ],
}


def test_activitynet_style_json(tmp_path: Path) -> None:
    page = tmp_path / "gt.json"
    page.write_text(database(a=SOUND, b=SOUND | {"subset": "test"}, c={"subset": "val", "annotations": []}))
    assert told(page, subset="val") == {"a": [(1.5, 3.0, "jump"), (4.0, 9.0, "run")], "c": []}
    found = read_annotations(page)
    assert found.class_names == ("jump", "run") and found.videos[0].duration == 20.0
    assert found.notes == (f"1 of 3 videos of {page} have no segment",)
    # MMAction2 writes videos without a database around them.
    page.write_text(json.dumps({"a": SOUND, "version": "1.3"}))
    assert list(told(page)) == ["a"]


def test_a_plain_csv_and_the_tables_of_thumos14(tmp_path: Path) -> None:
    page = tmp_path / "own.csv"
    page.write_text(
        "video,start_s,end_s,label,duration_s\na,1,2,jump,9\nb,0,1,run,5\na,3,4.5,run,9\nc,,,,7\n"
    )
    assert told(page) == {"a": [(1, 2, "jump"), (3, 4.5, "run")], "b": [(0, 1, "run")], "c": []}
    assert read_annotations(page).videos[2] == AnnotatedVideo("c", (), 7.0)
    page.write_text("video,type,type_idx,start,end,startFrame,endFrame\nv1,Diving,22,0.2,1.1,6,33\n")
    assert told(page) == {"v1": [(0.2, 1.1, "Diving")]}
    page.write_text(
        "video-name,t-init,t-end,f-init,f-end,video-duration,frame-rate,video-frames,label-idx\n"
        "v1,0.0,1.4,0,42,215.2,30.0,6455,3\n"
    )
    assert read_annotations(page).videos[0].fps == 30.0 and told(page) == {"v1": [(0.0, 1.4, "3")]}


def test_a_folder_as_thumos14_and_multithumos_publish_theirs(tmp_path: Path) -> None:
    (tmp_path / "Diving_val.txt").write_text("video_validation_1  67.5 75.9\n\n")
    (tmp_path / "Diving_test.txt").write_text("video_test_1 1 2\n")
    (tmp_path / "Ambiguous_test.txt").write_text("video_test_1 3 4\n")
    (tmp_path / "BodyTurn.txt").write_text("video_test_1 5 6\n")
    assert told(tmp_path, subset="val") == {"video_validation_1": [(67.5, 75.9, "Diving")]}
    assert read_annotations(tmp_path).class_names == ("BodyTurn", "Diving")


ODD = """video,start_s,end_s,label,duration_s
a,1,2,jump,10
a,3,3,jump,10
a,8,11,jump,10
a,1.5,4,jump,10
a,1,2,run,10
a,1,2,run,10
"""


def test_odd_segments_are_told_and_dropped_only_when_asked(tmp_path: Path) -> None:
    page = tmp_path / "odd.csv"
    page.write_text(ODD)
    found = read_annotations(page)
    assert len(found.videos[0].segments) == 6
    notes = "\n".join(found.notes)
    for line, kind, reason in (
        (3, "empty", "expected a length above zero, got jump 3 to 3 s"),
        (4, "late", "expected an end within the video's 10 s, got jump 8 to 11 s"),
        (5, "overlapping", "expected segments of a class apart, got jump 1.5 to 4 s beside line 2"),
        (7, "repeated", "expected segments of a class apart, got run 1 to 2 s beside line 6"),
    ):
        assert (
            f"1 {kind} segment kept (--data.invalid drop leaves them out): {page}, line {line}, 'a': {reason}"
            in notes
        )
    dropped = read_annotations(page, invalid="drop")
    assert [s.line for s in dropped.videos[0].segments] == [2, 6]
    assert len(dropped.notes) == 4 and "1 empty segment left out" in dropped.notes[0]
    with pytest.raises(
        UserError, match=r"odd\.csv, line 3, 'a': expected a length above zero.*--data.invalid drop"
    ):
        read_annotations(page, invalid="refuse")


def test_lines_of_json(tmp_path: Path) -> None:
    page = tmp_path / "gt.json"
    second = {"segment": [5, 2], "label": "jump"}
    page.write_text(database(a=SOUND, b=SOUND | {"annotations": [*SOUND["annotations"], second]}))  # type: ignore[misc]
    lines = [each.strip() for each in page.read_text().splitlines()]
    line = lines.index("5,")  # counted from 0: from 1, it is that of "segment": [
    with pytest.raises(
        UserError, match=rf"gt\.json, line {line}, 'b': expected an end after the start, got jump 5 to 2"
    ):
        read_annotations(page)
    assert len(read_annotations(page, invalid="drop").videos[1].segments) == 2
    page.write_text(page.read_text().replace("\n", ""))
    with pytest.raises(UserError, match=r"gt\.json, line 1, 'b'"):
        read_annotations(page)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "video,start,label\n",
            r"a\.csv, line 1: expected the columns video,start_s,end_s,label, .*no end",
        ),
        (
            "a.csv",
            "video,start,end,label\na,1,x,jump\n",
            r"a\.csv, line 2: expected end in seconds as a number, got 'x'",
        ),
        ("a.csv", "video,start,end,label\na,1\n", r"a\.csv, line 2: expected 4 values, got 2"),
        ("a.csv", "video,start,end,label\na,1,2,\n", r"a\.csv, line 2: expected a label, got nothing"),
        (
            "a.csv",
            "video,start,end,label\na,1,nan,jump\n",
            r"line 2: expected end in seconds as a number, got 'nan'",
        ),
        ("a.csv", "video,start,end,label\n", "expected at least one segment in .*, got 0 videos without any"),
        ("a.json", '{"database": {\n"a": 3', r"a\.json, line 2: expected JSON, got .*; is the file cut off"),
        (
            "a.json",
            '{"database": {\n"a": 3}}',
            r"line \d, 'a': expected an object with a list of annotations, got 3",
        ),
        ("a.json", "[1]", r"expected .*a\.json to map videos to annotations"),
        (
            "a.json",
            database(a={"annotations": [{"segment": [1], "label": "x"}]}),
            r'expected "segment": \[start, end\]',
        ),
        (
            "a.json",
            database(a={"annotations": [{"segment": [1, 2]}]}),
            r"'a', annotation 1: expected label, got only",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_annotations(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_subset_that_is_not_there(tmp_path: Path) -> None:
    page = tmp_path / "gt.json"
    page.write_text(database(a=SOUND))
    with pytest.raises(UserError, match=r"expected subset 'test' in .*, got val; name one of these, or none"):
        read_annotations(page, subset="test")
    with pytest.raises(UserError, match=r"nowhere\.json, which is not there"):
        read_annotations(tmp_path / "nowhere.json")


def test_real_annotations(shared_data: Path) -> None:
    thumos = read_annotations(shared_data / "annotations" / "thumos14" / "thumos_gt.json", subset="test")
    assert len(thumos.videos) == 210 and len(thumos.class_names) == 20
    table = read_annotations(shared_data / "annotations" / "thumos14" / "test_Annotation.csv")
    ours, theirs = ({v.name: len(v.segments) for v in each.videos if v.segments} for each in (thumos, table))
    assert set(ours) <= set(theirs)
    multi = read_annotations(shared_data / "annotations" / "multithumos" / "multithumos_tiny_anno.json")
    assert multi.videos[0].name == "video_test_0000004" and multi.videos[0].duration == 33.826
    strokes = read_annotations(shared_data / "badminton" / "tad.json", "train", "group")
    assert len(strokes.videos) == 36 and len(strokes.class_names) == 6
    assert sum(len(video.segments) for video in strokes.videos) == 200  # of 201, one has no group
    (note,) = [note for note in strokes.notes if "unlabelled" in note]
    assert note.startswith("1 unlabelled segment left out: ") and "expected a class, got none for" in note
