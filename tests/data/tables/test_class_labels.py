"""Labels: where numbers begin, and where names and their origin are kept."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from videomae2.data.tables.manifest import Manifest, read_listed, read_manifest, write_manifest
from videomae2.errors import UserError
from videomae2.settings import DataSettings

FROM_ONE = DataSettings(first_label=1)
ROWS = pa.table({"path": ["a.mp4", "b.mp4", "c.mp4"], "label": [1, 3, -1]})


def write(path: Path, kind: str) -> Path:
    if kind == "txt":
        path.write_text("a.mp4 1\nb.mp4 3\nc.mp4 -1\n")
    elif kind == "csv":
        path.write_text("path,label\na.mp4,1.0\nb.mp4,3\nc.mp4,\n")
    else:
        write_manifest(path, ROWS)
    return path


@pytest.mark.parametrize("kind", ["txt", "csv", "arrow", "parquet"])
def test_labels_may_count_from_one(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"list.{kind}", kind)
    manifest = read_listed(str(path), FROM_ONE)
    assert manifest.labels().tolist() == [0, 2, -1]
    assert (manifest.num_classes, manifest.first_label) == (3, 1)
    assert manifest.subset([1]).first_label == 1
    assert read_listed(str(path), DataSettings()).labels().tolist() == [1, 3, -1]


def test_a_label_below_the_first_contradicts_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\na.mp4,1\nb.mp4,0\n")
    with pytest.raises(
        UserError, match=r"expected labels from 1 on, since data.first_label is 1, got 0; set"
    ):
        read_listed(str(tmp_path / "a.csv"), FROM_ONE)


def test_names_have_no_first_number(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\na.mp4,run\nb.mp4,jump\n")
    manifest = read_listed(str(tmp_path / "a.csv"), FROM_ONE)
    assert manifest.labels().tolist() == [1, 0] and manifest.first_label == 0
    (tmp_path / "set" / "7").mkdir(parents=True)
    (tmp_path / "set" / "7" / "a.mp4").write_bytes(b"a")
    found = read_listed(str(tmp_path / "set"), FROM_ONE)
    assert (found.class_names, found.labels().tolist(), found.first_label) == (["7"], [0], 0)


def test_names_beside_numbers_that_count_from_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label,class\na.mp4,1,jump\nb.mp4,2,run\n")
    assert read_listed(str(tmp_path / "a.csv"), FROM_ONE).class_names == ["jump", "run"]


@pytest.mark.parametrize("labels", [(1, 2, 3), (1, 3), (1, 101)])
def test_labels_that_seem_to_count_from_one_are_said(
    labels: tuple[int, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{label}.mp4 {label}\n" for label in labels))
    with caplog.at_level(logging.WARNING):
        read_listed(str(tmp_path / "a.txt"), DataSettings())
        assert f"labels run from 1 to {labels[-1]} and none is 0" in caplog.text
        assert "--data.first_label 1" in caplog.text
        caplog.clear()
        read_listed(str(tmp_path / "a.txt"), FROM_ONE)
        assert not caplog.text


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv"])
@pytest.mark.parametrize(
    ("cells", "names", "labels"),
    [
        ([" 1", "0 ", "-1"], [], [1, 0, -1]),
        (["run ", " jump", "-1"], ["jump", "run"], [1, 0, -1]),
        (["run", "  ", "run"], ["run"], [0, -1, 0]),
    ],
)
def test_texts_mean_the_same_with_spaces_around_them(
    kind: str, cells: list[str], names: list[str], labels: list[int], tmp_path: Path
) -> None:
    path = tmp_path / f"a.{kind}"
    write_manifest(path, {"path": ["a", "b", "c"], "label": cells})
    manifest = read_manifest(path)
    assert (manifest.class_names, manifest.labels().tolist()) == (names, labels)


@pytest.mark.parametrize("cell", ["0,3", "0 3", "[0, 3]", "(1;2)", "0|3|5"])
def test_several_numbers_in_a_cell_are_no_class(cell: str, tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.arrow", {"path": ["a", "b"], "label": [cell, "1"]})
    with pytest.raises(UserError, match="is several numbers; each row has one class"):
        read_manifest(tmp_path / "a.arrow")


def hugging_face(label: object) -> dict[bytes, bytes]:
    features = {"path": {"dtype": "string", "_type": "Value"}, "label": label}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_names_of_a_hugging_face_class_label(kind: str, tmp_path: Path) -> None:
    label = {"names": ["jump", "run", "walk", "zumba"], "_type": "ClassLabel"}
    write_manifest(tmp_path / f"a.{kind}", ROWS.replace_schema_metadata(hugging_face(label)))
    manifest = read_manifest(tmp_path / f"a.{kind}")
    assert manifest.class_names == ["jump", "run", "walk", "zumba"]
    assert (manifest.names_from, manifest.num_classes) == ("given", 4)
    assert manifest.labels().tolist() == [1, 3, -1]


@pytest.mark.parametrize(
    "label",
    [
        {"dtype": "int64", "_type": "Value"},
        {"names": ["a", "a"], "_type": "ClassLabel"},
        {"names": 3, "_type": "ClassLabel"},
        [1, 2],
        None,
    ],
)
def test_other_notes_beside_a_table_name_nothing(label: object, tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.arrow", ROWS.replace_schema_metadata(hugging_face(label)))
    assert read_manifest(tmp_path / "a.arrow").class_names == []


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_where_names_came_from_is_kept(kind: str, tmp_path: Path) -> None:
    for name in ("class 1", "class 2"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.mp4").write_bytes(b"a")
    folder = read_manifest(tmp_path / "set")
    assert folder.names_from == "folder"
    again = read_manifest(write_manifest(tmp_path / f"a.{kind}", folder))
    assert (again.names_from, again.class_names) == ("folder", ["class 1", "class 2"])
    given = write_manifest(tmp_path / f"b.{kind}", ROWS, ["a", "b", "c", "d"])
    assert read_manifest(given).names_from == "given"
    assert Manifest(ROWS).names_from == ""
