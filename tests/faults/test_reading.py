"""Nothing silently wrong in what is read: lists and folders as people make them, through `read_manifest`."""

import contextlib
import gzip
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videomae2.data.tables.inspect import show
from videomae2.data.tables.manifest import Manifest, read_manifest, write_manifest
from videomae2.errors import UserError
from videomae2.recipes.feed import EvaluationFeed
from videomae2.settings import DataSettings, ModelSettings

needs_bytes = pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(manifest: Manifest) -> list[tuple[str, int]]:
    rows = [manifest.row(number) for number in range(len(manifest))]
    return [(row.path.removeprefix(f"{manifest.root}/"), row.label) for row in rows]


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        read_manifest(path, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text and len(text) < 900, text
    return text


def test_spaces_outside_quotes_are_no_part_of_a_cell(tmp_path: Path) -> None:
    text = 'path , label\n a.mp4, jump\nb.mp4 ,jump\t\n" c.mp4 " ,"run"\n"d, e.mp4",run \n'
    manifest = read_manifest(write(tmp_path, "a.csv", text))
    assert manifest.class_names == ["jump", "run"]
    assert listed(manifest) == [("a.mp4", 0), ("b.mp4", 0), (" c.mp4 ", 1), ("d, e.mp4", 1)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ; "])
def test_any_usual_separator_parts_cells(separator: str, tmp_path: Path) -> None:
    text = "path,label,start\na.mp4,0,2\nb.mp4,1,\n".replace(",", separator)
    assert listed(read_manifest(write(tmp_path, "a.csv", text))) == [("a.mp4", 0), ("b.mp4", 1)]
    headless = "a.mp4,0\nb.mp4,1\n".replace(",", separator)
    assert listed(read_manifest(write(tmp_path, "a.txt", headless))) == [("a.mp4", 0), ("b.mp4", 1)]


@pytest.mark.parametrize(
    ("line", "parted"),
    [
        ("a.mp4 jump", "spaces"),
        ("a.mp4,jump", "commas"),
        ("a.mp4;jump", "semicolons"),
        ("a.mp4\tjump", "tabs"),
        ("'a.mp4' jump", "spaces"),
        ("a.mp4 0,3", "commas"),
    ],
)
def test_names_in_a_list_without_a_header_are_refused(line: str, parted: str, tmp_path: Path) -> None:
    said = refusal(write(tmp_path, "a.txt", f"{line}\n"))
    assert parted in said or "several" in said or "whole number" in said


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, "a.csv", "path,label,Label\na.mp4,0,jump\n"))
    assert "one column label, got 2 (label, Label)" in said
    pq.write_table(pa.table({"path": ["a.mp4"], "PATH": ["b.mp4"]}), tmp_path / "a.parquet")
    assert "one column path, got 2" in refusal(tmp_path / "a.parquet")


def test_texts_in_other_encodings_are_refused_by_their_name(tmp_path: Path) -> None:
    latin = write(tmp_path, "a.csv", "path,label\na.mp4,0\ncafé.mp4,1\n".encode("latin-1"))
    said = refusal(latin)
    assert "line 3" in said and "Latin-1" in said and "iconv" in said and "café.mp4" in said
    assert "UTF-16" in refusal(write(tmp_path, "b.csv", "path\na.mp4\n".encode("utf-16")))
    bom = write(tmp_path, "c.csv", "path,label\nä.mp4,1\n".encode("utf-8-sig"))
    assert listed(read_manifest(bom)) == [("ä.mp4", 1)]


def test_packed_texts_and_other_line_ends(tmp_path: Path) -> None:
    text = b"path,label\r\na.mp4,0\r\n\r\nb.mp4,1\r\n"
    for name in ("a.csv.gz", "a.txt.gz"):
        assert listed(read_manifest(write(tmp_path, name, gzip.compress(text)))) == [
            ("a.mp4", 0),
            ("b.mp4", 1),
        ]
    assert listed(read_manifest(write(tmp_path, "b.csv", text))) == [("a.mp4", 0), ("b.mp4", 1)]
    assert "cannot be read" in refusal(write(tmp_path, "c.csv.gz", gzip.compress(text)[:-9]))
    assert "cannot be read" in refusal(write(tmp_path, "d.csv.gz", b"path,label\n"))


