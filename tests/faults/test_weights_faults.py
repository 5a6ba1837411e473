"""Weights that are damaged, hostile or of another kind: one line, exit code 2, in bounded time and memory."""

import collections
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from videomae2.cli import main as cli
from videomae2.weights import save_safetensors
from videomae2.weights.describe import convert

from ..small_networks import TINY, classifier, hub_folder

Refused = Callable[[Path | str], str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Show weights and predict with them; both must fail as a user's mistake. Their one line comes back."""

    def command(weights: Path | str) -> str:
        lines = []
        for tokens in (["weights", "show", str(weights)], ["predict", "a.mp4", "--weights", str(weights)]):
            code = cli.main(tokens)
            error = capsys.readouterr().err.strip()
            assert code == 2 and error.startswith("error: ") and "\n" not in error, error
            assert len(error) < 1200, error
            lines.append(error)
        return lines[0]

    return command


def bare() -> dict[str, Tensor]:
    return {name.removeprefix("encoder."): tensor for name, tensor in classifier().state_dict().items()}


def saved(path: Path, **changes: Any) -> Path:
    state: dict[str, Any] = bare() | changes
    torch.save({"model": {name: tensor for name, tensor in state.items() if tensor is not None}}, path)
    return path


# ---- containers


def cyclic(levels: int) -> dict[str, Any]:
    outer: dict[str, Any] = {}
    inner = outer
    for _ in range(levels - 1):
        inner["module"] = {}
        inner = inner["module"]
    inner["model"] = outer
    return outer


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_a_dict_that_holds_itself_ends(tmp_path: Path, refused: Refused, levels: int) -> None:
    torch.save(cyclic(levels), tmp_path / "cyclic.pth")
    assert "holds no state dict" in refused(tmp_path / "cyclic.pth")


def test_a_list_in_place_of_a_dict_and_a_cyclic_one(tmp_path: Path, refused: Refused) -> None:
    loop: list[Any] = []
    loop.append(loop)
    for content in (loop, {"model": loop}, [bare()], 3, None, "text"):
        torch.save(content, tmp_path / "a.pth")
        assert "holds no state dict" in refused(tmp_path / "a.pth")


def test_a_thousand_bytes_do_not_become_gigabytes(tmp_path: Path, refused: Refused) -> None:
    one = torch.zeros(1)
    path = saved(
        tmp_path / "wide.pth",
        **{
            "patch_embed.proj.weight": one.expand(60000, 3, 2, 8, 8),
            "patch_embed.proj.bias": one.expand(60000),
            "blocks.0.mlp.fc1.weight": one.expand(240000, 60000),
        },
    )
    assert "its tensors would take" in refused(path)


def test_a_compressed_zip_is_refused_before_it_expands(tmp_path: Path, refused: Refused) -> None:
    torch.save({"model": {"a": torch.zeros(10**6)}}, tmp_path / "whole.pth")
    small = zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, small:
        for entry in whole.namelist():
            small.writestr(entry, whole.read(entry))
    assert (tmp_path / "small.pth").stat().st_size < 10_000
    assert "is not stored as torch does" in refused(tmp_path / "small.pth")


def test_a_storage_larger_than_its_entry_is_refused(tmp_path: Path, refused: Refused) -> None:
    torch.save({"model": {"w": torch.zeros(4)}}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "more.pth", "w") as more,
    ):
        for entry in whole.namelist():
            content = whole.read(entry)
            if entry.endswith("data.pkl"):  # four values become 2^30, in storage and shape
                content = content.replace(b"K\x04", b"J" + struct.pack("<i", 2**30))
            more.writestr(entry, content)
    refused(tmp_path / "more.pth")


def test_few_blocks_do_not_announce_a_thousand(tmp_path: Path, refused: Refused) -> None:
    path = saved(tmp_path / "gap.pth", **{"blocks.999.norm1.weight": torch.ones(48)})
    assert "expected 1000 blocks alike" in refused(path)
    tiny = {f"blocks.{n}.mlp.fc1.weight": torch.ones(1, 1) for n in range(2, 300)}
    assert "blocks alike" in refused(saved(tmp_path / "tiny.pth", **tiny))
    digits = saved(tmp_path / "digits.pth", **{f"blocks.{'9' * 5000}.mlp.fc1.weight": torch.ones(1, 1)})
    assert cli.main(["predict", "a.mp4", "--weights", str(digits)]) == 2


# ---- kinds of tensors


