import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.config import load_settings
from videomae2.engine import checkpoint
from videomae2.errors import UserError
from videomae2.settings import PretrainSettings

from .toys import sum_again


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model.head.weight": torch.randn(3, 4, generator=generator),
        "model.norm": torch.randn(5, generator=generator).bfloat16(),
        "ema.head.weight": torch.randn(3, 4, generator=generator),
        "optimizer.head.weight.step": torch.tensor(7.0),
    }


def save(folder: Path, tensors: dict[str, torch.Tensor], *steps: int) -> Path:
    for step in steps:
        checkpoint.save_checkpoint(folder, tensors, {"note": f"at {step}"}, step)
    return folder / f"step-{steps[-1]}"


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = save(tmp_path, tensors, 4)
    blank = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    checkpoint.load_tensors(path, blank)
    assert all(torch.equal(blank[name], tensors[name]) for name in tensors)
    assert checkpoint.read_state(path)["note"] == "at 4" and checkpoint.read_state(path)["step"] == 4


def test_weights_come_without_knowing_their_shapes(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save(tmp_path / "checkpoints", tensors, 2, 4)
    model = checkpoint.load_model_state(tmp_path)
    assert set(model) == {"head.weight", "norm"} and model["norm"].dtype == torch.bfloat16
    assert torch.equal(model["head.weight"], tensors["model.head.weight"])
    assert torch.equal(
        checkpoint.load_model_state(tmp_path, "ema")["head.weight"], tensors["ema.head.weight"]
    )
    with pytest.raises(UserError, match=r"holds no 'teacher' weights"):
        checkpoint.load_model_state(tmp_path, "teacher")
    with pytest.raises(UserError, match=r"holds no checkpoint; give a run's folder"):
        checkpoint.load_model_state(tmp_path / "nothing")


def test_it_is_read_by_torchs_own_tools(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    path = save(tmp_path, tensors, 1)
    dcp_to_torch_save(path, tmp_path / "flat.pt")
    assert torch.equal(torch.load(tmp_path / "flat.pt")["model.head.weight"], tensors["model.head.weight"])


def test_leftovers_of_a_kill_are_ignored_and_swept(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save(tmp_path, tensors, 4)
    (tmp_path / ".writing-9").mkdir()
    (tmp_path / ".writing-9" / "__0_0.distcp").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) == tmp_path / "step-4"
    save(tmp_path, tensors, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-4", "step-5"]


@pytest.mark.parametrize(
    "harm", ["truncate", "flip a bit", "remove", "no state", "broken state", "another step", "no sums"]
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, tensors: dict[str, torch.Tensor], harm: str
) -> None:
    path = save(tmp_path, tensors, 4, 8)
    data, state = path / "__0_0.distcp", path / "state.json"
    if harm == "truncate":
        data.write_bytes(data.read_bytes()[:-10])
    elif harm == "flip a bit":
        content = bytearray(data.read_bytes())
        content[-40] ^= 1
        data.write_bytes(content)
    elif harm == "remove":
        data.unlink()
    elif harm == "another step":
        state.write_text(state.read_text().replace('"step": 8', '"step": 9'))
    elif harm == "no sums":
        (path / "SHA256SUMS").unlink()
    elif harm == "no state":
        state.unlink()
    else:
        state.write_text('{"step": 8, "fil')
    told: list[str] = []
    assert checkpoint.latest(tmp_path, told.append) == tmp_path / "step-4"
    assert len(told) == 1 and "step-8 is damaged: " in told[0]
    assert told[0].endswith("; going back to step-4, the one before it")


def test_no_usable_checkpoint_is_an_error_not_a_fresh_start(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    (save(tmp_path, tensors, 4) / "__0_0.distcp").unlink()
    with pytest.raises(
        UserError,
        match=r"no usable checkpoint is left: .*step-4 is damaged.*remove .* to start the run again",
    ):
        checkpoint.latest(tmp_path)
    assert checkpoint.latest(tmp_path / "empty") is None


def test_flipped_bytes_are_one_clear_line(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = save(tmp_path, tensors, 4)
    data = path / "__0_0.distcp"
    data.write_bytes(b"\0" * data.stat().st_size)
    with pytest.raises(UserError, match=r"step-4 is damaged") as caught:
        checkpoint.load_tensors(path, {"model.head.weight": torch.zeros(3, 4)})
    assert "\n" not in str(caught.value)


def test_another_architecture_is_named(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = save(tmp_path, tensors, 4)
    with pytest.raises(
        UserError, match=r"another architecture: .*expected model.head.weight of shape \[2, 4\], got \[3, 4\]"
    ):
        checkpoint.load_tensors(path, {"model.head.weight": torch.zeros(2, 4)})
    with pytest.raises(UserError, match=r"1 tensors are missing .*\(model.tail is not in it\)"):
        checkpoint.load_tensors(path, {"model.tail": torch.zeros(2, 4)})


def test_the_last_and_the_best_are_kept(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save(tmp_path, tensors, 2, 4, 6, 8, 10)
    checkpoint.keep(tmp_path, last=2, best_step=4, newest=10)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-4", "step-8", "step-10"]
    checkpoint.keep(tmp_path, last=1, best_step=None, newest=10)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-10"]


def test_what_a_resume_skipped_as_damaged_does_not_count(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    save(tmp_path, tensors, 2, 4, 6, 8, 10)
    checkpoint.keep(tmp_path, last=2, best_step=10, newest=6)  # 8 and 10 were damaged, 6 is written again
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-4", "step-6"]


def test_the_sums_are_read_by_the_usual_tool(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = save(tmp_path, tensors, 4)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=path, check=True)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_tensor_that_is_not_finite_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, torch.Tensor], value: float
) -> None:
    tensors["model.norm"][2] = value
    path = save(tmp_path, tensors, 4)
    with pytest.raises(UserError, match=r"step-4, got NaN or infinity in model.norm; remove .*step-4 to go"):
        checkpoint.load_tensors(path, {name: torch.zeros_like(tensor) for name, tensor in tensors.items()})


def test_saving_a_step_again_replaces_it(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save(tmp_path, tensors, 4)
    path = save(tmp_path, {**tensors, "model.norm": torch.ones(5)}, 4)
    assert torch.equal(checkpoint.load_model_state(path)["norm"], torch.ones(5))
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch bombed",))


def test_an_index_that_tries_to_run_code_does_not(
    tmp_path: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path, tensors, 4)
    (path / ".metadata").write_bytes(pickle.dumps(Bomb()))
    sum_again(path)  # as whoever makes a hostile checkpoint does
    with pytest.raises(UserError, match=r"expected an index that names only .*system; it was not run"):
        checkpoint.load_model_state(path)
    assert not (tmp_path / "bombed").exists()


def test_one_checkpoint_alone_is_not_offered() -> None:
    with pytest.raises(UserError, match=r"run.keep_last.*2"):
        load_settings(PretrainSettings, None, ["--run.keep_last", "1"])
