"""Weights as strangers hand them out: damaged, of another kind, and as programs that want to be run."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from fuzz_bytes import LONG, damaged, text
from fuzz_payloads import TENSORS, WRAPS, hostile, other_name, scramble, shared
from fuzz_scene import OUT, Scene
from fuzz_stock import DATA, EVALUATION, training
from safetensors.torch import load_file, save_file
from torch import Tensor

PICKLES = (".pth", ".pt", ".bin", ".ckpt")


def case(scene: Scene) -> list[str]:
    """A command over weights."""
    rng = scene.rng
    source = rng.choice(scene.stock.weights)
    if source.is_dir():
        name = _folder(scene, source)
    elif source.suffix in PICKLES:
        name = rng.choice((_damaged_file, _other_tensors, _other_tensors, _hostile_pickle, _other_zip))(
            scene, source
        )
    else:
        name = rng.choice((_damaged_file, _other_header, _other_header, _other_tensors))(scene, source)
    if rng.random() < 0.02:
        scene.something_else(name)
    return command(scene, name)


def command(scene: Scene, name: str) -> list[str]:
    """One of the commands that read weights."""
    rng = scene.rng
    video, val = str(scene.stock.plain), str(scene.stock.classes)
    few = ["--clips", "1", "--crops", "1", "--device", "cpu"]
    return rng.choice(
        (
            lambda: ["weights", "show", name],
            lambda: ["weights", "show", name],
            lambda: ["weights", "convert", name, f"{OUT}/a.safetensors", "--layout", "ours"],
            lambda: ["weights", "convert", name, f"{OUT}/a.pth", "--layout", "released"],
            lambda: ["weights", "convert", name, f"{OUT}/a", "--layout", "transformers"],
            lambda: ["predict", video, "--weights", name, *few],
            lambda: ["predict", video, "--weights", name, "--json", *few],
            lambda: ["evaluate", "--weights", name, "--data.val", val, *DATA, *EVALUATION, "--out", OUT],
            lambda: ["reconstruct", video, "--weights", name, "--out", f"{OUT}/r.mp4", "--device", "cpu"],
            lambda: [*training("finetune", OUT), "--init", name, "--data.train", val],
            lambda: [*training("pretrain", OUT), "--init", name, "--data.train", val],
            lambda: [
                *training("finetune", OUT),
                "--init",
                name,
                "--data.train",
                val,
                "--label_map",
                scene.write(
                    "map.json",
                    rng.choice(
                        (
                            "[0, 1]",
                            "[1, 0]",
                            "[5]",
                            "{}",
                            '{"0": 1}',
                            "[" * 2000,
                            "[1e99]",
                            '["a"]',
                            "[-1]",
                            LONG,
                            "[true]",
                            "null",
                        )
                    ),
                ),
            ],
        )
    )()


def _damaged_file(scene: Scene, source: Path) -> str:
    return scene.write(f"w{source.suffix}", damaged(source.read_bytes(), scene.rng))


# ---- what a file holds


def _state(source: Path) -> dict[str, Any]:
    if source.suffix == ".safetensors":
        return dict(load_file(source))
    content = torch.load(source, weights_only=False)
    return dict(content)


def _other_tensors(scene: Scene, source: Path) -> str:
    """A file of the same names, with a few tensors that are not as anybody expects."""
    rng = scene.rng
    content = _state(source)
    holder = next((held for held in content.values() if isinstance(held, dict) and held), content)
    state = dict(holder)
    tensors = [name for name, value in state.items() if isinstance(value, Tensor)]
    for name in rng.sample(tensors, min(len(tensors), rng.choice((0, 1, 1, 3)))):
        change = rng.random()
        if change < 0.7:
            state[name] = rng.choice(TENSORS)(state[name])
        elif change < 0.85:
            state[other_name(name, rng)] = state.pop(name)
        else:
            del state[name]
    if source.suffix == ".safetensors":
        plain = {
            name: t.contiguous()
            for name, t in state.items()
            if isinstance(t, Tensor) and t.layout == torch.strided and not t.is_quantized and not t.is_meta
        }
        metadata = _metadata(source)
        if rng.random() < 0.4:
            metadata = _other_metadata(metadata, rng)
        save_file(
            {name: tensor.clone() for name, tensor in plain.items()}, scene.folder / "w.safetensors", metadata
        )
        return "w.safetensors"
    whole: Any = {name: (state if value is holder else value) for name, value in content.items()}
    if holder is content:
        whole = state
    if rng.random() < 0.5:
        whole = rng.choice(WRAPS)(whole, scene)
    torch.save(whole, scene.folder / f"w{source.suffix}", _use_new_zipfile_serialization=rng.random() < 0.7)
    return f"w{source.suffix}"


# ---- containers


def _hostile_pickle(scene: Scene, source: Path) -> str:
    """A pickle that is no checkpoint, or more than one."""
    rng = scene.rng
    protocol = rng.randrange(6)
    content = rng.choice(
        (
            lambda: hostile(scene),
            lambda: {"model": hostile(scene)},
            lambda: [1, 2, 3],
            lambda: {},
            lambda: {"model": {"a": hostile(scene)}},
            lambda: shared(None, scene),
        )
    )()
    data = pickle.dumps(content, protocol)
    if rng.random() < 0.5:  # torch's older format: magic number, version, system; then the content
        data = (
            b"".join(
                pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
            )
            + data
        )
    if rng.random() < 0.3:
        data = rng.choice(
            (
                b"(" * 10**5 + b"t.",
                b"]" * 10**5 + b".",
                b"\x80\x02" + b"}" * 5000,
                b"\x80\x05\x95" + b"\xff" * 8,
                b"cos\nsystem\n(S'touch " + os.fsencode(scene.canary) + b"'\ntR.",
                b"\x80\x04\x8c\xff.",
                b"\x80\x02U\xff" + b"a" * 300,
                b"L" + b"9" * 10**6 + b"L\n.",
                b"\x80\x02\x8b\xff\xff\xff\x7f.",
                b"\x80\x02X\xff\xff\xff\x7f",
                b"\x80\x04\x8e" + b"\xff" * 8,
                b"PK\x03\x04",
                b"\x89HDF\r\n",
                b"GGUF",
            )
        )
    if rng.random() < 0.3:
        data = damaged(data, rng)
    return scene.write(f"w{source.suffix}", data)


def _other_zip(scene: Scene, source: Path) -> str:
    """The zip of a checkpoint packed anew, with an entry that is not as torch writes it."""
    rng = scene.rng
    if not zipfile.is_zipfile(source):
        return _damaged_file(scene, source)
    with zipfile.ZipFile(source) as opened:
        entries = {name: opened.read(name) for name in opened.namelist()}
    name = rng.choice(list(entries))
    pickled = next(each for each in entries if each.endswith("data.pkl"))
    change = rng.random()
    packing = zipfile.ZIP_STORED
    if change < 0.2:
        entries[name] = damaged(entries[name], rng)
    elif change < 0.5:
        entries[pickled] = damaged(entries[pickled], rng, 2)
    elif change < 0.6:
        del entries[name]
    elif change < 0.7:
        entries[name + rng.choice(("x", "/../../x", "\\x"))] = entries.pop(name)
    elif change < 0.8:
        packing = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        entries["archive/data/9"] = bytes(50 << 20)
    else:
        protocol = rng.choice((2, 4))
        entries[pickled] = pickle.dumps({"model": hostile(scene)}, protocol)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", packing) as packed:
        for each, data in entries.items():
            packed.writestr(each, data)
    data = target.getvalue()
    return scene.write(f"w{source.suffix}", damaged(data, rng) if rng.random() < 0.2 else data)


def _metadata(source: Path) -> dict[str, str]:
    data = source.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    metadata: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return metadata


def _other_metadata(metadata: dict[str, str], rng: random.Random) -> dict[str, str]:
    """What this package writes beside the tensors, with a value of another type or size."""
    changed = dict(metadata)
    for name, value in metadata.items():
        try:
            note = json.loads(value)
        except ValueError:
            continue
        if not isinstance(note, dict):
            continue
        changed[name] = json.dumps(scramble(note, rng))
        if rng.random() < 0.2:
            changed[name] = rng.choice(
                ("", "{", "[]", "null", "1", "[" * 10**5, '{"format": 1e400}', "NaN", LONG)
            )
    return changed


def _other_header(scene: Scene, source: Path) -> str:
    """A safetensors file whose header lies."""
    rng = scene.rng
    data = source.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    name = rng.choice([each for each in header if each != "__metadata__"])
    entry = header[name]
    change = rng.random()
    if change < 0.25:
        entry["shape"] = rng.choice(
            ([], [0], [2**40, 2**40], [-1], [1.5], "a", [2**63], entry["shape"][::-1], None, [10**400])
        )
    elif change < 0.4:
        entry["dtype"] = rng.choice(("F64", "I8", "BOOL", "F4", "", None, 3, "C64", "BF16", "F8_E5M2", LONG))
    elif change < 0.55:
        entry["data_offsets"] = rng.choice(
            ([0, 0], [0, 2**60], [-1, 4], [4, 0], None, [0], ["a", "b"], [2**64, 2**65])
        )
    elif change < 0.65:
        header[other_name(name, rng)] = header.pop(name)
    elif change < 0.9:
        header["__metadata__"] = _other_metadata(header.get("__metadata__", {}), rng)
    else:
        header["__metadata__"] = rng.choice(([], None, {"a": 1}, "a", {LONG: LONG}))
    written = json.dumps(header).encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        written = rng.choice((b"", b"{", b"[" * 10**5, b"null", written[:-1], b"\xff" * 100))
    length = len(written) if rng.random() < 0.95 else rng.choice((0, 2**63, 2**64 - 1, 10**9, 7))
    return scene.write("w.safetensors", struct.pack("<Q", length) + written + data[8 + size :])


# ---- folders


def _folder(scene: Scene, source: Path) -> str:
    rng = scene.rng
    scene.copy(source, "w")
    folder = scene.folder / "w"
    (folder / "modeling.py").write_text(f"open({str(scene.canary)!r}, 'w')\n")
    change = rng.random()
    config = json.loads((folder / "config.json").read_text())
    if change < 0.45:
        config = scramble(config, rng)
    elif change < 0.55 and isinstance(config, dict):
        labels = {str(n): text(rng) for n in range(rng.choice((1, 2, 3)))}
        config["id2label"] = rng.choice(
            (labels, [], {"x": 1}, {"0": "a", "1": "a"}, {"0": LONG, "1": "b"}, {"0": 1, "1": 2})
        )
    elif change < 0.65:
        _shard(folder, scene)
    elif change < 0.75:
        target = folder / "model.safetensors"
        target.write_bytes(damaged(target.read_bytes(), rng))
    elif change < 0.85:
        scene.something_else(f"w/{rng.choice(sorted(path.name for path in folder.iterdir()))}")
    elif change < 0.95 and (folder / "preprocessor_config.json").exists():
        kept = folder / "preprocessor_config.json"
        kept.write_text(json.dumps(scramble(json.loads(kept.read_text()), rng)))
    if isinstance(config, dict):
        config["auto_map"] = {"AutoModel": "modeling.Model"}
    written = json.dumps(config)
    if rng.random() < 0.1:
        written = rng.choice(("", "{", "[" * 10**5, "\x00", "null", "1", '"a"', f"{{{LONG}"))
    if (folder / "config.json").is_file() and not (folder / "config.json").is_symlink():
        (folder / "config.json").write_text(written)
    return rng.choice(("w", "w", "w", "w/", "w/model.safetensors", "./w"))


def _shard(folder: Path, scene: Scene) -> None:
    rng = scene.rng
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = len(state) // 2
    parts = {
        "model-00001-of-00002.safetensors": list(state)[:half],
        "model-00002-of-00002.safetensors": list(state)[half:],
    }
    for name, names in parts.items():
        save_file({each: state[each] for each in names}, folder / name)
    table: Any = {each: name for name, names in parts.items() for each in names}
    first = next(iter(table))
    table[first] = rng.choice(
        (
            table[first],
            "../../x",
            "/etc/passwd",
            "",
            ".",
            "none.safetensors",
            3,
            None,
            LONG,
            "config.json",
            "model.safetensors.index.json",
            "\ud800",
        )
    )
    index = rng.choice(({"weight_map": table},) * 5 + ([], {"weight_map": []}, {}, {"weight_map": {}}))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
