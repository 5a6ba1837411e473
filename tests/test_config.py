"""Settings: defaults <- page <- line; every error says which key, where, what was expected and what came."""

import dataclasses
import os
import typing
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomae2.bounds import Between, Lasting
from videomae2.config import (
    by_key,
    check,
    differences,
    flatten,
    from_toml,
    known_settings,
    load_settings,
    to_toml,
    with_absolute_paths,
)
from videomae2.errors import UserError
from videomae2.settings import (
    EvaluateSettings,
    FinetuneData,
    FinetuneSettings,
    OptimSettings,
    PretrainSettings,
)

KINDS: dict[str, Any] = {
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "evaluate": EvaluateSettings,
}
COMMANDS = list(KINDS.values())
EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def line(*tokens: str, cls: type = PretrainSettings) -> dict[str, Any]:
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
        (["--optim.betas", "0.8", "0", "--data.flip"], {"optim.betas": (0.8, 0.0), "data.flip": True}),
        (["--optim.betas", "0.8", "0.9", "--optim.betas", "0.9", "0.95"], {}),
        (["--seed", "-7"], {"run.seed": -7}),
        (["--out", "runs/a b", "--device", "cpu"], {"run.out": "runs/a b", "run.device": "cpu"}),
        (["--out", "2024"], {"run.out": "2024"}),
        (["--out", "-x"], {"run.out": "-x"}),
        (["--out=a=b"], {"run.out": "a=b"}),
        (["--out", "{}"], {"run.out": "{}"}),
        (["--data.train", "[1,2]"], {"data.train": "[1,2]"}),
        (["--data.train", "true"], {"data.train": "true"}),
        (["--data.train", "null"], {"data.train": "null"}),
        (["--optim.lr", "1e-4"], {"optim.base_lr": 1e-4}),
        (["--optim.base-lr", "1e-4"], {"optim.base_lr": 1e-4}),
        (["--data.flip", "true"], {"data.flip": True}),
        (["--data.flip=true"], {"data.flip": True}),
        (["--data.flip", "true", "--data.flip", "false"], {}),
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
def test_values_from_the_line(tokens: list[str], expected: dict[str, Any]) -> None:
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
        (
            ["--optim.bse_lr", "3"],
            "unknown setting optim.bse_lr on the command line; did you mean optim.base_lr?",
        ),
        (
            ["--optim.bse_lr=3"],
            "unknown setting optim.bse_lr on the command line; did you mean optim.base_lr?",
        ),
        (["--optim.bse_lr"], "unknown setting optim.bse_lr on the command line; did you mean optim.base_lr?"),
        (["--dat.stride", "3"], "did you mean data.stride?"),
        (["--warmup", "3"], "did you mean optim.warmup?"),
        (["--lr", "3"], "did you mean optim.base_lr?"),
        (
            ["--zzz", "3"],
            "unknown setting zzz on the command line; the sections are data, mask, model, optim, run",
        ),
        (["--"], "unknown setting -- on the command line"),
        (["--empty-optim.betas"], "unknown setting empty_optim.betas on the command line"),
        (["--help"], "unknown setting help on the command line"),
        (["--version"], "unknown setting version on the command line"),
        (
            ["--model", "vit_b16"],
            "model on the command line is a section; set one of its keys, such as model.name",
        ),
        (["--model"], "model on the command line is a section; set one of its keys, such as model.name"),
        (["--data={'stride': 3}"], "data on the command line is a section"),
        (
            ["--optim.base_lr", "fast"],
            "optim.base_lr on the command line: expected a number from 0 to 1000, got 'fast'; try 0.001",
        ),
        (["--optim.base_lr", "nan"], "expected a number from 0 to 1000, got 'nan'"),
        (["--optim.base_lr", "-inf"], "expected a number from 0 to 1000, got '-inf'"),
        (["--optim.base_lr", "-1"], "expected a number from 0 to 1000, got -1"),
        (["--optim.base_lr", "9" * 400], "expected a number from 0 to 1000, got 99999"),
        (["--optim.base_lr", "9" * 5000], "99... (5002 characters); try 0.001, the default"),
        (["--optim.base_lr"], "--optim.base_lr needs a value: expected a number from 0 to 1000"),
        (["--optim.base_lr", "--seed", "3"], "--optim.base_lr needs a value"),
        (["--optim.base_lr="], "expected a number from 0 to 1000, got ''"),
        (["--model.size", "8.5"], "expected a whole number from 1 to 16384, got 8.5; try 224, the default"),
        (
            ["--model.patch", "x"],
            "expected a whole number from 1 to 1024 or none, got 'x'; try none, the default",
        ),
        (["--model.depth", "100000000"], "expected a whole number from 1 to 1000 or none, got 100000000"),
        (
            ["--optim.batch_size", "2000000000"],
            "expected a whole number from 1 to 65536, got 2000000000; try 32",
        ),
        (["--data.flip", "maybe"], "data.flip on the command line: expected true or false, got 'maybe'"),
        (["--data.flip=maybe"], "data.flip on the command line: expected true or false, got 'maybe'"),
        (
            ["--data.sampling", "sparse"],
            "expected one of dense, segments, key, got 'sparse'; try dense, the default",
        ),
        (
            ["--device", "gpu"],
            "run.device on the command line: expected one of auto, cpu, cuda, got 'gpu'; did you mean cuda?",
        ),
        (
            ["--optim.betas", "0.9"],
            "expected 2 numbers from 0 to below 1, got [0.9]; try 0.9 0.95, the default",
        ),
        (
            ["--optim.betas", "0.9", "0.95", "0.99"],
            "expected 2 numbers from 0 to below 1, got [0.9, 0.95, 0.99]",
        ),
        (["--optim.betas", "0.9", "1"], "expected 2 numbers from 0 to below 1, got [0.9, 1]"),
        (["--optim.length", "1.5"], "optim.length on the command line: expected a duration such as 12000"),
        (["--optim.length", "2 parsecs"], "got '2 parsecs'; try 200ep, the default"),
        (["--data.no_flip=true"], "takes no value; write --data.flip=true or --data.flip=false"),
        (["clips.csv"], "expected an option such as --model.name VALUE, got 'clips.csv' on the command line"),
        (["-x"], "expected an option such as --model.name VALUE, got '-x' on the command line"),
        (["--seed", "1", "2"], "got ['1', '2']; give one value"),
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
            "unknown setting optim.min-lr in page.toml; did you mean optim.min_lr?",
        ),
        ("[optm]\nbase_lr = 1e-3", "unknown setting optm in page.toml"),
        ("[model.extra]\nx = 1", "unknown setting model.extra in page.toml"),
        ("epochs = 30", "unknown setting epochs in page.toml; did you mean optim.length?"),
        ('"two\\nlines" = 1', "unknown setting two\\nlines in page.toml"),
        ("model = 'vit_b16'", "model in page.toml: expected a section, got 'vit_b16'; write [model]"),
        ("model = [[1]]", "model in page.toml: expected a section, got [[1]]"),
        (
            "[model]\nsize = '224'",
            "in page.toml: expected a whole number from 1 to 16384, got '224'; write it without quotes",
        ),
        ("[model]\nsize = 224.0", "expected a whole number from 1 to 16384, got 224.0; try 224, the default"),
        ("[model]\nsize = true", "expected a whole number from 1 to 16384, got True"),
        ("[model]\nsize = " + "9" * 400, "expected a whole number from 1 to 16384, got 999"),
        (
            "[model]\nsize = 0x" + "f" * 9000,
            "expected a whole number from 1 to 16384, got something too large to show (int)",
        ),
        (
            "[model]\nsize = 1979-05-27",
            "expected a whole number from 1 to 16384, got datetime.date(1979, 5, 27)",
        ),
        ("[data]\nflip = 1", "data.flip in page.toml: expected true or false, got 1"),
        ("[data]\ntrain = 3", "data.train in page.toml: expected text, got 3; write it in quotes"),
        ("[optim]\nbetas = [0.9, '0.95']", "expected 2 numbers from 0 to below 1, got [0.9, '0.95']"),
        (
            "[optim]\nbase_lr = '1e-4'",
            "expected a number from 0 to 1000, got '1e-4'; write it without quotes",
        ),
        ("[optim]\nbase_lr = nan", "expected a number from 0 to 1000, got nan"),
        ("[optim]\nbase_lr = -inf", "expected a number from 0 to 1000, got -inf"),
        ("[optim]\nbase_lr = " + "9" * 400, "expected a number from 0 to 1000, got 999"),
        ("[optim]\nbatch_size = 2_000_000_000", "expected a whole number from 1 to 65536, got 2000000000"),
        ("[optim]\nlength = 1.5", "got 1.5"),
        ("[run]\ndevice = 'gpu'", "expected one of auto, cpu, cuda, got 'gpu'; did you mean cuda?"),
        ("[model]\nname = {a = 1}", "model.name in page.toml: expected text, got {'a': 1}"),
        ("[model]\n" + "name" + ".a" * 3000 + " = 1", "model.name in page.toml: expected text, got"),
        (
            "a = " + "[" * 20_000 + "]" * 20_000,
            "page.toml is nested too deep; settings are [section] and key = value",
        ),
        ("a = " + "9" * 6000, "page.toml is not a page of settings: "),
        ("a = 1\n[model\n", "page.toml is not valid TOML: "),
    ],
    ids=lambda text: text[:40],
)
def test_errors_in_a_page(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "page.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_settings(PretrainSettings, tmp_path / "page.toml")
    error = str(caught.value).replace(f"{tmp_path}/", "")
    assert message in error
    assert "\n" not in error
    assert len(error) < 500


def test_bad_toml_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "page.toml").write_text("[model]\nsize = 224\nname = vit\n")
    with pytest.raises(UserError, match="line 3"):
        load_settings(PretrainSettings, tmp_path / "page.toml")


