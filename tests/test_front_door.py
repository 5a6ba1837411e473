"""The front door: a dozen names, each found where it says, and nothing heavy until one is used."""

import subprocess
import sys

import pytest
import torch

import videomae2 as vm
from videomae2.heads.classify import Classifier
from videomae2.models.autoencoder import Autoencoder

from .small_runs import write_video

TINY = {"num_frames": 8, "size": 32, "patch": 8, "width": 48, "depth": 2, "num_heads": 3}


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, videomae2; print([m for m in ('torch', 'numpy', 'av', 'pyarrow') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_every_public_name_is_there_and_listed():
    assert all(getattr(vm, name) is not None for name in vm.__all__)
    assert set(vm.__all__) <= set(dir(vm))
    assert set(vm.__all__) == set(vm._HOMES)


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(AttributeError, match=r"no attribute 'laod'; its names are .*load"):
        _ = vm.laod


def test_create_model_makes_a_classifier_or_an_autoencoder_from_a_seed():
    first, again, other = (
        vm.create_model("vit_ti16", num_classes=3, seed=seed, **TINY) for seed in (0, 0, 1)
    )
    assert isinstance(first, Classifier)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert isinstance(vm.create_model("vit_ti16", decoder_width=24, decoder_heads=3, **TINY), Autoencoder)


def test_create_model_refuses_what_is_no_setting():
    with pytest.raises(vm.UserError, match="'num_frame' is no setting of a model; did you mean num_frames"):
        vm.create_model("vit_ti16", num_classes=3, num_frame=8)
    with pytest.raises(vm.UserError, match="there is no model 'vit_b14'"):
        vm.create_model("vit_b14")


def test_load_video_gives_the_middle_of_any_video(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 2, num_frames=20)
    clip = vm.load_video(path, num_frames=4, stride=2, size=24)
    assert (clip.dtype, clip.shape) == (torch.uint8, (4, 3, 24, 24))
    short = vm.load_video(
        write_video(tmp_path / "short.mp4", 2, num_frames=3), num_frames=8, stride=4, size=24
    )
    assert short.shape == (8, 3, 24, 24)
    with pytest.raises(vm.UserError, match=r"no\.mp4"):
        vm.load_video(tmp_path / "no.mp4")
    with pytest.raises(vm.UserError, match="size is 0, but a number from 1 on was expected"):
        vm.load_video(path, size=0)
