"""The defaults are the released ViT-B recipe, and every setting can be written, read and explained."""

import ast
import dataclasses
import inspect
import itertools
import subprocess
import sys
import typing

import pytest

from videomae2 import settings as settings_module
from videomae2.bounds import Between, Lasting, expectation, fit
from videomae2.config import check, flatten, known_settings, walk
from videomae2.engine.schedule import make_plan
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

COMMANDS = [PretrainSettings, FinetuneSettings, EvaluateSettings]
SECTIONS = ("model", "data", "mask", "target", "head", "points", "suppression", "optim", "run")

PRETRAIN: dict[str, object] = {
    "model.name": "vit_b16", "model.num_frames": 16, "model.size": 224, "model.tubelet": 2,
    "model.patch": None, "model.width": None, "model.depth": None, "model.num_heads": None,
    "model.decoder_depth": 4, "model.decoder_width": None, "model.decoder_heads": None,
    "model.native_frames": 16, "model.native_size": 224, "model.positions": "sinusoid",
    "model.cosine_attention": False, "model.layer_scale": 0.0, "model.drop_path": 0.0,
    "model.head_dropout": 0.0, "model.activation_checkpointing": False, "model.mlp_checkpointing": False,
    "data.train": "", "data.val": "", "data.root": "", "data.list_format": "auto",
    "data.first_label": 0, "data.frame_pattern": "img_{:05}.jpg", "data.sampling": "dense", "data.stride": 4,
    "data.target_fps": 0.0, "data.frame_order": "as_filmed", "data.repeated_views": 4,
    "data.crop": "multi_scale", "data.crop_scale": (0.08, 1.0), "data.color_jitter": (0.0, 0.0, 0.0),
    "data.flip": False, "data.rand_augment": "", "data.erasing": 0.0,
    "data.test_clips": 5, "data.test_crops": 3, "data.workers": 2,
    "data.max_broken": 0.05, "data.max_seconds": 300.0, "data.retries": 5,
    "mask.encoder": "tube", "mask.encoder_ratio": 0.9,
    "mask.decoder": "running_cell", "mask.decoder_ratio": 0.5, "mask.membership": "released",
    "mask.scored": "unseen", "target.normalize": "channel", "optim.base_lr": 0.001,
    "optim.lr_counts_views": False, "optim.min_lr": 1e-05, "optim.weight_decay": 0.05,
    "optim.betas": (0.9, 0.95), "optim.eps": 1e-08, "optim.layer_decay": 1.0, "optim.clip_grad": 0.0,
    "optim.batch_size": 32, "optim.accumulate": 1, "optim.length": "200ep", "optim.warmup": "20ep",
    "optim.ema_decay": 0.0, "run.out": "", "run.seed": 0, "run.device": "auto", "run.precision": "bf16",
    "run.decoder_fp32": False, "run.shard": "none", "run.compile": False,
    "run.checkpoint_every": "1ep",
    "run.evaluate_every": "100%", "run.log_every": 10, "run.keep_last": 2, "run.max_nonfinite": 3,
    "run.tensorboard": True, "init": "",
}  # fmt: skip
FINETUNE_DIFFERS: dict[str, object] = {
    "model.drop_path": 0.1, "data.repeated_views": 2, "data.crop": "random_resized", "data.flip": True,
    "data.rand_augment": "rand-m7-n4-mstd0.5-inc1", "data.erasing": 0.25, "optim.base_lr": 0.0007,
    "optim.min_lr": 1e-06, "optim.betas": (0.9, 0.999),
    "optim.layer_decay": 0.75, "optim.batch_size": 16, "optim.length": "90ep", "optim.warmup": "5ep",
    "num_classes": 0, "head_init_scale": 0.001, "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0,
    "mix_probability": 1.0, "mix_switch": 0.5, "label_map": "",
}  # fmt: skip
EVALUATE: dict[str, object] = {
    "weights": "", "data.train": "", "data.val": "", "data.root": "", "data.list_format": "auto",
    "data.first_label": 0, "data.frame_pattern": "img_{:05}.jpg", "data.sampling": "dense", "data.stride": 4,
    "data.target_fps": 0.0, "data.frame_order": "as_filmed", "data.repeated_views": 1,
    "data.crop": "random_resized", "data.crop_scale": (0.08, 1.0), "data.color_jitter": (0.0, 0.0, 0.0),
    "data.flip": True, "data.rand_augment": "rand-m7-n4-mstd0.5-inc1", "data.erasing": 0.25,
    "data.test_clips": 5, "data.test_crops": 3, "data.workers": 2, "data.max_broken": 0.05,
    "data.max_seconds": 300.0, "data.retries": 5, "batch_size": 1,
    "views_per_forward": 15, "use_ema": True, "as_trained": True, "match": "names", "device": "auto",
    "precision": "bf16",
    "out": "",
}  # fmt: skip