def test_a_missing_or_unreadable_page_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.toml does not exist"):
        load_settings(PretrainSettings, tmp_path / "no.toml")
    with pytest.raises(UserError, match=r"is a folder without a config\.toml"):
        load_settings(PretrainSettings, tmp_path)
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        load_settings(PretrainSettings, "x" * 5000)
    with pytest.raises(UserError, match="embedded null byte"):
        load_settings(PretrainSettings, "a\0b")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        load_settings(PretrainSettings, tmp_path / "binary.toml")


def test_what_is_no_page_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    (tmp_path / "long.toml").write_text("# " + "a" * 2**20)
    for name, message in (
        ("pipe", "is no file"),
        ("zero", "is no file"),
        ("long", "at most 1,048,576 bytes"),
    ):
        with pytest.raises(UserError, match=message):
            load_settings(PretrainSettings, tmp_path / f"{name}.toml")


@pytest.mark.parametrize("name", ["caf\udce9", "a\0b"])
def test_names_that_no_page_can_hold_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"data.train .*: expected text, got .* rename it, or give a link"):
        load_settings(PretrainSettings, None, ["--data.train", name])


def test_the_line_wins_over_the_page_and_the_page_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "page.toml").write_text(
        "init = 'w'\n[optim]\nbase_lr = 1\nmin_lr = 2\nlength = 500\nbetas = [0, 0.5]\n"
    )
    optim = load_settings(PretrainSettings, tmp_path / "page.toml", ["--optim.min_lr", "3"]).optim
    assert optim == OptimSettings(base_lr=1.0, min_lr=3.0, length=500, betas=(0.0, 0.5))
    assert isinstance(optim.base_lr, float)


