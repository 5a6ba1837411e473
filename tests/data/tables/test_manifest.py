"""Every way people keep lists of videos, read into rows; and what is said when a list is wrong."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videomae2.data.tables.manifest import Manifest, Row, read_listed, read_manifest, write_manifest
from videomae2.errors import UserError
from videomae2.settings import DataSettings


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def rows(manifest: Manifest) -> list[Row]:
    return [manifest.row(number) for number in range(len(manifest))]


def test_csv_with_a_header(tmp_path: Path) -> None:
    header = "Path, label ,start,end,source,stride,pattern,weight"
    text = f'{header}\n"with space/a,b.mp4",2,,,k400,,,0.5\n/abs/c.mp4,0,10,20,,2,,1\n'
    manifest = read_manifest(write(tmp_path, "clips.csv", text))
    first, second = rows(manifest)
    assert first == Row(f"{tmp_path}/with space/a,b.mp4", label=2, source="k400")
    assert second == Row("/abs/c.mp4", start=10, end=20, label=0, stride=2)
    assert manifest.num_classes == 3 and manifest.class_names == []
    assert manifest.table.column("weight").to_pylist() == [0.5, 1.0], "other columns are kept"


def test_csv_with_class_names(tmp_path: Path) -> None:
    train = read_manifest(write(tmp_path, "train.csv", "path,label\na.mp4,run\nb.mp4,jump\nc.mp4,\n"))
    assert train.class_names == ["jump", "run"] and train.labels().tolist() == [1, 0, -1]
    path = write(tmp_path, "val.csv", "path,label\na.mp4,run\n")
    assert read_manifest(path).labels().tolist() == [0]
    assert read_manifest(path, class_names=train.class_names).labels().tolist() == [1]
    with pytest.raises(UserError, match="label 'run' is none of the 1 known classes"):
        read_manifest(path, class_names=["swim"])


def test_root_comes_before_relative_paths_only(tmp_path: Path) -> None:
    path = write(tmp_path, "clips.csv", "path\na.mp4\n/b.mp4\ns3://bucket/c.mp4\n")
    assert [row.path for row in rows(read_manifest(path, root="/data/"))] == [
        "/data/a.mp4",
        "/b.mp4",
        "s3://bucket/c.mp4",
    ]


def test_folder_of_class_folders(tmp_path: Path) -> None:
    for name in ("run/b.mp4", "run/deep/a.avi", "jump/c.webm", "jump/notes.txt", "empty/readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    manifest = read_manifest(tmp_path)
    assert manifest.class_names == ["jump", "run"]
    assert [(Path(row.path).name, row.label) for row in rows(manifest)] == [
        ("c.webm", 0),
        ("b.mp4", 1),
        ("a.avi", 1),
    ]
    assert all(row.path.startswith(str(tmp_path)) for row in rows(manifest))


def test_folder_of_videos_and_a_single_video(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.mkv", ".hidden.mp4", "notes.md"):
        (tmp_path / name).touch()
    manifest = read_manifest(tmp_path)
    assert [Path(row.path).name for row in rows(manifest)] == ["a.mkv", "b.mp4"]
    assert manifest.num_classes == 0 and manifest.labels().tolist() == [-1, -1]
    assert Path(read_manifest(tmp_path / "b.mp4").row(0).path) == tmp_path / "b.mp4"


def test_released_lists(tmp_path: Path) -> None:
    def read(text: str, **options: Any) -> list[Row]:
        manifest = read_manifest(write(tmp_path, "list.txt", text), root="/r", **options)
        return rows(manifest)

    assert read("k400/a.mp4 0 -1\nssv2/7 1 48\n") == [
        Row("/r/k400/a.mp4"),
        Row("/r/ssv2/7", start=1, end=49, pattern="img_{:05}.jpg"),
    ]
    assert read("ssv2/7 1 48\nssv2/8 1 30\n")[1] == Row("/r/ssv2/8", start=1, end=31, pattern="img_{:05}.jpg")
    assert read("ava/7 9601 300\n", list_format="pretrain", pattern="image_{:06}.jpg") == [
        Row("/r/ava/7", start=9601, end=9901, pattern="image_{:06}.jpg")
    ]
    assert read("a.mp4 3\nb.mp4 0\n") == [Row("/r/a.mp4", label=3), Row("/r/b.mp4", label=0)]
    assert read("ssv2/7 48 0\nssv2/8 30 173\n")[1] == Row(
        "/r/ssv2/8", start=1, end=31, label=173, pattern="img_{:05}.jpg"
    )
    assert read("a.mp4 250 7\n", list_format="video") == [Row("/r/a.mp4", label=7)]
    assert read("a.mp4 10 20 7\nb.mp4 0 -1 2\n") == [Row("/r/a.mp4", 10, 30, 7), Row("/r/b.mp4", label=2)]
    assert read("a.mp4\nwith space.mp4\n") == [Row("/r/a.mp4"), Row("/r/with space.mp4")]


def test_released_lists_with_quotes_commas_and_spaces(tmp_path: Path) -> None:
    text = "\"a clip 3\" 5\n# a comment\n\n'b clip.mp4' 6\nno quotes.mp4 7\n"
    manifest = read_manifest(write(tmp_path, "list.txt", text), root="/r")
    assert [(row.path, row.label) for row in rows(manifest)] == [
        ("/r/a clip 3", 5),
        ("/r/b clip.mp4", 6),
        ("/r/no quotes.mp4", 7),
    ]
    manifest = read_manifest(write(tmp_path, "train.csv", "a.mp4,5\nb c.mp4,6\n"), root="/r")
    assert [(row.path, row.label) for row in rows(manifest)] == [("/r/a.mp4", 5), ("/r/b c.mp4", 6)]


def test_lists_that_may_mean_two_things_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "list.txt", "a 48 3\nb 30 9\n")
    with pytest.raises(
        UserError, match=r"`start total` or `total label`; write a CSV .*path,start,end.*--data.list_format"
    ):
        read_manifest(path)
    assert read_manifest(path, list_format="pretrain").row(1).end == 39
    assert read_manifest(path, list_format="frames").row(1).label == 9
    assert read_listed(str(path), DataSettings(list_format="pretrain")).row(1).end == 39
    frames = read_listed(str(path), DataSettings(list_format="frames", frame_pattern="{}.png")).row(0)
    assert (frames.pattern, frames.end, frames.label) == ("{}.png", 49, 3)


def test_a_file_of_bytes_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\x7fELF\0\0clip.mp4 3\n")
    with pytest.raises(UserError, match=r"weights.bin is neither a video by its name nor a text"):
        read_manifest(tmp_path / "weights.bin")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "path,label\n", "lists nothing"),
        ("a.txt", "# only a comment\n", "is empty"),
        ("a.csv", "path,label\na.mp4,1\nb.mp4,2,3\n", r"line 3: 3 cells, but the header names 2 columns"),
        ("a.csv", "path,start\na.mp4,1\nb.mp4,soon\n", r"line 3: start is 'soon', not a whole number"),
        ("a.csv", "path,label\na.mp4,-2\n", "row 1: expected label from 0 on, or -1 for none, got -2"),
        (
            "a.csv",
            "path,label\na.mp4,1\nb.mp4,9\n",
            "row 2: expected label from 0 to 4, as there are 5 classes, got 9",
        ),
        (
            "a.csv",
            "path,start,end\na.mp4,5,5\n",
            "row 1: expected end above start, or -1 for the video's end, got 5",
        ),
        ("a.csv", "path,start\na.mp4,-5\n", "row 1: expected start from 0 on, got -5"),
        ("a.txt", "a.mp4 1\nb.mp4 x\n", "line 2: expected a path and 1 whole numbers, .* got 'b.mp4 x'"),
        ("a.txt", "a.mp4 1\nb.mp4\n", "line 2: expected .*, got 'b.mp4'"),
        ("a.txt", "a.mp4 1 2 3 4\n", r"line 1: 4 numbers after the path"),
        ("a.txt", "a.mp4 1 0 4\n", "line 1: expected at least 1 frame, got a clip of 0 frames"),
        ("a.arrow", "nonsense", "is not a readable Arrow file"),
        ("a.parquet", "nonsense", "is not a readable Parquet file"),
    ],
)
def test_bad_lists_are_refused_in_one_line(name: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read_manifest(write(tmp_path, name, text), num_classes=5)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest at .*nothing\.csv"):
        read_manifest(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="holds no video file"):
        read_manifest(tmp_path)
    pq.write_table(pa.table({"file": ["a.mp4"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="expected a column named path, got columns file"):
        read_manifest(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", ["arrow", "parquet", "csv"])
def test_what_is_written_is_read(suffix: str, tmp_path: Path) -> None:
    table = {"path": ["a.mp4", "/b.mp4"], "label": [1, 0], "start": [0, 5], "score": [0.5, 1.5]}
    path = write_manifest(tmp_path / f"m.{suffix}", table, class_names=["x", "y", "z"])
    manifest = read_manifest(path)
    assert rows(manifest) == [Row(f"{tmp_path}/a.mp4", label=1), Row("/b.mp4", start=5, label=0)]
    assert manifest.table.column("score").to_pylist() == [0.5, 1.5]
    if suffix != "csv":
        assert manifest.class_names == ["x", "y", "z"] and manifest.num_classes == 3
    copied = read_manifest(write_manifest(tmp_path / "elsewhere" / f"m.{suffix}", manifest))
    assert [row.path for row in rows(copied)] == [f"{tmp_path}/a.mp4", "/b.mp4"]
    assert [entry.name for entry in (tmp_path / "elsewhere").iterdir()] == [f"m.{suffix}"], (
        "no temporary file stays"
    )
    with pytest.raises(UserError, match=r"name to end in .*, got \.txt"):
        write_manifest(tmp_path / "m.txt", table)


def test_a_subset_keeps_classes(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, "m.csv", "path,label\na.mp4,x\nb.mp4,y\nc.mp4,z\n"))
    part = manifest.subset([2, 0])
    assert [(Path(row.path).name, row.label) for row in rows(part)] == [("c.mp4", 2), ("a.mp4", 0)]
    assert part.num_classes == 3 and part.class_names == ["x", "y", "z"]


@pytest.mark.parametrize("suffix", ["arrow", "parquet", "csv"])
def test_a_manifest_travels_to_workers(suffix: str, tmp_path: Path) -> None:
    table = {"path": [f"{n}.mp4" for n in range(1000)], "label": np.arange(1000) % 7}
    manifest = read_manifest(write_manifest(tmp_path / f"m.{suffix}", table))
    sent = pickle.dumps(manifest)
    assert len(sent) < (1000 if suffix == "arrow" else 40_000)
    received = pickle.loads(sent)
    assert rows(received) == rows(manifest) and received.num_classes == 7


def test_a_million_rows_cost_no_memory(tmp_path: Path) -> None:
    count = 1_000_000
    numbers = np.arange(count)
    table = pa.table(
        {"path": pa.array([f"folder/{n // 1000}/video_{n}.mp4" for n in numbers]), "label": numbers % 400}
    )
    path = write_manifest(tmp_path / "m.arrow", table)
    del table
    allocated = pa.total_allocated_bytes()
    manifest = read_manifest(path)
    assert manifest.row(999_999) == Row(f"{tmp_path}/folder/999/video_999999.mp4", label=399)
    assert pa.total_allocated_bytes() - allocated < 1_000_000, "rows stay in the mapped file"
    assert len(pickle.dumps(manifest)) < 1000


def test_paths_of_the_working_folder_stay_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "list.csv", "path\na/1.mp4\n")
    monkeypatch.chdir(tmp_path)
    assert read_manifest("list.csv").row(0).path == "a/1.mp4"