@pytest.mark.parametrize(
    ("cells", "names", "labels"),
    [
        (["2", "10", ""], [], [2, 10, -1]),
        (["1.0", "0.0", ""], [], [1, 0, -1]),
        (["007", "010", "7"], ["007", "010", "7"], [0, 1, 2]),
        (["true", "false", "true"], ["false", "true"], [1, 0, 1]),
        (["2024-01-02", "2023-01-02", "2024-01-02"], ["2023-01-02", "2024-01-02"], [1, 0, 1]),
        (["3", "jump", "3"], ["3", "jump"], [0, 1, 0]),
        (["nan", "null", "None"], ["None", "nan", "null"], [1, 2, 0]),
    ],
)
def test_labels_mean_the_same_in_every_format(
    cells: list[str], names: list[str], labels: list[int], tmp_path: Path
) -> None:
    rows = "".join(f"{number}.mp4,{cell}\n" for number, cell in enumerate(cells))
    table = pa.table({"Path": [f"{number}.mp4" for number in range(3)], " LABEL": cells})
    found = [write(tmp_path, "a.csv", f"path,label\n{rows}")]
    found += [write_manifest(tmp_path / f"a.{suffix}", table) for suffix in ("arrow", "parquet")]
    with (
        pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    for path in (*found, tmp_path / "stream.arrow"):
        manifest = read_manifest(path)
        assert manifest.labels().tolist() == labels and manifest.class_names == names, path
        assert manifest.names_from == ("given" if names else "")


@pytest.mark.parametrize(
    ("column", "names", "labels"),
    [
        (pa.array([True, False]), ["false", "true"], [1, 0]),
        (pa.array([1.0, None]), [], [1, -1]),
        (pa.array([1, 0], pa.uint8()), [], [1, 0]),
        (pa.array(["b", "a"]).dictionary_encode(), ["a", "b"], [1, 0]),
        (pa.array([5, 3]).dictionary_encode(), [], [5, 3]),
        (pa.array(["b", "a"], pa.large_string()), ["a", "b"], [1, 0]),
        (pa.array([None, None], pa.null()), [], [-1, -1]),
    ],
)
def test_labels_of_any_type(column: pa.Array, names: list[str], labels: list[int], tmp_path: Path) -> None:
    manifest = read_manifest(
        write_manifest(tmp_path / "a.arrow", pa.table({"path": ["a", "b"], "label": column}))
    )
    assert manifest.labels().tolist() == labels and manifest.class_names == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('path,label\na.mp4,"0,3"\n', "label '0,3' is several numbers"),
        ("path,label\na.mp4,0|3\n", "several numbers"),
        (f"path,label\na.mp4,{10**30}\n", "beyond any class number"),
        ("path,label\na.mp4,12345678901\n", "expected label below"),
        (f"path,start\na.mp4,{'9' * 400}\n", "not a whole number"),
        ("path,start,end\na.mp4,0,9999999999999999\n", "expected end up to"),
        (f"a.mp4 {10**20}\n", "a.txt"),
        (f"a.mp4 0\nb.mp4 {10**17}\n", "line 2: expected numbers up to"),
        (f"path,label\n{'x' * 200_000}.mp4,0\n", "field"),
        ("path,label\na.mp4,0\nb.mp4\n", "line 3: 1 cells, but the header names 2 columns"),
        (f"path,start\na.mp4,{'soon' * 1000}\n", "soon"),
        (f"{'w' * 5000},{'x' * 5000}\na,b\n", "none named path"),
    ],
)
def test_cells_that_no_row_can_have_are_refused_in_one_short_line(
    text: str, words: str, tmp_path: Path
) -> None:
    name = "a.csv" if text.startswith("path") else "a.txt"
    path = write(tmp_path, name, text)
    try:
        said = refusal(path)
    except pytest.fail.Exception:
        # A line of one long word may still be a path: that there is no such file is said later.
        assert listed(read_manifest(path))[0][1] == -1
    else:
        assert words in said


@pytest.mark.parametrize("stored", [b"5", b"null", b'{"a": 1}', b"[1, 2]", b'["a", "a"]', b"\xff", b'[""]'])
def test_class_names_of_a_wrong_type_are_refused(stored: bytes, tmp_path: Path) -> None:
    table = pa.table({"path": ["a.mp4"], "label": [0]}).replace_schema_metadata({b"class_names": stored})
    write_manifest(tmp_path / "a.arrow", table)
    assert "JSON list of distinct names" in refusal(tmp_path / "a.arrow")


def test_an_arrow_file_with_any_flipped_bit_is_read_or_refused(tmp_path: Path) -> None:
    table = pa.table({"path": ["a.mp4", "bb.mp4"], "label": ["jump", "run"], "source": ["x", "y"]})
    whole = write_manifest(tmp_path / "whole.arrow", table).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(whole) * 8)[:400].tolist():
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path = write(tmp_path, "a.arrow", bytes(damaged))
        with contextlib.suppress(UserError):  # anything else ends the test, or the process
            show(path)
            listed(read_manifest(path))