def same(found: dict[str, object], expected: dict[str, object]) -> bool:
    """Whether keys, values and the types of the values agree: 1 is no 1.0 and no true."""
    return found == expected and [type(value) for value in found.values()] == [
        type(expected[key]) for key in found
    ]


def test_the_defaults_of_every_command_are_what_they_were() -> None:
    finetune = {key: value for key, value in PRETRAIN.items() if not key.startswith(("mask.", "target."))}
    assert same(flatten(PretrainSettings()), PRETRAIN)
    assert same(flatten(FinetuneSettings()), finetune | FINETUNE_DIFFERS)
    assert same(flatten(EvaluateSettings()), EVALUATE)


def test_pretraining_defaults_are_those_of_the_released_vit_b() -> None:
    settings = PretrainSettings()
    # 32 processes of 32 videos: 1024, peak 4e-3, 200 epochs of which each shows four views.
    plan = make_plan(settings.optim, settings.run, num_rows=1_348_000, views=4, world_size=32)
    assert plan.effective_batch == 1024
    assert plan.peak_lr == pytest.approx(4e-3)
    assert plan.final_lr == pytest.approx(4e-5)
    assert (plan.steps_per_epoch, plan.steps) == (1316, 200 * 1316)


@pytest.mark.parametrize("cls", COMMANDS)
def test_every_setting_is_frozen_has_a_type_with_words_and_a_value_of_it(cls: type) -> None:
    settings = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.data = None
    for key, kind, value in walk(settings):
        assert expectation(kind), key
        assert fit(kind, value) == value, key
    check(settings)


@pytest.mark.parametrize("cls", COMMANDS)
def test_every_number_has_finite_bounds_beside_it(cls: type) -> None:
    for key, setting in known_settings(cls).items():
        base, *notes = (
            typing.get_args(setting.kind) if hasattr(setting.kind, "__metadata__") else (setting.kind,)
        )
        if not {int, float} & {base, *typing.get_args(base)}:
            assert not notes, key
            continue
        (bound,) = notes
        assert isinstance(bound, Between | Lasting), key
        if isinstance(bound, Between):
            assert abs(bound.low) < float("inf"), key
            assert bound.low < bound.high < float("inf"), key


@pytest.mark.parametrize("cls", COMMANDS)
def test_a_section_of_a_commands_own_changes_defaults_alone(cls: type) -> None:
    """A field declared again must not lose the bounds beside it, nor its place."""
    for section in typing.get_type_hints(cls).values():
        bases: tuple[type, ...] = section.__mro__[1:-1] if dataclasses.is_dataclass(section) else ()  # type: ignore[union-attr]
        for base in bases:
            hints = typing.get_type_hints(base, include_extras=True)
            assert list(typing.get_type_hints(section, include_extras=True).items()) == list(hints.items())


def test_every_setting_says_what_it_is() -> None:
    """The text below a field is its line in --help; a field declared again keeps the first one's."""
    told: dict[str, set[str]] = {}
    for node in ast.parse(inspect.getsource(settings_module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        told[node.name] = set().union(*(told[base] for base in bases))
        for field, after in itertools.pairwise([*node.body, ast.Pass()]):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                is_section = field.target.id in SECTIONS
                told[node.name] |= {field.target.id} if is_text else set()
                assert is_section or field.target.id in told[node.name], f"{node.name}.{field.target.id}"


@pytest.mark.parametrize(
    "module", ["videomae2.bounds", "videomae2.settings", "videomae2.config", "videomae2.options"]
)
def test_settings_and_config_import_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; print({{'torch', 'numpy', 'pyarrow', 'cyclopts', 'rich'}} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
