import pytest
import torch

from videomae2.engine.device import autocast, choose_device, precision_note, seeded
from videomae2.errors import UserError


def test_the_same_key_gives_the_same_chance_and_disturbs_no_one() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    cpu = torch.device("cpu")
    with seeded(7, cpu):
        first = torch.rand(3)
    with seeded(7, cpu):
        again = torch.rand(3)
    with seeded(8, cpu):
        other = torch.rand(3)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.rand(3), expected)


def test_chance_is_given_back_after_an_error_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="in the forward"), seeded(7, torch.device("cpu")):  # noqa: PT012
        torch.rand(3)
        raise RuntimeError("in the forward")
    assert torch.equal(before, torch.get_rng_state())


def test_half_precision_is_bf16() -> None:
    matrix = torch.ones(2, 2)
    with autocast(torch.device("cpu"), "bf16"):
        assert (matrix @ matrix).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), "fp32"):
        assert (matrix @ matrix).dtype == torch.float32


def test_devices() -> None:
    with pytest.raises(UserError, match="expected device auto, cpu or cuda, got 'gpu'; try auto"):
        choose_device("gpu")
    assert choose_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    else:
        assert choose_device("auto").type == "cpu"
        with pytest.raises(
            UserError, match=r"expected a CUDA device for run.device 'cuda', got none; try --device cpu"
        ):
            choose_device("cuda")


def test_bf16_on_a_processor_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    old, new = {"architecture": "x86_64", "avx2": True}, {"architecture": "x86_64", "avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: old)
    assert "fp32 is faster here: add --run.precision fp32" in precision_note(cpu, "bf16")
    assert precision_note(cpu, "bf16", "--precision").endswith("add --precision fp32")
    assert precision_note(cpu, "fp32") == precision_note(torch.device("cuda", 0), "bf16") == ""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: new)
    assert precision_note(cpu, "bf16") == ""