def test_links_to_folders_are_followed_and_loops_refused(tmp_path: Path) -> None:
    touch(tmp_path, "all/jump/a.mp4", "set/run/b.mp4")
    (tmp_path / "set/jump").symlink_to("../all/jump")
    manifest = read_manifest(tmp_path / "set")
    assert listed(manifest) == [("jump/a.mp4", 0), ("run/b.mp4", 1)] and manifest.names_from == "folder"
    (tmp_path / "linked").symlink_to("set")
    assert len(read_manifest(tmp_path / "linked")) == 2
    (tmp_path / "set/run/again").symlink_to("..")
    assert "run/again is a link to a folder that it lies in" in refusal(tmp_path / "set")


def test_links_that_multiply_and_folders_without_end_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "all/10/a.mp4")
    for level in range(10):
        folder = tmp_path / f"all/{level}"
        folder.mkdir()
        for way in "ab":  # 2 ** 10 ways to the last folder
            (folder / way).symlink_to(f"../{level + 1}")
    assert "is reached by 1000 links" in refusal(tmp_path / "all/0")
    deep = tmp_path / "deep"
    touch(deep / "/".join("d" * 110), "a.mp4")
    assert "folders deep" in refusal(deep)


def test_a_packed_list_does_not_expand_without_bounds(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wb", compresslevel=1) as file:
        for _ in range(70):
            file.write(b"a" * (1 << 20))
    assert "expands to more than 200 times its size" in refusal(tmp_path / "a.csv.gz")


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000", "Thumbs", "$RECYCLE.BIN"]
)
def test_what_systems_leave_is_no_class(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "jump/a.mp4", "run/b.mp4", f"{name}/c.mp4", f"run/{name}/d.mp4", "run/._b.mp4")
    with caplog.at_level(logging.WARNING):
        manifest = read_manifest(tmp_path)
    assert manifest.class_names == ["jump", "run"] and len(manifest) == 2
    assert "skipped hidden or system entries" in caplog.text and name in caplog.text


def test_a_stray_video_beside_class_folders_has_no_label_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "jump/a.mp4", "run/b.mp4", "stray.mp4")
    with caplog.at_level(logging.WARNING):
        manifest = read_manifest(tmp_path)
    assert listed(manifest) == [("jump/a.mp4", 0), ("run/b.mp4", 1), ("stray.mp4", -1)]
    assert "without a label" in caplog.text and "stray.mp4" in caplog.text
    with pytest.raises(UserError, match=r"1 of 3 rows have no label .*stray.mp4"):
        manifest.must_be_labelled("fine-tuning")


@pytest.mark.parametrize("splits", [("train", "val"), ("Training", "test"), ("train",)])
def test_parts_of_a_data_set_are_no_classes(splits: tuple[str, ...], tmp_path: Path) -> None:
    for split in splits:
        touch(tmp_path, f"{split}/jump/a.mp4", f"{split}/run/b.mp4")
    assert f"name one of them, such as {tmp_path}/{sorted(splits)[0]}" in refusal(tmp_path)
    assert read_manifest(tmp_path / splits[0]).class_names == ["jump", "run"]
    touch(tmp_path, "plane/c.mp4")
    assert "plane" in read_manifest(tmp_path).class_names, "a train may be a class beside a plane"


def test_folders_named_by_numbers_are_numbered_by_value(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}/a.mp4" for number in range(12)))
    manifest = read_manifest(tmp_path)
    assert manifest.class_names == [str(number) for number in range(12)]
    assert all(path == f"{label}/a.mp4" for path, label in listed(manifest))
    part = read_manifest(tmp_path, class_names=["2", "10", *map(str, range(3, 10)), "0", "1", "11"])
    assert dict(listed(part))["10/a.mp4"] == 1


def test_suspicious_labels_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def said(text: str) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read_manifest(write(tmp_path, "a.txt", text))
        return caplog.text

    assert "labels run from 1 to 3 and none is 0" in said("a.mp4 1\nb.mp4 2\nc.mp4 3\n")
    assert "all labels are the same class, 4" in said("a.mp4 4\nb.mp4 4\n")
    assert said("a.mp4 0\nb.mp4 1\n") == said("a.mp4 2\nb.mp4 10\n") == said("a.mp4\n") == ""


