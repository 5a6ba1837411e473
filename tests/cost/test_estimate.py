"""`videomae2 cost`: one JSON object or a table, and mistakes in one line."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from videomae2.cli import main as cli

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """The object that `cost --json` prints."""

    def run(*tokens: str) -> dict[str, Any]:
        assert cli.main(["cost", *tokens, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


def test_pretraining_in_one_object(ask: Ask) -> None:
    found = ask(
        *("--model", "vit_b16", "--task", "pretrain", "--frames", "16", "--size", "224"),
        *("--decoder-mask", "running_cell", "--decoder-ratio", "0.5", "--membership", "released"),
    )
    assert found["macs_per_clip"] == pytest.approx(25.87e9, rel=5e-3)
    assert found["macs_per_clip_ours"] < found["macs_per_clip"]
    assert found["parameters"] == 94_210_944
    assert found["tokens"] == {
        "all": 1568,
        "visible": 160,
        "decoded": 784,
        "scored": 704,
        "decoder_length": 944,
    }
    for key in ("macs_per_clip", "macs_per_clip_ours", "parameters"):
        assert sum(part[key] for part in found["parts"].values()) == found[key]
    assert list(found["parts"]) == ["encoder", "decoder"]
    memory = found["memory_bytes"]
    assert memory["peak"] > memory["activations"] > memory["state"] > memory["parameters"] == 4 * 94_210_944
    assert found["steps"] == 300 * (1_348_000 // 32)


def test_membership_and_no_mask(ask: Ask) -> None:
    unseen = ask("--membership", "unseen")
    assert unseen["tokens"]["decoded"] == unseen["tokens"]["scored"] == 704
    assert unseen["macs_per_clip"] == pytest.approx(24.78e9, rel=1e-3)
    assert ask("--decoder-mask", "none")["macs_per_clip"] == pytest.approx(35.48e9, rel=5e-3)


def test_inference_and_finetuning(ask: Ask) -> None:
    inference = ask("--task", "inference", "--model", "vit_l16")
    assert inference["macs_per_clip"] == inference["macs_per_clip_step"] == pytest.approx(597e9, rel=5e-3)
    assert inference["clips"] == 19_796 * 15
    assert inference["memory_bytes"]["gradients"] == 0
    tuning = ask("--task", "finetune", "--model", "vit_l16", "--classes", "710", "--checkpointing")
    assert tuning["parameters"] == 304_588_486
    assert list(tuning["parts"]) == ["encoder", "head"]
    assert tuning["macs_per_clip_step"] == pytest.approx(4 * 597e9, rel=0.01)


def test_hours_of_a_run(ask: Ask) -> None:
    rate = ["--tflops", "989", "--utilisation", "0.5"]
    found = ask("--model", "vit_g14", "--processes", "64", "--checkpointing", *rate)
    assert found["steps"] == 197_400
    assert found["gpu_hours"] == pytest.approx(64 * found["wall_hours"])
    assert found["gpu_hours"] == pytest.approx(
        2 * found["macs_per_clip_step"] * found["clips"] / (989e12 * 0.5) / 3600
    )
    assert ask("--precision", "fp32")["execution"]["tflops"] == 19.5
    few = ask("--videos", "1000", "--epochs", "2", "--batch", "10", "--views", "1")
    assert (few["steps"], few["clips"], few["execution"]["clips"]) == (200, 2000, 10)


def test_sharding_and_checkpointing_lower_the_peak(ask: Ask) -> None:
    tokens = ["--model", "vit_g14", "--task", "finetune", "--batch", "2", "--processes", "8"]
    ways: tuple[list[str], ...] = (
        [],
        ["--shard", "full"],
        ["--shard", "full", "--mlp-checkpointing"],
        ["--shard", "full", "--checkpointing"],
    )
    found = [ask(*tokens, *way) for way in ways]
    peaks = [each["memory_bytes"]["peak"] for each in found]
    assert peaks == sorted(peaks, reverse=True)
    macs = [each["macs_per_clip_step"] for each in found]
    assert macs == sorted(macs)
    assert macs[1] < macs[2]


def test_the_table_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cost", "--processes", "8", "--checkpointing"]) == 0
    out = capsys.readouterr().out
    assert "forward, as the paper counts  25.84 GMAC" in out
    assert "encoder sees 160, decoder reads 944, predicts 784, scored 704 of 1568" in out
    assert "memory of one process: 128 clips, bf16 on cuda, checkpointing of blocks" in out
    assert "forward, backward and recomputation" in out
    assert cli.main(["cost", "--task", "inference"]) == 0
    assert "decoder" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--model", "vit_b"], "there is no model 'vit_b'; did you mean"),
        (["--size", "225"], "height 225 is not a multiple of patch 16"),
        (
            ["--decoder-ratio", "0.6"],
            "leaves out 0.25, 0.5 or 0.75 of all tokens, got mask.decoder_ratio 0.6",
        ),
        (["--batch", "0"], "batch: expected a count above 0, got 0"),
        (["--utilisation", "40"], "utilisation: expected a share above 0 and up to 1, got 40.0"),
        (["--task", "finetune", "--classes", "0"], "classes: expected a count above 0, got 0"),
        (["--precision", "fp16"], "fp16"),
    ],
)
def test_mistakes_are_one_line(tokens: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cost", *tokens]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
