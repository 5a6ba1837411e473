"""Settings: defaults <- page <- line; every error names the key, what came and what was expected."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomae2.config import differences, flatten, from_toml, load_settings, to_toml
from videomae2.errors import UserError
from videomae2.settings import EvaluateSettings, FinetuneSettings, OptimSettings, PretrainSettings

COMMANDS = [PretrainSettings, FinetuneSettings, EvaluateSettings]


def line(*tokens: str, cls: type = PretrainSettings) -> dict:
    """The keys that command-line tokens change, with their new values."""
    return {each.key: each.second for each in differences(cls(), load_settings(cls, None, tokens))}


@pytest.mark.parametrize("cls", COMMANDS)
def test_without_changes_the_commands_own_defaults_stand(cls: type) -> None:
    assert load_settings(cls) == cls()


def test_one_change_keeps_the_other_defaults_the_command_set_for_that_section() -> None:
    settings = load_settings(PretrainSettings, None, ["--data.stride", "2"])
    assert settings.data == dataclasses.replace(PretrainSettings().data, stride=2)
    assert settings.data.repeated_views == 4  # the command's; DataSettings alone says 1


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["--optim.betas", "0.9", "0.99"], {"optim.betas": (0.9, 0.99)}),
        (["--optim.betas", "0.9,0.99"], {"optim.betas": (0.9, 0.99)}),
        (["--optim.betas=0.9,0.99", "--run.seed=3"], {"optim.betas": (0.9, 0.99), "run.seed": 3}),
        (["--optim.betas", "0.8", "1", "--data.flip"], {"optim.betas": (0.8, 1.0), "data.flip": True}),
        (["--optim.clip_grad", "-1"], {"optim.clip_grad": -1.0}),
        (["--seed", "-7"], {"run.seed": -7}),
        (["--out", "runs/a b", "--device", "cpu"], {"run.out": "runs/a b", "run.device": "cpu"}),
        (["--out", "2024"], {"run.out": "2024"}),
        (["--optim.lr", "1e-4"], {"optim.base_lr": 1e-4}),
        (["--optim.base-lr", "1e-4"], {"optim.base_lr": 1e-4}),
        (["--data.flip", "true"], {"data.flip": True}),
        (["--data.flip=true"], {"data.flip": True}),
        (["--run.no_tensorboard"], {"run.tensorboard": False}),
        (["--run.no-tensorboard"], {"run.tensorboard": False}),
        (["--model.patch", "14"], {"model.patch": 14}),
        (["--model.patch", "14", "--model.patch", "none"], {}),
        (["--optim.length", "12000"], {"optim.length": 12000}),
        (["--optim.length", "7ep", "--optim.warmup", "5%"], {"optim.length": "7ep", "optim.warmup": "5%"}),
        (["--mask.decoder", "none"], {"mask.decoder": "none"}),
        (["--data.rand_augment", "x", "--data.rand_augment", ""], {}),
    ],
)
def test_values_from_the_line(tokens: list[str], expected: dict) -> None:
    assert line(*tokens) == expected


def test_evaluate_has_its_own_out_and_device() -> None:
    assert line("--out", "x", "--device", "cpu", "--weights", "w", cls=EvaluateSettings) == {
        "out": "x",
        "device": "cpu",
        "weights": "w",
    }


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--optim.bse_lr", "3"], "unknown setting optim.bse_lr; did you mean optim.base_lr?"),
        (["--dat.stride", "3"], "did you mean data.stride?"),
        (["--warmup", "3"], "did you mean optim.warmup?"),
        (["--lr", "3"], "did you mean optim.base_lr?"),
        (["--zzz", "3"], "unknown setting zzz; the sections are data, mask, model, optim, run, target"),
        (["--model", "vit_b16"], "model is a section; set one of its keys, such as model.name"),
        (["--optim.base_lr", "fast"], "optim.base_lr is 'fast', but it takes a number"),
        (["--optim.base_lr", "nan"], "optim.base_lr is nan, but it takes a number"),
        (["--optim.base_lr"], "--optim.base_lr needs a value: a number"),
        (["--optim.base_lr", "--seed", "3"], "--optim.base_lr needs a value"),
        (["--model.size", "8.5"], "model.size is 8.5, but it takes a whole number"),
        (["--model.patch", "x"], "model.patch is 'x', but it takes a whole number or none"),
        (["--data.flip", "maybe"], "data.flip is 'maybe', but it takes true or false"),
        (["--data.sampling", "sparse"], "data.sampling is 'sparse', but it takes one of dense, segments"),
        (["--optim.betas", "0.9"], "optim.betas is [0.9], but it takes 2 numbers"),
        (["--optim.betas", "0.9", "0.95", "0.99"], "but it takes 2 numbers"),
        (["--optim.length", "1.5"], "optim.length is 1.5, but it takes a whole number or text"),
        (["--data.no_flip=true"], "takes no value; write --data.flip=true or --data.flip=false"),
        (["clips.csv"], "'clips.csv' came where an option was expected"),
        (["--seed", "1", "2"], "'2' came where an option was expected"),
    ],
)
def test_errors_on_the_line(tokens: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        line(*tokens)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[optim]\nbase_lr = 1e-3\nmin-lr = 0",
            "page.toml: unknown setting optim.min-lr; did you mean optim.min_lr?",
        ),
        ("[optm]\nbase_lr = 1e-3", "unknown setting optm"),
        ("[model.extra]\nx = 1", "unknown setting model.extra"),
        ("model = 'vit_b16'", "model is 'vit_b16', but it is a section; write [model]"),
        ("[model]\nsize = '224'", "model.size is '224', but it takes a whole number"),
        ("[model]\nsize = 224.0", "model.size is 224.0, but it takes a whole number"),
        ("[model]\nsize = true", "model.size is True, but it takes a whole number"),
        ("[data]\nflip = 1", "data.flip is 1, but it takes true or false"),
        ("[optim]\nbetas = [0.9, '0.95']", "but it takes 2 numbers"),
        ("[optim]\nbase_lr = '1e-4'", "optim.base_lr is '1e-4', but it takes a number"),
        ("[run]\ndevice = 'gpu'", "it takes one of auto, cpu, cuda"),
        ("[model]\nname = {a = 1}", "model.name is {'a': 1}, but it takes text"),
        ("a = 1\n[model\n", "page.toml is not valid TOML: "),
    ],
)
def test_errors_in_a_page(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "page.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_settings(PretrainSettings, tmp_path / "page.toml")
    assert message in str(caught.value)


def test_bad_toml_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "page.toml").write_text("[model]\nsize = 224\nname = vit\n")
    with pytest.raises(UserError, match="line 3"):
        load_settings(PretrainSettings, tmp_path / "page.toml")


def test_a_missing_or_unreadable_page_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.toml does not exist"):
        load_settings(PretrainSettings, tmp_path / "no.toml")
    with pytest.raises(UserError, match=r"is a folder without a config\.toml"):
        load_settings(PretrainSettings, tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        load_settings(PretrainSettings, tmp_path / "binary.toml")


def test_the_line_wins_over_the_page_and_the_page_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "page.toml").write_text(
        "init = 'w'\n[optim]\nbase_lr = 1\nmin_lr = 2\nlength = 500\nbetas = [0, 1]\n"
    )
    optim = load_settings(PretrainSettings, tmp_path / "page.toml", ["--optim.min_lr", "3"]).optim
    assert optim == OptimSettings(base_lr=1.0, min_lr=3.0, length=500, betas=(0.0, 1.0))
    assert isinstance(optim.base_lr, float)


def test_a_run_folder_serves_as_its_own_page(tmp_path: Path) -> None:
    settings = load_settings(FinetuneSettings, None, ["--num_classes", "7", "--data.no_flip"])
    (tmp_path / "config.toml").write_text(to_toml(settings))
    assert load_settings(FinetuneSettings, tmp_path) == settings


@pytest.mark.parametrize("cls", COMMANDS)
def test_toml_round_trip_of_the_defaults(cls: type) -> None:
    assert from_toml(cls, to_toml(cls())) == cls()


@given(
    base_lr=st.floats(allow_nan=False, allow_infinity=False),
    betas=st.tuples(*[st.floats(0, 1)] * 2),
    length=st.one_of(st.integers(0, 10**9), st.text(st.characters(codec="utf-8"), max_size=20)),
    patch=st.one_of(st.none(), st.integers(1, 64)),
    out=st.text(st.characters(codec="utf-8"), max_size=40),
)
def test_toml_round_trip_is_exact(
    base_lr: float, betas: tuple, length: str | int, patch: int | None, out: str
) -> None:
    default = PretrainSettings()
    settings = dataclasses.replace(
        default,
        init=out,
        model=dataclasses.replace(default.model, patch=patch),
        optim=dataclasses.replace(default.optim, base_lr=base_lr, betas=betas, length=length),
    )
    assert from_toml(PretrainSettings, to_toml(settings)) == settings


def test_flatten_and_differences_speak_in_dotted_keys() -> None:
    first, second = PretrainSettings(), load_settings(PretrainSettings, None, ["--seed", "1", "--data.flip"])
    assert flatten(first)["model.name"] == "vit_b16"
    assert "model" not in flatten(first)
    assert [str(each) for each in differences(first, second)] == [
        "data.flip: False and True",
        "run.seed: 0 and 1",
    ]
    assert differences(first, PretrainSettings()) == []
