"""Pre-training: masks by (seed, epoch, row, view), the released loss, and what a run leaves."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from videomae2 import chance
from videomae2.engine.log import read_lines
from videomae2.errors import UserError
from videomae2.labels import Unlabelled
from videomae2.masking import draw_split
from videomae2.models.build import build_autoencoder
from videomae2.recipes.pretrain import Pretraining
from videomae2.recipes.train import run_task
from videomae2.records import Batch, StepOutput
from videomae2.settings import MaskSettings, TargetSettings
from videomae2.targets import masked_mse, reconstruction_targets
from videomae2.weights import read_checkpoint

from ..small_runs import MODEL, OPTIM, SmallRuns, pretrain_settings

MASK = MaskSettings(encoder_ratio=0.75)


def task(held_out: Iterable[Batch[Unlabelled]] | None = None, **changes: Any) -> Pretraining:
    network = build_autoencoder(MODEL, **changes)
    return Pretraining(network, MASK, TargetSettings(), seed=3, held_out=held_out)


def step(pretraining: Pretraining, batch: Batch[Unlabelled], number: int) -> StepOutput:
    return pretraining.step(pretraining.network, batch, number)


def batch(
    rows: tuple[int, ...] = (0, 1, 2), views: tuple[int, ...] = (0, 0, 1), epoch: int = 0
) -> Batch[Unlabelled]:
    frames = torch.stack(
        [
            torch.randint(
                0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=chance.torch_generator(100 * r + v)
            )
            for r, v in zip(rows, views, strict=True)
        ]
    )
    return Batch(frames, torch.tensor(rows), torch.tensor(views), Unlabelled(len(rows)), epoch)


def test_the_loss_is_the_mean_squared_error_of_the_scored_cubes() -> None:
    pretraining, clips = task(), batch(epoch=5)
    keys = chance.keys(chance.key(3, "mask", 5), clips.row, clips.view)
    split = draw_split(pretraining.grid, MASK, keys)
    prediction = pretraining.network(clips.frames, split)
    target = reconstruction_targets(clips.frames, pretraining.grid, split.targets, "channel")
    output = step(pretraining, clips, 0)
    torch.testing.assert_close(output.loss, masked_mse(prediction, target))
    output.loss.backward()
    assert pretraining.network.mask_token.grad is not None


def test_a_mask_does_not_depend_on_the_batch_but_on_epoch_row_and_view() -> None:
    pretraining = task()
    whole = pretraining.loss(pretraining.network, batch(), chance.key(3, "mask", 0))
    alone = [
        pretraining.loss(pretraining.network, batch((r,), (v,)), chance.key(3, "mask", 0))
        for r, v in ((0, 0), (1, 0), (2, 1))
    ]
    torch.testing.assert_close(whole, torch.stack(alone).mean())
    assert step(pretraining, batch(epoch=0), 0).loss != step(pretraining, batch(epoch=1), 0).loss
    assert step(pretraining, batch(epoch=1), 0).loss == step(pretraining, batch(epoch=1), 9).loss


@pytest.mark.parametrize(("switch", "expected"), [(False, torch.bfloat16), (True, torch.float32)])
def test_the_decoder_runs_in_fp32_where_it_was_asked_to(switch: bool, expected: torch.dtype) -> None:
    pretraining = task(decoder_fp32=switch)
    seen: list[torch.dtype] = []
    pretraining.network.decoder.head.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.dtype)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = step(pretraining, batch(), 0).loss
    assert seen == [expected]
    assert loss.dtype == torch.float32


def test_evaluation_is_the_same_every_time_and_weighs_every_clip_alike() -> None:
    empty = Batch(
        torch.zeros(0, 8, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int64),
        Unlabelled(0),
    )

    @torch.no_grad()
    def evaluated(*held_out: Batch[Unlabelled]) -> float:
        pretraining = task(held_out)
        return pretraining.evaluate(pretraining.network.eval())["loss"]

    one = evaluated(batch())
    assert evaluated(batch((0, 1), (0, 0)), empty, batch((2,), (1,), epoch=7)) == pytest.approx(one, rel=1e-6)
    with pytest.raises(UserError, match="expected validation videos, got none that could be read"):
        evaluated(empty)


def test_a_mask_the_grid_cannot_have_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(UserError, match=r"got mask\.decoder_ratio 0\.3"):
        Pretraining(build_autoencoder(MODEL), replace(MASK, decoder_ratio=0.3), TargetSettings())


def test_a_run_leaves_weights_that_say_what_they_are(runs: SmallRuns) -> None:
    checkpoint = read_checkpoint(runs.pretrained)
    assert (checkpoint.kind, checkpoint.layout, checkpoint.settings) == ("pretrain", "ours", MODEL)
    assert checkpoint.metadata["data"]["stride"] == 1
    assert checkpoint.metadata["mask"]["encoder_ratio"] == 0.75
    assert checkpoint.metadata["target"]["normalize"] == "channel"
    lines = read_lines(runs.pretrained / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert any("loss" in line.get("evaluation", {}) for line in lines)


def test_the_number_of_loader_workers_changes_no_bit(runs: SmallRuns, tmp_path: Path) -> None:
    def weights(workers: int) -> dict[str, torch.Tensor]:
        settings = pretrain_settings(runs.videos, tmp_path / str(workers))
        data = replace(settings.data, workers=workers, val="")
        run_task(replace(settings, data=data, optim=replace(OPTIM, length=4)))
        return load_file(tmp_path / str(workers) / "model.safetensors")

    none, one, three = weights(0), weights(1), weights(3)
    assert all(torch.equal(none[name], one[name]) and torch.equal(none[name], three[name]) for name in none)
    assert not torch.equal(none["mask_token"], load_file(runs.pretrained / "model.safetensors")["mask_token"])


def test_a_run_continues_from_other_weights_and_says_what_matched(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = pretrain_settings(runs.videos, tmp_path / "more", init=str(runs.pretrained))
    data = replace(settings.data, val="")
    run_task(
        replace(
            settings, data=data, optim=replace(OPTIM, length=1, base_lr=0.0, min_lr=0.0, weight_decay=0.0)
        )
    )
    assert "tensors matched, 0 missing, 0 unexpected" in capsys.readouterr().err
    before, after = (
        load_file(runs.pretrained / "model.safetensors"),
        load_file(tmp_path / "more" / "model.safetensors"),
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_training_videos_is_refused_and_nothing_is_written(runs: SmallRuns, tmp_path: Path) -> None:
    settings = pretrain_settings(runs.videos, tmp_path / "run")
    with pytest.raises(UserError, match=r"--data\.train"):
        run_task(replace(settings, data=replace(settings.data, train="")))
    with pytest.raises(UserError, match="there are no weights at"):
        run_task(replace(settings, init="no_such_file.pth"))
    assert not (tmp_path / "run").exists()
