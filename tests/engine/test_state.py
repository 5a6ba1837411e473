"""The moving average: its formula, and that it is evaluated in the place of the trained weights."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from videomae2.engine.state import build_average
from videomae2.errors import UserError


def test_the_average_follows_by_its_decay() -> None:
    net = nn.Linear(1, 1, bias=False)
    average = build_average(net, 0.75)
    assert average is not None
    for value in (4.0, 8.0, 16.0):
        nn.init.constant_(net.weight, value)
        average.update()
    assert average.values["weight"].item() == pytest.approx((4 * 0.75 + 8 * 0.25) * 0.75 + 16 * 0.25)
    assert not average.values["weight"].requires_grad


def test_it_is_torchs_own_average_bit_for_bit() -> None:
    net = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5))
    ours, theirs = build_average(net, 0.9), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    assert ours is not None
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        ours.update()
        theirs.update_parameters(net)
    assert all(torch.equal(ours.values[name], value) for name, value in theirs.module.named_parameters())


def test_inside_the_network_has_the_average_and_afterwards_its_own_weights() -> None:
    net = nn.Linear(3, 2)
    average = build_average(net, 0.5)
    assert average is not None
    average.update()
    averaged = net.weight.detach().clone()
    nn.init.constant_(net.weight, 7.0)
    with pytest.raises(KeyError), average.swapped_in(net):  # noqa: PT012 - the body is what is tested
        assert torch.equal(net.weight, averaged)
        raise KeyError  # what goes wrong in an evaluation leaves the weights in order
    assert torch.equal(net.weight, torch.full((2, 3), 7.0))
    assert torch.equal(average.values["weight"], averaged)


def test_no_average_and_a_wrong_one() -> None:
    assert build_average(nn.Linear(1, 1), 0.0) is None
    with pytest.raises(UserError, match=r"expected optim.ema_decay .* got 1.0"):
        build_average(nn.Linear(1, 1), 1.0)
