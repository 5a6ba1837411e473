"""The defaults are the paper's recipe, and every setting can be written, read and explained."""

import dataclasses
import subprocess
import sys
import typing

import pytest

from videomae2.cli.settings_help import settings_help
from videomae2.config import expectation, flatten, walk
from videomae2.engine.schedule import make_plan
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

COMMANDS = [PretrainSettings, FinetuneSettings, EvaluateSettings]


def test_pretraining_defaults_are_the_papers() -> None:
    settings = PretrainSettings()
    assert (settings.mask.encoder, settings.mask.encoder_ratio) == ("tube", 0.9)
    assert (settings.mask.decoder, settings.mask.decoder_ratio) == ("running_cell", 0.5)
    assert (settings.optim.weight_decay, settings.optim.betas) == (0.05, (0.9, 0.95))
    assert (settings.data.crop, settings.data.flip, settings.data.repeated_views) == ("multi_scale", False, 4)
    # 64 processes of 32 videos, each seen four times: 8192, peak 4.8e-3 (paper, appendix).
    plan = make_plan(settings.optim, settings.run, num_rows=1_348_000, views=4, world_size=64)
    assert plan.effective_batch == 8192
    assert plan.peak_lr == pytest.approx(4.8e-3)
    assert plan.batches_per_epoch == 658


def test_finetuning_defaults_are_the_scripts() -> None:
    settings = FinetuneSettings()
    assert (settings.mixup, settings.cutmix, settings.label_smoothing) == (0.8, 1.0, 0.1)
    assert (settings.data.repeated_views, settings.data.rand_augment) == (2, "rand-m7-n4-mstd0.5-inc1")
    assert (settings.data.erasing, settings.optim.betas, settings.optim.min_lr) == (0.25, (0.9, 0.999), 1e-6)
    assert (settings.data.test_clips, settings.data.test_crops) == (5, 3)


@pytest.mark.parametrize("cls", COMMANDS)
def test_every_setting_is_frozen_has_a_type_with_words_and_a_value_of_it(cls: type) -> None:
    settings = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.data = None
    for key, kind, value in walk(settings):
        assert expectation(kind), key
        choices = typing.get_args(kind)
        if typing.get_origin(kind) is typing.Literal:
            assert value in choices, key


@pytest.mark.parametrize("cls", COMMANDS)
def test_help_lists_every_setting_with_its_default_and_its_docstring(cls: type) -> None:
    text = settings_help(cls(), width=120)
    for key in flatten(cls()):
        assert f"--{key}  [" in text, key
    assert "As `train`; what `evaluate` and the periodic evaluation read." in text
    assert max(map(len, text.splitlines())) <= 140
    if cls is PretrainSettings:
        assert "--data.repeated_views  [4]" in text  # the command's default, not the section's
        assert "--optim.base_lr  [0.00015]" in text
        assert "--run.device  [auto] (one of auto, cpu, cuda)" in text


def test_settings_and_config_import_nothing_heavy() -> None:
    code = "import sys, videomae2.config, videomae2.settings; print({'torch', 'numpy', 'pyarrow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
