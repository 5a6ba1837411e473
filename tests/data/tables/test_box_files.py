"""Boxes in every form people keep them, and the line that each mistake is in."""

import json
from pathlib import Path

import pytest

from videomae2.data.tables.box_files import read_actions, read_annotations, read_excluded
from videomae2.errors import UserError


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    head = "video,time_s,x1,y1,x2,y2,label,stroke,actor\n"
    text = f"{head}a.mp4,0.5,10,20,30,40,hits,clear,7\n\na.mp4,1,0,0,8,9,,,\n"
    found = read_annotations(write(tmp_path, "own.csv", text))
    first, second = found.notes
    assert (first.video, first.time, first.frame, first.box) == ("a.mp4", 0.5, -1, (10, 20, 30, 40))
    assert (first.action, first.actor, first.score, first.place) == ("hits", "7", 1.0, 2)
    assert (second.action, second.place) == ("", 4) and not found.shares


def test_what_boxes_are_in_is_told_by_their_numbers_or_by_the_user(tmp_path: Path) -> None:
    path = write(tmp_path, "own.csv", "video,frame,x1,y1,x2,y2,label\na,3,0.1,0.2,1,0.9,run\n")
    assert read_annotations(path).shares and read_annotations(path).notes[0].frame == 3
    assert not read_annotations(path, "pixels").shares


def test_ava_and_ava_kinetics(tmp_path: Path) -> None:
    text = "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1\n5Y_BVmDDWUo,12.5,,,,,,\n5Y_BVmDDWUo,13\n"
    truth = read_annotations(write(tmp_path, "ava.csv", text))
    assert truth.shares and truth.notes[0].actor == "1" and truth.notes[0].score == 1.0
    assert [note.box for note in truth.notes[1:]] == [None, None] and truth.notes[1].time == 12.5
    found = read_annotations(write(tmp_path, "det.csv", "x,0902,0.1,0.1,0.2,0.2,,0.93\n"), scored=True)
    assert (found.notes[0].score, found.notes[0].actor, found.notes[0].action) == (0.93, "", "")


def test_the_recorded_sample_of_ava(shared_data: Path) -> None:
    folder = shared_data / "evaluation" / "ava_mmaction2" / "ava_dataset_sample"
    found = read_annotations(folder / "ava_sample.csv")
    assert len(found.notes) == 8 and found.notes[0].box == (0.031, 0.162, 0.67, 0.995)
    assert list(read_actions(folder / "action_list.txt")) == ["12", "17", "79", "80"]
    assert read_excluded(folder / "ava_excluded_timestamps_sample.csv") == {
        ("0f39OWEqJ24", 903),
        ("_-Z6wFjXtGQ", 902),
    }


def test_coco(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 5, "video": "a.mp4", "time": 2.5}, {"id": 6, "video_id": 1, "frame_id": 40}],
        "videos": [{"id": 1, "name": "b"}],
        "annotations": [
            {"image_id": 5, "bbox": [10, 20, 30, 40], "category_id": 2, "track_id": 9},
            {"image_id": 6, "bbox": [0, 0, 5, 5], "category_id": 1, "score": 0.4},
        ],
        "categories": [{"id": 1, "name": "walk"}, {"id": 2, "name": "run"}],
    }
    found = read_annotations(write(tmp_path, "coco.json", content))
    first, second = found.notes
    assert first.box == (10, 20, 40, 60) and (first.time, first.action, first.actor) == (2.5, "run", "9")
    assert (second.video, second.frame, second.score) == ("b", 40, 0.4) and found.classes == ("walk", "run")


def test_tubes(tmp_path: Path) -> None:
    tube = {"label": "Basketball", "sf": 8, "ef": 10, "boxes_xywh": [[189, 102, 47, 78], [180, 102, 47, 78]]}
    found = read_annotations(write(tmp_path, "tubes.json", {"v": {"tubes": [tube]}}))
    assert [(n.frame, n.box) for n in found.notes] == [(8, (189, 102, 236, 180)), (9, (180, 102, 227, 180))]
    tube["ef"] = 11
    with pytest.raises(
        UserError, match=r"tubes.json, tube 0: expected 3 boxes, for frames 8 to before 11, got 2"
    ):
        read_annotations(write(tmp_path, "tubes.json", {"v": {"tubes": [tube]}}))


