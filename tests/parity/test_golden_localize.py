"""Temporal detection as ActionFormer has it: suppression, network, targets, losses and inference."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from videomae2.data.features import FeatureTime
from videomae2.errors import UserError
from videomae2.heads.points import Decoding, Losses, Points, PointTargets, losses_of, targets_of
from videomae2.heads.temporal import Localizer
from videomae2.overlap import Suppression
from videomae2.recipes.detections import model_of
from videomae2.recipes.weights import read_weights
from videomae2.settings import LocalizeModel
from videomae2.weights import load_into
from videomae2.weights.describe import convert, describe
from videomae2.weights.layouts import to_ours

from . import released

Recorded = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """Configuration, tensors and weights of the golden file."""
    return released.read(Path(__file__).parent / "data" / "actionformer.safetensors")


# The recorded runs state no settings: these, found by trying, give their numbers, and no others tried do.
@pytest.mark.parametrize(
    ("name", "suppression"),
    [
        ("soft_multiclass", Suppression(most=40)),
        ("hard_multiclass", Suppression("hard", iou=0.4, most=40)),
        ("soft_agnostic_vote", Suppression(sigma=0.75, most=40, by_class=False, vote=0.9)),
    ],
)
def test_suppression(recorded: Recorded, name: str, suppression: Suppression) -> None:
    _, tensors, _ = recorded
    segments, scores, labels = suppression(
        *(tensors[f"nms.{part}"] for part in ("segments", "scores", "labels"))
    )
    assert released.error(segments, tensors[f"nms.{name}.segments"]) < 1e-6
    assert released.error(scores, tensors[f"nms.{name}.scores"]) < 1e-6
    assert torch.equal(labels, tensors[f"nms.{name}.labels"])


MODEL = LocalizeModel(
    width=24,
    num_heads=2,
    window=9,
    levels=4,
    stem_blocks=1,
    drop_path=0.0,
    max_length=64,
    first_normalizer=20.0,
)
"""The recorded network: `config` of the file; a test compares."""


@pytest.fixture(scope="module")
def network(recorded: Recorded) -> Localizer:
    """Our network with the recorded weights."""
    config, _, weights = recorded
    localizer = Localizer(MODEL, config["input_dim"], config["num_classes"])
    state = to_ours(weights, "actionformer")
    missing, unexpected = localizer.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["normalizer"], [])
    return localizer


def batch_of(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features [2, 64, 40], padded, and their lengths."""
    parts = [tensors[f"input.{video}.features"].T for video in (0, 1)]
    padded = [F.pad(part, (0, 0, 0, MODEL.max_length - len(part))) for part in parts]
    return torch.stack(padded), torch.tensor([len(part) for part in parts])


def targets(tensors: dict[str, Tensor]) -> PointTargets:
    points = Points.of(MODEL.max_length, MODEL.levels)
    parts = [
        targets_of(points, tensors[f"input.{v}.segments"], tensors[f"input.{v}.labels"], 6, 1.5)
        for v in (0, 1)
    ]
    return PointTargets(*(torch.cat(each) for each in zip(*parts, strict=True)))


def trained(network: Localizer, tensors: dict[str, Tensor]) -> Losses:
    """The losses of one training step from the recorded start."""
    network.train()
    network.normalizer.fill_(MODEL.first_normalizer)
    features, lengths = batch_of(tensors)
    target = targets(tensors)
    valid = network(features, lengths).valid
    return losses_of(network(features, lengths, (target.positive & valid).sum()), target, 1.0, 0.0)


def test_the_recorded_network_is_the_one_that_is_built(recorded: Recorded) -> None:
    config, _, _ = recorded
    assert config["backbone_arch"] == [MODEL.embed_layers, MODEL.stem_blocks, MODEL.levels - 1]
    assert (config["embd_dim"], config["n_head"], config["n_mha_win_size"]) == (24, 2, 9)
    ranges = Points.of(MODEL.max_length, MODEL.levels)
    stated = [[float(ranges.least[p]), float(ranges.most[p])] for p in (0, 64, 96, 112)]
    assert stated == config["regression_range"]
    assert config["train_cfg"]["init_loss_norm"] == MODEL.first_normalizer


