"""A classifier's trunk with its fc_norm and without its head."""

from pathlib import Path

import torch

from videomae2.heads.classify import PooledEncoder, headless_network
from videomae2.models.encoder import Encoder
from videomae2.weights import load_into, read_checkpoint

from ..small_networks import CLIP, TINY, classifier, hub_folder


def test_fc_norm_alone_is_pooled_and_gives_what_the_head_would_read(tmp_path: Path) -> None:
    model = classifier()
    checkpoint = read_checkpoint(hub_folder(tmp_path / "hub", model))
    network = headless_network(TINY, checkpoint)
    assert isinstance(network, PooledEncoder)
    assert load_into(network, checkpoint).complete
    with torch.no_grad():
        assert torch.equal(network(CLIP), model.features(CLIP))
        assert torch.equal(network.features(CLIP), network(CLIP))


def test_without_fc_norm_it_is_the_encoder(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(hub_folder(tmp_path / "hub", classifier()))
    for name in ("fc_norm.weight", "fc_norm.bias"):
        del checkpoint.state[name]
    assert isinstance(headless_network(TINY, checkpoint), Encoder)