def quantised() -> Tensor:
    return torch.quantize_per_tensor(torch.randn(192, 48), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sparse", lambda: torch.randn(192, 48).to_sparse()),
        ("sparse", lambda: torch.randn(192, 48).to_sparse_csr()),
        ("quantised", quantised),
        ("meta", lambda: torch.empty(192, 48, device="meta")),
        ("complex64", lambda: torch.randn(192, 48, dtype=torch.complex64)),
        ("int8", lambda: torch.ones(192, 48, dtype=torch.int8)),
        ("bool", lambda: torch.ones(192, 48, dtype=torch.bool)),
        ("float8_e4m3fn", lambda: torch.ones(192, 48).to(torch.float8_e4m3fn)),
        ("matrix", lambda: torch.tensor(1.0)),
        ("matrix", lambda: torch.ones(192)),
        ("empty", lambda: torch.ones(0, 48)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_another_kind_of_tensor_is_named(
    tmp_path: Path, refused: Refused, kind: str, make: Callable[[], Tensor]
) -> None:
    path = saved(tmp_path / "a.pth", **{"blocks.0.mlp.fc1.weight": make()})
    error = refused(path)
    assert kind in error and "blocks.0.mlp.fc1.weight" in error


@pytest.mark.parametrize("shape", [[], [48], [1, 48], [1, 64, 0], [1, 64, 47], [2, 3, 4, 5]])
@pytest.mark.parametrize(
    "name", ["pos_embed", "patch_embed.proj.weight", "head.weight", "patch_embed.proj.bias"]
)
def test_another_shape_is_refused_wherever_it_is(
    tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str], name: str, shape: list[int]
) -> None:
    path = saved(tmp_path / "a.pth", **{name: torch.ones(shape)})
    shown = cli.main(["weights", "show", str(path)])
    capsys.readouterr()
    if shown == 0:  # as it is; nothing predicts with it
        assert cli.main(["predict", "a.mp4", "--weights", str(path)]) == 2
    else:
        refused(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_said_and_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    model = classifier()
    with torch.no_grad():
        model.head.bias[3] = value
    path = save_safetensors(tmp_path / "a.safetensors", model, TINY, "classifier")
    assert cli.main(["weights", "show", str(path)]) == 0
    assert "NaN or infinity in 1 tensors, first head.bias" in capsys.readouterr().out
    assert cli.main(["predict", "a.mp4", "--weights", str(path)]) == 2
    assert "got NaN or infinity in 1 tensors (head.bias)" in capsys.readouterr().err


# ---- metadata and configurations


def with_note(path: Path, **changes: Any) -> Path:
    model = classifier()
    save_safetensors(path, model, TINY, "classifier")
    note: dict[str, Any] = {"format": 1, "kind": "classifier", "settings": asdict(TINY), "class_names": []}
    settings = changes.pop("settings", {})
    note["settings"] = note["settings"] | settings if isinstance(settings, dict) else settings
    note |= changes
    save_file(dict(model.state_dict()), path, {"videomae2": json.dumps(note)})
    return path


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"depth": "2"}, "depth in the metadata"),
        ({"depth": 10**400}, "depth in the metadata"),
        ({"num_heads": 3.5}, "num_heads in the metadata"),
        ({"width": True}, "width in the metadata"),
        ({"name": "vit_x"}, "there is no model 'vit_x'"),
        ({"name": ["vit_b16"]}, "name in the metadata"),
        ({"depth": 3}, "states depth 3 and holds tensors of depth 2"),
        ({"width": 96}, "states width 96 and holds tensors of width 48"),
        ({"patch": 16}, "states cubes"),
        ({"positions": "learned"}, "states learned tokens 64 and holds tensors of learned tokens 0"),
        ({"num_heads": 5}, "num_heads"),
        ({"layer_scale": float("nan")}, "layer_scale in the metadata"),
        ({"x" * 5000: 1}, "does not know"),
    ],
)
def test_settings_of_another_type_or_network_are_named(
    tmp_path: Path, refused: Refused, settings: dict[str, Any], words: str
) -> None:
    assert words in refused(with_note(tmp_path / "a.safetensors", settings=settings))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "1"), ("format", None), ("format", 10**400), ("settings", [1]), ("settings", "tiny"),
        ("class_names", 3), ("class_names", ["a"]), ("class_names", [1, 2, 3, 4, 5, 6, 7]), ("extra", [1]),
        ("extra", "text"),
    ],
)  # fmt: skip
def test_metadata_of_another_type_is_named(tmp_path: Path, refused: Refused, key: str, value: Any) -> None:
    assert refused(with_note(tmp_path / "a.safetensors", **{key: value}))


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", '"text"', "[" * 100_000, "9" * 5000])
def test_metadata_that_is_no_object_is_refused(tmp_path: Path, refused: Refused, text: str) -> None:
    if not text:
        return
    save_file(dict(classifier().state_dict()), tmp_path / "a.safetensors", {"videomae2": text})
    assert refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", ["12", 10**400, -1, 2.5, [3], {"a": 1}, True, 0])
@pytest.mark.parametrize("key", ["num_heads", "num_frames", "img_size"])
def test_a_configuration_of_another_type_is_named(
    tmp_path: Path, refused: Refused, key: str, value: Any
) -> None:
    folder = hub_folder(tmp_path / "hub", classifier())
    config = json.loads((folder / "config.json").read_text())
    config["model_config"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    if (key, value) == ("img_size", [3]):  # a square of 3 pixels: shown, and no network's
        assert cli.main(["predict", "a.mp4", "--weights", str(folder)]) == 2
    else:
        assert key in refused(folder)


@pytest.mark.parametrize("text", ["{", "\xff\xfe", "[" * 100_000, '{"num_heads": ' + "9" * 5000 + "}"])
def test_a_damaged_configuration_is_one_line(tmp_path: Path, refused: Refused, text: str) -> None:
    folder = hub_folder(tmp_path / "hub", classifier())
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json is not readable JSON" in refused(folder)


# ---- places


def test_what_is_no_file_is_not_opened(tmp_path: Path, refused: Refused) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "hub").mkdir()
    os.mkfifo(tmp_path / "hub" / "model.safetensors")
    assert "got the folder, device or pipe" in refused(tmp_path / "pipe.pth")
    assert "holds none of" in refused(tmp_path / "folder.pth")
    assert "got the folder, device or pipe" in refused(tmp_path / "hub")
    assert "got the folder, device or pipe" in refused("/dev/zero")
    (tmp_path / "index").mkdir()
    os.mkfifo(tmp_path / "index" / "model.safetensors.index.json")
    assert "there is no file" in refused(tmp_path / "index")


@pytest.mark.parametrize(
    "listed", ["../a.safetensors", "/etc/passwd", "..", "", ".", "a/b", 3, None, ["a"], "n" * 300]
)
def test_an_index_leads_nowhere_else(tmp_path: Path, refused: Refused, listed: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": listed}}))
    assert refused(tmp_path)


@pytest.mark.parametrize(
    "content", [{}, [], 3, {"weight_map": {}}, {"weight_map": [1]}, {"weight_map": None}]
)
def test_an_index_of_nothing_is_refused(tmp_path: Path, refused: Refused, content: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    assert refused(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path, refused: Refused) -> None:
    for number in (1, 2):
        save_file({"a": torch.ones(2), f"b{number}": torch.ones(1)}, tmp_path / f"m{number}.safetensors")
    index = {"weight_map": {"a": "m1.safetensors", "b2": "m2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "expected each tensor in one shard, got 'a' in two" in refused(tmp_path)


def test_names_that_no_file_has_and_names_that_nobody_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("n" * 300 + ".pth", "a\0b.pth", "org/" + "n" * 5000, "\udcff\udcfe.pth"):
        assert cli.main(["weights", "show", name]) == 2
        assert len(capsys.readouterr().err) < 600
    for name in ("a.safetensors", "a.pth"):
        plain = save_safetensors(tmp_path / "a.safetensors", classifier(), TINY, "classifier")
        plain = plain if name == "a.safetensors" else saved(tmp_path / name)
        plain.rename(tmp_path / f"\udcff{name}")
        assert cli.main(["weights", "show", str(tmp_path / f"\udcff{name}")]) == 0
        assert rf"\udcff{name}" in capsys.readouterr().out


def test_nested_tuples_and_foreign_objects_end(tmp_path: Path, refused: Refused) -> None:
    nested: Any = ()
    for _ in range(500):
        nested = (nested, nested)
    torch.save({"model": {"a": torch.ones(1)}, "args": nested}, tmp_path / "a.pth")
    assert "a tuple of over 1,000,000 values" in refused(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(collections.Counter("abc")))
    assert refused(tmp_path / "b.pth")


def test_conversion_refuses_them_too(tmp_path: Path) -> None:
    from videomae2.errors import UserError

    path = saved(tmp_path / "a.pth", **{"blocks.0.mlp.fc1.weight": quantised()})
    with pytest.raises(UserError, match="quantised"):
        convert(path, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_hundred_damaged_files_are_one_line_or_whole(tmp_path: Path, suffix: str) -> None:
    from videomae2.api.model import load
    from videomae2.errors import UserError

    source = save_safetensors(tmp_path / "a.safetensors", classifier(), TINY, "classifier")
    if suffix == ".pth":
        convert(source, tmp_path / "a.pth", "released")
    content, chance = (tmp_path / f"a{suffix}").read_bytes(), random.Random(7)
    path, refusals = tmp_path / f"b{suffix}", list[str]()
    for _ in range(100):
        damaged = bytearray(content)
        at = chance.choice([chance.randrange(6000), len(content) - 1 - chance.randrange(4000)])
        damaged[at : at + chance.choice([1, 1, 20])] = chance.randbytes(chance.choice([0, 1, 20]))
        path.write_bytes(damaged)
        try:
            load(path, device="cpu")
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert not [line for line in refusals if "\n" in line or len(line) > 1200]
