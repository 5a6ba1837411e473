"""`predict`: a table or JSON lines; one broken file does not hide the others."""

import json

import pytest
import torch

from videomae2.cli.predictions import print_predictions
from videomae2.errors import UserError


def test_a_table_names_classes_best_first(runs, capsys):
    print_predictions([runs.videos / "left" / "0.mp4"], str(runs.finetuned), device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("left/0.mp4")
    assert {line.split()[0] for line in lines[1:]} == {"left", "right"}
    shares = [float(line.split()[1]) for line in lines[1:]]
    assert shares == sorted(shares, reverse=True)


def test_json_is_one_object_a_line(runs, capsys):
    files = sorted(runs.videos.rglob("*.mp4"))[:2]
    print_predictions(files, str(runs.finetuned), as_json=True, top=1, clips=1, crops=1, device="cpu")
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["file"] for each in objects] == [str(file) for file in files]
    assert [set(each["predictions"][0]) for each in objects] == [{"label", "name", "score"}] * 2


def test_bf16_is_told_to_be_slow_where_it_is(runs, capsys, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})
    file = runs.videos / "left" / "0.mp4"
    print_predictions([file], str(runs.finetuned), top=1, clips=1, crops=1, device="cpu", precision="bf16")
    told = capsys.readouterr()
    assert "fp32 is faster here: add --precision fp32" in told.err
    assert told.out.startswith(str(file))


def test_a_broken_file_is_named_and_the_others_are_predicted(runs, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    files = [tmp_path / "broken.mp4", runs.videos / "left" / "0.mp4"]
    with pytest.raises(UserError, match=r"1 of 2 files could not be read; the first is .*broken\.mp4"):
        print_predictions(files, str(runs.finetuned), as_json=True, device="cpu")
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert objects[0]["error"].startswith("not a video that FFmpeg can read") and "predictions" in objects[1]