def test_the_tubes_of_ucf24(shared_data: Path) -> None:
    found = read_annotations(
        shared_data / "ucf101_10" / "annotations" / "ucf24_tubes_basketball_walkingwithdog_diving.json"
    )
    assert {note.action for note in found.notes} == {"Basketball", "WalkingWithDog", "Diving"}
    assert not found.shares


HEAD = "video,time,x1,y1,x2,y2,label\n"
BAD = {
    "x2 below x1": (
        HEAD + "a,1,0.5,0.1,0.2,0.9,run\n",
        r"bad.csv, line 2: the box ends before it starts: x2 0.2",
    ),
    "y2 below y1": (
        HEAD + "a,1,5,90,20,10,run\n",
        r"line 2: the box ends before it starts: y2 10 is below y1 90",
    ),
    "outside": (
        "a,1,0.5,0.1,1.7,0.9,3,0\n",
        r"line 1: expected a box in shares of the picture, from 0 to 1, got 1.7",
    ),
    "negative": (
        HEAD + "a,1,-50,10,20,30,run\n",
        r"line 2: expected a box inside the picture, got a corner at -50",
    ),
    "no number": (HEAD + "a,1,0.5,abc,1,0.9,run\n", r"line 2: expected y1 as a number from 0 on, got 'abc'"),
    "nan": (HEAD + "a,nan,0.5,0.1,1,0.9,run\n", r"line 2: expected time as a number from 0 on, got 'nan'"),
    "negative time": (
        HEAD + "a,-3,0.5,0.1,1,0.9,run\n",
        r"line 2: expected time as a number from 0 on, got '-3'",
    ),
    "a cell too many": (
        HEAD + "a,1,0.5,0.1,1,0.9,run,9\n",
        r"line 2: 8 cells, but the header names 7 columns",
    ),
    "wrong columns": (
        "video,time,left,top\na,1,2,3\n",
        r"expected columns video,time,x1,y1,x2,y2,label.*no x1, y1",
    ),
    "five cells": ("a,1,0.5,0.1,1\n", r"line 1: expected AVA's columns .* got 5 cells"),
    "empty": ("\n\n", r"bad.csv is empty; it needs at least one box"),
    "header alone": (HEAD, r"bad.csv lists no box; it needs at least one"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    text, message = BAD[name]
    with pytest.raises(UserError, match=message):
        read_annotations(write(tmp_path, "bad.csv", text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"bad.json is no JSON"),
        ([1, 2], r"expected COCO's JSON"),
        ({"images": [{"id": 1}], "annotations": []}, r"image 0: expected its video"),
        (
            {"images": [], "annotations": [{"image_id": 3, "bbox": [0, 0, 1, 1]}]},
            r"annotation 0: no image has the id 3",
        ),
        ({"v": {"boxes": []}}, r"expected tubes or annotations of 'v'"),
    ],
)
def test_json_that_is_none_of_the_forms(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_annotations(write(tmp_path, "bad.json", content))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file of boxes at .*none.csv"):
        read_annotations(tmp_path / "none.csv")
    with pytest.raises(UserError, match="no list of actions at"):
        read_actions(tmp_path / "none.txt")
    with pytest.raises(UserError, match="no file of excluded timestamps at"):
        read_excluded(tmp_path / "none.csv")


def test_lists_of_actions(tmp_path: Path) -> None:
    ava = 'item {\n  name: "bend/bow (at the waist)"\n  id: 1\n}\nitem {\n  name: "sit"\n  id: 11\n}\n'
    assert read_actions(write(tmp_path, "a.pbtxt", ava)) == {"1": "bend/bow (at the waist)", "11": "sit"}
    assert read_actions(write(tmp_path, "b.txt", "1: jump up\n7: sit\n")) == {"1": "jump up", "7": "sit"}
    assert read_actions(write(tmp_path, "c.txt", "hits\nwaits\n")) == {"hits": "hits", "waits": "waits"}
    with pytest.raises(UserError, match="the action 'sit' is listed twice"):
        read_actions(write(tmp_path, "d.txt", "sit\nsit\n"))