def test_every_level_of_the_pyramid(recorded: Recorded, network: Localizer) -> None:
    _, tensors, _ = recorded
    features, lengths = batch_of(tensors)
    found = network.eval()(features, lengths)
    sizes = [64, 32, 16, 8]
    levels = zip(*(each.split(sizes, 1) for each in found[:3]), strict=True)
    for level, (logits, offsets, valid) in enumerate(levels):
        recorded_level = f"train.level{level}"
        assert torch.equal(valid, tensors[f"{recorded_level}.mask"].bool())
        assert released.error(logits, tensors[f"{recorded_level}.class_logits"]) < 1e-5
        assert released.error(offsets, tensors[f"{recorded_level}.offsets"]) < 1e-5


def test_targets_losses_and_gradients(recorded: Recorded, network: Localizer) -> None:
    _, tensors, _ = recorded
    target = targets(tensors)
    assert torch.equal(target.classes, tensors["train.class_targets"])
    positive = target.positive
    assert released.error(target.offsets[positive], tensors["train.offset_targets"][positive]) < 1e-6
    losses = trained(network, tensors)
    for name, value in (("final", losses.total), ("cls", losses.classes), ("reg", losses.ends)):
        assert released.error(value.reshape(1), tensors[f"train.{name}_loss"]) < 1e-5
    network.zero_grad()
    losses.total.backward()
    assert released.error(released.global_norm(network), tensors["train.grad_norm"]) < 1e-4
    network.zero_grad()


def test_the_normalizer_is_saved_with_the_weights(recorded: Recorded, network: Localizer) -> None:
    _, tensors, _ = recorded
    trained(network, tensors)
    positives = int((targets(tensors).positive).sum())
    assert float(network.state_dict()["normalizer"]) == pytest.approx(0.9 * 20 + 0.1 * positives)


@pytest.mark.parametrize("video", [0, 1])
def test_inference_in_seconds(recorded: Recorded, network: Localizer, video: int) -> None:
    _, tensors, _ = recorded
    features, lengths = (each[video : video + 1] for each in batch_of(tensors))
    with torch.no_grad():
        predicted = network.eval()(features, lengths)
    decode = Decoding(Suppression(most=60), candidates=500)
    durations = [9.533333333333333, 7.266666666666667]  # of the file's metadata, "video"
    points = Points.of(MODEL.max_length, MODEL.levels)
    found = decode(predicted, points, [FeatureTime(30.0, 16.0, 4.0)], durations[video : video + 1])
    assert found.scores is not None
    assert released.error(found.seconds, tensors[f"inference.{video}.segments"]) < 1e-5
    assert released.error(found.scores, tensors[f"inference.{video}.scores"]) < 1e-5
    assert torch.equal(found.labels, tensors[f"inference.{video}.labels"])  # type: ignore[arg-type]


def test_a_released_checkpoint_is_read_by_its_file(recorded: Recorded, tmp_path: Path) -> None:
    """As ActionFormer saves it: under the prefix of DataParallel, with averaged weights in an entry apart."""
    config, tensors, weights = recorded
    state = {f"module.{name}": tensor for name, tensor in weights.items()}
    last = {name: tensor + 1 for name, tensor in state.items()}
    content = {"epoch": 35, "state_dict": last, "state_dict_ema": state, "optimizer": {"lr": 1e-4}}
    torch.save(content, tmp_path / "epoch_035.pth.tar")
    checkpoint = read_weights(str(tmp_path / "epoch_035.pth.tar"))
    assert (checkpoint.kind, checkpoint.layout, checkpoint.num_classes) == ("localizer", "actionformer", 6)
    model = model_of(checkpoint)
    assert (model.width, model.levels, model.stem_blocks, model.head_layers) == (24, 4, 1, 3)
    assert (model.embed_layers, model.kernel, model.drop_path) == (2, 3, 0.0)
    network = Localizer(MODEL, config["input_dim"], config["num_classes"])
    assert load_into(network, checkpoint).complete
    features, lengths = batch_of(tensors)
    logits = network.eval()(features, lengths).logits[:, :64]
    assert released.error(logits, tensors["train.level0.class_logits"]) < 1e-5
    assert "temporal detector of width 24 and 4 levels on 40 values, 6 classes" in describe(checkpoint)
    with pytest.raises(UserError, match="expected layout ours for a temporal detector, got released"):
        convert(checkpoint, tmp_path / "x.pth", "released")
