"""What strangers put into checkpoints: tensors of other kinds, names of nobody, nests, and programs."""

import os
import random
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fuzz_bytes import LONG, number, text
from fuzz_scene import Scene
from torch import Tensor


def _meta(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, device="meta")


def _quantised(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8)


def _filled(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone().float()
    changed.reshape(-1)[:1] = value
    return changed


TENSORS: tuple[Callable[[Tensor], Any], ...] = (
    lambda t: torch.tensor(1.0),
    lambda t: torch.zeros(0),
    lambda t: t[None],
    lambda t: t.reshape(-1),
    lambda t: t.half(),
    lambda t: t.bfloat16(),
    lambda t: t.double(),
    lambda t: t.to(torch.complex64),
    lambda t: t.to(torch.int8),
    lambda t: t.bool(),
    lambda t: _filled(t, float("nan")),
    lambda t: torch.full_like(t, 1e38),
    lambda t: _filled(t, float("inf")),
    _meta,
    lambda t: t.to_sparse(),
    _quantised,
    lambda t: t.float().t() if t.ndim == 2 else t,
    lambda t: torch.zeros(1).expand(10**5, 10**5),
    lambda t: torch.zeros(()).expand(t.shape),
    lambda t: torch.zeros(1).expand(2**40),
    lambda t: torch.cat([t, t]),
    lambda t: t[:1],
    lambda t: None,
    lambda t: 3,
    lambda t: {"a": t},
    lambda t: [t],
    lambda t: torch.nn.Parameter(t.float()),
    lambda t: t.to(torch.float8_e4m3fn),
    lambda t: torch.zeros(t.shape, dtype=torch.int64),
    lambda t: t.flatten()[::2],
    lambda t: LONG,
)


def other_name(name: str, rng: random.Random) -> str:
    return rng.choice(
        (
            f"model.{name}",
            f"net.{name}",
            f"_orig_mod.{name}",
            name.upper(),
            "",
            LONG,
            f"{name}.weight",
            name.replace("blocks.0", "blocks.999999999"),
            name.replace("blocks.0", f"blocks.{'9' * 400}"),
            name.replace("blocks.0", "blocks.-1"),
            name.replace("blocks.0", "blocks.x"),
            "a\nb",
            "\ud800",
            name.replace("0", "7"),
            "encoder.",
            ".",
            "head.weight",
            "mask_token",
            "pos_embed",
        )
    )


def scramble(note: Any, rng: random.Random) -> Any:
    """JSON with a value somewhere in it that is odd."""
    if isinstance(note, dict) and note and rng.random() < 0.9:
        key = rng.choice(list(note))
        return {**note, key: scramble(note[key], rng)}
    if isinstance(note, list) and note and rng.random() < 0.5:
        return [scramble(note[0], rng), *note[1:]]
    return rng.choice(
        (
            None,
            True,
            -1,
            0,
            1.5,
            10**400,
            float("nan"),
            float("inf"),
            "",
            LONG,
            [],
            {},
            [[]],
            {"a": {}},
            ["a"],
            2**63,
            "\ud800",
            "a\nb",
            -(2**31),
            10**9,
            [None],
            "0",
            3,
            97,
        )
    )


class Payload:
    """Unpickled by an ordinary reader, this would make the canary."""

    def __init__(self, canary: Path, rng: random.Random) -> None:
        name = str(canary)
        self.call: tuple[Any, tuple[Any, ...]] = rng.choice(
            (
                (os.system, (f"touch '{name}'",)),
                (open, (name, "w")),
                (eval, (f"open({name!r}, 'w')",)),
                (exec, (f"open({name!r}, 'w')",)),
                (subprocess.call, (["touch", name],)),
                (os.mkdir, (name,)),
                (Path.touch, (canary,)),
                (torch.save, ({}, name)),
                (zipfile.ZipFile, (name, "w")),
                (os.symlink, ("x", name)),
                (
                    __import__,
                    (f"os.path').__class__; open({name!r}, 'w')",),
                ),
            )
        )

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def hostile(scene: Scene) -> Payload:
    return Payload(scene.canary, scene.rng)


def _cyclic(content: Any, _scene: Scene) -> Any:
    outer: dict[str, Any] = {"model": {}}
    outer["model"]["state_dict"] = outer
    outer["module"] = content
    return outer


def _deep(content: Any, scene: Scene) -> Any:
    for _ in range(scene.rng.choice((3, 20, 300))):
        content = {scene.rng.choice(("model", "module", "state_dict")): content}
    return content


def shared(_content: Any, _scene: Scene) -> Any:
    part: Any = ()
    for _ in range(40):
        part = (part, part)
    return {part: 1} if _scene.rng.random() < 0.1 else {"model": {"a": part}}


WRAPS: tuple[Callable[[Any, Scene], Any], ...] = (
    _cyclic,
    _deep,
    shared,
    lambda c, s: {"model": c, "args": hostile(s)},
    lambda c, s: [c],
    lambda c, s: (c,),
    lambda c, s: {"epoch": 1, "state_dict": c, "callbacks": {"x": hostile(s)}},
    lambda c, s: {"net": c},
    lambda c, s: None,
    lambda c, s: {"a": {"b": {"c": c}}},
    lambda c, s: {1: c},
    lambda c, s: {"model": c, "module": {}},
    lambda c, s: "text",
    lambda c, s: {"model": {}},
    lambda c, s: {"state_dict": c, "optimizer": {"state": list(range(10**4))}},
    lambda c, s: {**c, "x": hostile(s)} if isinstance(c, dict) else c,
    lambda c, s: {"model": c, LONG: LONG},
    lambda c, s: {
        "model": c,
        "args": {"model": text(s.rng), "num_frames": number(s.rng), "input_size": LONG},
    },
    lambda c, s: {"state_dict": c, "meta": {"dataset_meta": {"classes": [text(s.rng), "b"]}}},
    lambda c, s: {
        "state_dict": c,
        "meta": {"dataset_meta": {"classes": s.rng.choice((["a", "a"], [1, 2], LONG))}},
    },
)
