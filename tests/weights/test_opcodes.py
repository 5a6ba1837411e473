"""Pickles whose values would take hours to hash are refused before they are read."""

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.errors import UserError
from videomae2.weights import read_checkpoint
from videomae2.weights.standins import check_sharing

from ..small_networks import classifier

# {}, then (), then `levels` times a tuple of twice the last one, as the key of 1.
BOMB = b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s."


def test_a_shared_tuple_as_a_key_is_refused_at_once(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "a.pth", "w") as bomb:
        for entry in whole.namelist():
            bomb.writestr(entry, BOMB if entry.endswith("data.pkl") else whole.read(entry))
    legacy = tmp_path / "legacy.pth"
    torch.save({"a": 1}, legacy, _use_new_zipfile_serialization=False)
    head = legacy.read_bytes()
    at = head.index(b"X\x01\x00\x00\x00a")
    start = head.rindex(b"\x80\x02", 0, at)
    legacy.write_bytes(head[:start] + BOMB + head[head.index(b".", at) + 1 :])
    began = time.monotonic()
    for path in (tmp_path / "a.pth", legacy):
        with pytest.raises(UserError, match="a tuple of over 1,000,000 values"):
            read_checkpoint(path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("legacy", [False, True])
def test_ordinary_checkpoints_pass(tmp_path: Path, legacy: bool) -> None:
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters())
    content: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    content["shapes"] = {("a", 1, (2, 3)): torch.Size([1, 2])}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert read_checkpoint(tmp_path / "a.pth").kind == "classifier"


def test_what_is_no_pickle_is_left_for_its_reader() -> None:
    for content in (b"", b"\x80", b"}}}s.", b"no pickle", b"h\x05.", b"t."):
        check_sharing(io.BytesIO(content), "a")
