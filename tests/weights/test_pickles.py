"""Strangers' files: what is read, what is refused, and that nothing in a pickle is ever executed."""

import argparse
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from videomae2.errors import UserError
from videomae2.weights import read_checkpoint
from videomae2.weights.pickles import read_pickle, read_safetensors


class _Attack:
    """Unpickled without care, it creates a file."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


def _attacks(witness: Path) -> dict[str, _Attack]:
    return {
        "system": _Attack(os.system, f"touch {witness}"),
        "eval": _Attack(eval, f"open({str(witness)!r}, 'w')"),
        "open": _Attack(open, str(witness), "w"),
        "exec": _Attack(exec, f"open({str(witness)!r}, 'w')"),
    }


@pytest.mark.parametrize("attack", ["system", "eval", "open", "exec"])
@pytest.mark.parametrize("how", ["torch", "torch_legacy", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    tmp_path: Path, attack: str, how: str
) -> None:
    witness, file = tmp_path / "witness", tmp_path / "weights.pth"
    content = {
        "model": {"patch_embed.proj.weight": torch.zeros(4, 3, 2, 2, 2)},
        "args": _attacks(witness)[attack],
    }
    if how == "pickle":
        file.write_bytes(pickle.dumps(content["args"]))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(UserError, match="could run code; nothing in it was executed") as error:
        read_checkpoint(file)
    assert not witness.exists()
    assert "\n" not in str(error.value)
    # The same bytes are a working attack: an unguarded reader runs them.
    if attack == "system" and how == "torch":
        assert "posix.system" in str(error.value)
        torch.load(file, weights_only=False)
        assert witness.exists()


def test_what_published_checkpoints_hold_beside_tensors_is_read(tmp_path: Path) -> None:
    file = tmp_path / "released.pth"
    arguments = argparse.Namespace(
        model="vit_base_patch16_224", num_frames=16, lr=np.float64(1e-3), betas=[0.9, 0.95]
    )
    content = {
        "model": {"a": torch.arange(3)},
        "epoch": 799,
        "args": arguments,
        "scaler": {"scale": np.float32(2)},
    }
    torch.save(content, file)
    read = read_pickle(file)
    assert torch.equal(read["model"]["a"], torch.arange(3))
    assert (read["args"].num_frames, read["args"].lr, read["scaler"]["scale"]) == (16, 1e-3, 2)


def test_mmengine_log_buffers_are_read_as_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.arange(3.0).tolist()

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    vars(module)["HistoryBuffer"] = HistoryBuffer
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module if name == module.__name__ else types.ModuleType(name))
    file = tmp_path / "mm.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}, "message_hub": {"loss": HistoryBuffer()}}, file)
    assert torch.equal(read_pickle(file)["state_dict"]["a"], torch.ones(2))


def test_an_unlisted_class_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "custom.pth"
    torch.save({"model": {"a": torch.ones(1)}, "config": types.SimpleNamespace(a=1)}, file)
    with pytest.raises(UserError, match=r"names types\.SimpleNamespace, which reading weights does not need"):
        read_pickle(file)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("how", ["torch", "torch_legacy", "safetensors"])
def test_truncated_files_are_refused_in_one_line(tmp_path: Path, how: str, share: float) -> None:
    whole, file = tmp_path / "whole", tmp_path / ("cut.safetensors" if how == "safetensors" else "cut.pth")
    tensors = {f"blocks.{i}.weight": torch.randn(40, 40) for i in range(6)}
    if how == "safetensors":
        save_file(tensors, whole)
    else:
        torch.save({"model": tensors}, whole, _use_new_zipfile_serialization=how == "torch")
    content = whole.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"truncated or is no checkpoint.*fetch it again") as error:
        read_safetensors(file) if how == "safetensors" else read_pickle(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_other_files_are_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"is empty \(0 bytes\)"):
        read_checkpoint(file)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:c754\nsize 1372166773\n")
    with pytest.raises(UserError, match="truncated or is no checkpoint"):
        read_checkpoint(file)


def _program(monkeypatch: pytest.MonkeyPatch, module: str, name: str, base: type = object) -> type:
    """A class of a training program, importable under its name while this test runs."""
    made = type(name, (base,), {"__module__": module, "__qualname__": name})
    words = module.split(".")
    for end in range(1, len(words) + 1):
        monkeypatch.setitem(sys.modules, ".".join(words[:end]), types.ModuleType(".".join(words[:end])))
    vars(sys.modules[module])[name] = made
    return made


@pytest.mark.parametrize(
    ("module", "name", "base"),
    [
        ("lightning.fabric.utilities.data", "AttributeDict", dict),
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", object),
        ("omegaconf.dictconfig", "DictConfig", object),
        ("mmengine.config.config", "ConfigDict", dict),
        ("deepspeed.runtime.fp16.loss_scaler", "LossScaler", object),
        ("torchmetrics.aggregation", "MeanMetric", object),
        ("collections", "deque", list),
    ],
)
def test_what_training_programs_leave_beside_tensors_is_read_as_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, base: type
) -> None:
    import collections
    import functools

    extra: Any
    if module == "collections":
        extra = [collections.deque([1, 2], 5), collections.defaultdict(list, {"a": [1]}), np.arange(3)]
        extra += [functools.partial(int, base=2), Path("a"), frozenset({1}), collections.Counter("ab")]
    else:
        made = _program(monkeypatch, module, name, base)
        extra = made()
        if base is dict:
            extra.update(lr=0.1, inner=made())
        else:
            extra.state, extra.inner, extra.array = {"a": 1}, made(), np.zeros(2)
    torch.save(
        {"state_dict": {"a": torch.ones(2)}, "extra": extra, "callbacks": {"x": extra}}, tmp_path / "a.ckpt"
    )
    assert torch.equal(read_pickle(tmp_path / "a.ckpt")["state_dict"]["a"], torch.ones(2))


def test_a_name_of_a_known_program_is_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def launch(*arguments: object) -> object:
        called.append(arguments)
        return arguments

    module = "mmengine.utils.launch"
    _program(monkeypatch, module, "unused")
    launch.__module__, launch.__qualname__ = module, "launch"
    vars(sys.modules[module])["launch"] = launch
    content = {"state_dict": {"a": torch.ones(2)}, "extra": _Attack(launch, "touch x")}
    torch.save(content, tmp_path / "a.pth")
    assert torch.equal(read_pickle(tmp_path / "a.pth")["state_dict"]["a"], torch.ones(2))
    assert not called
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert called == [("touch x",)]


def test_getattr_leads_to_no_function(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save(
        {"model": {"a": torch.ones(1)}, "x": _Attack(getattr, _Attack(__import__, "os"), "system")}, file
    )
    with pytest.raises(UserError, match="could run code"):
        read_pickle(file)
    torch.save({"model": {"a": torch.ones(1)}, "x": _Attack(getattr, Path, "rmdir")}, file)
    assert not callable(read_pickle(file)["x"])