@needs_bytes
def test_names_that_are_not_utf8_are_read_and_shown_escaped(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/r\xfcn"
    touch(tmp_path, os.fsdecode(b"r\xfcn/caf\xe9.mp4"))
    touch(tmp_path, "jump/a.mp4")
    manifest = read_manifest(tmp_path)
    assert manifest.class_names == ["jump", "r\\xfcn"]
    assert os.fsencode(manifest.row(1).path) == folder + b"/caf\xe9.mp4"
    assert "r\\xfcn/caf\\xe9.mp4" in show(tmp_path)
    copied = read_manifest(write_manifest(tmp_path / "m.arrow", manifest))
    assert copied.row(1).path == manifest.row(1).path


@needs_bytes
def test_what_is_no_file_is_no_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "list.csv")
    assert "which is a named pipe" in refusal(tmp_path / "list.csv")
    assert "which is a device" in refusal(Path("/dev/null"))
    assert "no manifest at" in refusal(tmp_path / ("n" * 300))
    assert "no manifest at" in refusal(tmp_path / "a\0b")
    touch(tmp_path, "set/jump/a.mp4", "set/run/folder.mp4/b.mp4")
    os.mkfifo(tmp_path / "set/run/pipe.mp4")
    with caplog.at_level(logging.WARNING):
        assert [path for path, _ in listed(read_manifest(tmp_path / "set"))] == [
            "jump/a.mp4",
            "run/folder.mp4/b.mp4",
        ]
    assert "run/pipe.mp4" in caplog.text


@pytest.mark.parametrize(
    ("trained", "listed_as", "wanted"),
    [
        (("0", "1", "2"), "path,label\na,2\nb,0\n", [2, 0]),
        (("2", "5", "10"), "path,label\na,10\nb,2\n", [2, 0]),
        (("2", "5", "10"), "folders 5 10", [2, 1]),
        (("jump", "run"), "path,label\na,run\n", [1]),
        (("0", "1"), "path,label\na,run\nb,jump\n", [1, 0]),
        (("0", "1", "2"), "folders 2 0", [2, 0]),
        ((), "path,label\na,1\n", [1]),
        ((), "folders 2 0", [2, 0]),
        ((), "path,label\na,run\nb,jump\nc,walk\n", [1, 0, 2]),
    ],
)
def test_held_out_labels_are_matched_by_name(
    trained: tuple[str, ...], listed_as: str, wanted: list[int], tmp_path: Path
) -> None:
    folders = listed_as.split()[1:] if listed_as.startswith("folders") else []
    for name in folders:
        touch(tmp_path, f"set/{name}/a.mp4")
    path = tmp_path / "set" if folders else write(tmp_path, "a.csv", listed_as)
    feed = EvaluationFeed(read_manifest(path), DataSettings(), ModelSettings(), (1, 1))
    found = feed.labels(trained, len(trained) or 3).tolist()
    assert sorted(found) == sorted(wanted) if folders else found == wanted


def test_a_held_out_class_that_was_not_trained_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "path,label\na,3\n")
    feed = EvaluationFeed(read_manifest(path), DataSettings(), ModelSettings(), (1, 1))
    with pytest.raises(UserError, match=r"expected one of the network's \d+ classes .*, got the class '3'"):
        feed.labels(("2", "5", "10"), 3)


@pytest.mark.parametrize("trained", [(), ("0", "1", "2")])
def test_a_named_set_that_lacks_classes_of_a_network_without_names_is_refused(
    trained: tuple[str, ...], tmp_path: Path
) -> None:
    path = write(tmp_path, "a.csv", "path,label\na,walk\nb,run\n")
    feed = EvaluationFeed(read_manifest(path), DataSettings(), ModelSettings(), (1, 1))
    with pytest.raises(
        UserError, match=r"expected the 3 classes of a network that has no names .* got 2 named"
    ):
        feed.labels(trained, 3)
    assert feed.labels(trained, 3, match="order").tolist() == [1, 0]


def test_names_from_folders_are_given_whatever_they_look_like(tmp_path: Path) -> None:
    touch(tmp_path, "set/class 2/a.mp4", "set/class 5/b.mp4")
    feed = EvaluationFeed(read_manifest(tmp_path / "set"), DataSettings(), ModelSettings(), (1, 1))
    own = ("class 1", "class 2", "class 5")
    assert feed.labels(own, 3, names_from="folder").tolist() == [1, 2]
    assert feed.labels(own, 3).tolist() == [1, 2], "the same names on both sides are the same classes"
    with pytest.raises(UserError, match=r"which does not say which of them is 'class 2'"):
        feed.labels(("class 0", "class 1"), 2)
    with pytest.raises(
        UserError, match=r"expected one of the network's 2 classes .* got the class 'class 2'"
    ):
        feed.labels(("class 0", "class 1"), 2, names_from="folder")