def test_a_run_folder_serves_as_its_own_page(tmp_path: Path) -> None:
    settings = load_settings(FinetuneSettings, None, ["--num_classes", "7", "--data.no_flip"])
    (tmp_path / "config.toml").write_text(to_toml(settings))
    there = load_settings(FinetuneSettings, tmp_path)
    assert there == dataclasses.replace(
        settings, run=dataclasses.replace(settings.run, out=str(tmp_path))
    )  # also where it was moved
    elsewhere = load_settings(FinetuneSettings, tmp_path, ["--out", "runs/copy"])
    assert elsewhere.run.out == "runs/copy"


def test_paths_that_are_there_become_absolute_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    given = [
        "--data.train",
        "clips",
        "--data.val",
        "s3://bucket/val.csv",
        "--init",
        "org/name",
        "--out",
        "runs/x",
    ]
    settings = with_absolute_paths(load_settings(FinetuneSettings, None, given))
    assert settings.data.train == str(tmp_path / "clips") and settings.run.out == str(tmp_path / "runs/x")
    assert (settings.data.val, settings.init, settings.data.root) == ("s3://bucket/val.csv", "org/name", "")


@pytest.mark.parametrize("cls", COMMANDS)
def test_toml_round_trip_of_the_defaults(cls: type) -> None:
    assert from_toml(cls, to_toml(cls())) == cls()


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values that a setting of this type takes."""
    base, *bounds = typing.get_args(kind) if hasattr(kind, "__metadata__") else (kind,)
    (bound,) = bounds or (None,)
    if typing.get_origin(base) is typing.Literal:
        return st.sampled_from(typing.get_args(base))
    if isinstance(bound, Lasting):
        return st.integers(0, 10**9) | st.integers(0, 999).map("{}ep".format) | st.just("12.5%")
    if isinstance(bound, Between) and (base is float or typing.get_origin(base) is tuple):
        number = st.floats(bound.low, bound.high, exclude_max=bound.below)
        return number if base is float else st.tuples(*(number for _ in typing.get_args(base)))
    if isinstance(bound, Between):
        numbers = st.integers(int(bound.low), int(bound.high))
        return numbers if base is int else numbers | st.none()
    return st.booleans() if base is bool else st.text(st.characters(codec="utf-8"), max_size=40)


@st.composite
def settings_of(draw: st.DrawFn, cls: type) -> Any:
    """Settings of a command with any allowed value in every place."""
    changes = {key: draw(values_of(setting.kind)) for key, setting in known_settings(cls).items()}

    def filled(section: Any, prefix: str = "") -> Any:
        return dataclasses.replace(
            section,
            **{
                field.name: filled(getattr(section, field.name), f"{field.name}.")
                if f"{prefix}{field.name}" not in changes
                else changes[f"{prefix}{field.name}"]
                for field in dataclasses.fields(section)
            },
        )

    return filled(cls())


@pytest.mark.parametrize("cls", COMMANDS)
@given(data=st.data())
@hypothesis.settings(max_examples=30, deadline=None)
def test_whatever_is_allowed_survives_toml_and_the_check(data: st.DataObject, cls: type) -> None:
    settings = data.draw(settings_of(cls))
    check(settings)
    back: object = from_toml(cls, to_toml(settings))
    assert back == settings
    assert [type(value) for value in flatten(back).values()] == [
        type(value) for value in flatten(settings).values()
    ]


@given(data=st.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_whatever_is_allowed_can_be_typed_on_the_line(data: st.DataObject) -> None:
    key, setting = data.draw(st.sampled_from(sorted(known_settings(FinetuneSettings).items())))
    value = data.draw(values_of(setting.kind))
    words = list(map(repr, value)) if isinstance(value, tuple) else [str(value)]
    if words[0].startswith("--"):  # the one text that must be joined to its option
        words = []
    settings = load_settings(FinetuneSettings, None, [f"--{key}", *words] if words else [f"--{key}={value}"])
    assert flatten(settings)[key] == value
    assert {each.key for each in differences(FinetuneSettings(), settings)} <= {key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"label_smoothing": 2.0},
            "label_smoothing: expected a number from 0 to below 1, got 2.0; try 0.1, the default",
        ),
        ({"mixup": float("nan")}, "mixup: expected a number from 0 to 1000, got nan"),
        ({"num_classes": 10**400}, "num_classes: expected a whole number from 0 to 1000000, got 1000"),
        ({"data": FinetuneData(stride=0)}, "data.stride: expected a whole number from 1 to 10000, got 0"),
        ({"data": FinetuneData(max_broken=5.0)}, "data.max_broken: expected a number from 0 to 1, got 5.0"),
    ],
)
def test_settings_made_in_python_are_checked_by_hand(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(dataclasses.replace(FinetuneSettings(), **change))
    assert message in str(caught.value)


def test_a_type_that_was_not_asked_for_is_refused_too() -> None:
    """`object.__setattr__` stands for a program without type checks, which a run of the tests has."""
    settings = EvaluateSettings()
    object.__setattr__(settings, "batch_size", "many")
    with pytest.raises(UserError, match="batch_size: expected a whole number from 1 to 65536, got 'many'"):
        check(settings)


@pytest.mark.parametrize("page", sorted(EXPERIMENTS.glob("*/*.toml")), ids=lambda page: page.stem)
def test_every_page_of_ours_keeps_the_bounds(page: Path) -> None:
    if page.parent.name in KINDS:
        check(load_settings(KINDS[page.parent.name], page))


def test_flatten_and_differences_speak_in_dotted_keys() -> None:
    first, second = PretrainSettings(), load_settings(PretrainSettings, None, ["--seed", "1", "--data.flip"])
    assert flatten(first)["model.name"] == "vit_b16"
    assert "model" not in flatten(first)
    assert [str(each) for each in differences(first, second)] == [
        "data.flip: False and True",
        "run.seed: 0 and 1",
    ]
    assert differences(first, PretrainSettings()) == []


def test_keywords_are_settings_without_their_section() -> None:
    known = known_settings(FinetuneSettings)
    keywords = {
        "train": Path("clips"),
        "out": "runs/x",
        "base_lr": 1,
        "betas": [0.8, 0.9],
        "model": {"name": "vit_s16", "depth": 3},
        "batch_size": 4,
        "mixup": 0.5,
        "init": "w.pth",
        "clips": 2,
    }
    assert by_key(known, keywords) == {
        "data.train": "clips",
        "run.out": "runs/x",
        "optim.base_lr": 1.0,
        "optim.betas": (0.8, 0.9),
        "model.name": "vit_s16",
        "model.depth": 3,
        "optim.batch_size": 4,
        "mixup": 0.5,
        "init": "w.pth",
        "data.test_clips": 2,
    }
    assert by_key(known, {"model": "vit_s16"}) == {"model.name": "vit_s16"}
    assert by_key(known_settings(EvaluateSettings), {"batch_size": 2, "out": "x"}) == {
        "batch_size": 2,
        "out": "x",
    }


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"epochs": 3}, "unknown setting epochs in the call; did you mean length (of optim)?"),
        ({"base_ler": 3}, "unknown setting base_ler in the call; did you mean base_lr (of optim)?"),
        ({"nb_classes": 3}, "unknown setting nb_classes in the call; did you mean num_classes?"),
        ({"qqqqqqq": 3}, "unknown setting qqqqqqq in the call; the sections are"),
        (
            {"optim": {"lr": 3, "bets": 1}},
            "unknown setting optim.bets in the call; did you mean betas (of optim)?",
        ),
        ({"stride": 0}, "data.stride: expected a whole number from 1 to 10000, got 0"),
        ({"model": 3}, "model is a section; give a dict of its settings, got 3"),
        ({"train": ["a.mp4"]}, "data.train: expected text, got ['a.mp4']"),
    ],
)
def test_a_mistaken_keyword_gets_the_nearest_name(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        by_key(known_settings(FinetuneSettings), keywords)
    assert message in str(caught.value)


def test_the_run_of_a_named_checkpoint_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    settings = load_settings(FinetuneSettings, None, ["--init", "run@best"])
    assert with_absolute_paths(settings).init == f"{tmp_path}/run@best"
    settings = load_settings(FinetuneSettings, None, ["--init", "gone@best"])
    assert with_absolute_paths(settings).init == "gone@best"
