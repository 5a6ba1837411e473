"""What `data show` and `data check` say."""

from collections.abc import Callable
from pathlib import Path

import pytest

from videomae2.cli import main as cli
from videomae2.data.tables.inspect import check, show
from videomae2.errors import UserError


def checked(path: Path, workers: int = 2) -> tuple[int, list[str]]:
    lines: list[str] = []
    return check(path, workers=workers, write=lines.append), lines


@pytest.fixture
def folder(tmp_path: Path, write_numbered: Callable[..., Path]) -> Path:
    for name in ("a.mp4", "b.mkv", "c.avi"):
        write_numbered(tmp_path / name, num_frames=20, codec="mpeg4" if name == "c.avi" else "libx264")
    return tmp_path


def test_check_counts_readable_files(folder: Path) -> None:
    assert checked(folder) == (0, ["3 files, 3 readable, 0 broken"])


def test_check_names_broken_files_and_why(folder: Path) -> None:
    (folder / "d.mp4").write_bytes(b"")
    whole = (folder / "a.mp4").read_bytes()
    (folder / "e.mp4").write_bytes(whole[: len(whole) // 2])
    code, lines = checked(folder, workers=1)
    assert code == 2 and lines[-1] == "5 files, 3 readable, 2 broken"
    assert lines[0] == f"{folder}/d.mp4: the file is empty"
    assert lines[1].startswith(f"{folder}/e.mp4: ") and len(lines) == 3


def test_check_reads_a_file_once_and_looks_at_where_rows_start(folder: Path) -> None:
    path = folder / "clips.csv"
    path.write_text("path,start,end\na.mp4,0,10\na.mp4,10,20\nb.mkv,25,30\nmissing.mp4,0,-1\n")
    assert checked(path) == (
        2,
        [
            f"{folder}/b.mkv: a row starts at frame 25, but it has 20 frames, numbered from 0",
            f"{folder}/missing.mp4: no such file",
            "3 files, 1 readable, 2 broken",
        ],
    )


def test_check_reads_folders_of_frames(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "one").mkdir()
    for number in range(1, 5):
        Image.new("RGB", (32, 32)).save(tmp_path / "one" / f"img_{number:05}.jpg")
    (tmp_path / "list.txt").write_text("one 1 4\n")
    assert checked(tmp_path / "list.txt") == (0, ["1 files, 1 readable, 0 broken"])
    (tmp_path / "one" / "img_00003.jpg").write_bytes(b"not a picture")
    code, lines = checked(tmp_path / "list.txt")
    assert code == 1 and lines[0].startswith(f"{tmp_path}/one: img_00003.jpg: ")


def test_show_says_what_a_list_is_read_as(folder: Path) -> None:
    path = folder / "clips.csv"
    path.write_text(
        "path,label,source,start,end,weight\na.mp4,run,web,0,10,1\na.mp4,jump,web,10,-1,1\nb.mkv,,disk,0,-1,1\n"
    )
    text = show(path, rows=2)
    for words in [
        "3 rows, 2 files",
        "columns: path, start, end, label, source; kept: weight",
        "labels: 2 classes: jump (1), run (1); no label: 1 rows",
        "sources: web (2), disk (1)",
        f"0  {folder}/a.mp4  frames 0 to 9  label 1 (run)  source web",
        f"1  {folder}/a.mp4  frames 10 to the end  label 0 (jump)",
    ]:
        assert words in text, words
    assert "b.mkv" not in text
    with pytest.raises(UserError, match="no manifest at"):
        show(folder / "nothing.csv")


def test_check_of_the_real_videos(shared_data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, lines = checked(shared_data / "test_videos")
    assert code == 1 and lines[-1] == "56 files, 55 readable, 1 broken"
    assert len(lines) == 2 and "decord_corrupted.mp4: corrupt after frame" in lines[0]
    assert capfd.readouterr().err == ""


def test_show_marks_what_is_not_there(folder: Path) -> None:
    (folder / "list.txt").write_text("a.mp4\nmissing.mp4\n")
    shown = show(folder / "list.txt").splitlines()[-2:]
    assert shown == [f"  0  {folder}/a.mp4", f"  1  {folder}/missing.mp4  (not there)"]


def test_the_meaning_of_two_numbers_is_said_on_the_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "list.txt").write_text("a.mp4 2 10\nb.mkv 4 9\n")
    assert cli.main(["data", "show", str(folder / "list.txt")]) == 2
    assert "data show and data check, --list-format" in capsys.readouterr().err
    assert cli.main(["data", "show", str(folder / "list.txt"), "--list-format", "pretrain"]) == 0
    assert "b.mkv  frames 4 to 12" in capsys.readouterr().out
    assert cli.main(["data", "check", str(folder / "list.txt"), "--list-format", "video"]) == 0
    assert capsys.readouterr().out == "2 files, 2 readable, 0 broken\n"
