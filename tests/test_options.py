"""Options of a line over the values of a page: which wins, how a setting is told, how values are written."""

import dataclasses
from typing import Any

import pytest
from cyclopts import App

from videomae2.config import flatten, known_settings
from videomae2.errors import UserError
from videomae2.options import Setting, parameter, read_options, spelled
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

KNOWN = known_settings(PretrainSettings)


def read(page: dict[str, Any], *tokens: str) -> dict[str, Any]:
    """What a page and a line change."""
    found, defaults = (
        flatten(settings)
        for settings in (read_options(PretrainSettings, KNOWN, page, tokens), PretrainSettings())
    )
    return {key: value for key, value in found.items() if value != defaults[key]}


@pytest.mark.parametrize("page", [{}, {"data.stride": 2}, {"optim.betas": (0.5, 0.6), "init": "w"}])
def test_a_page_alone_changes_its_own_keys(page: dict[str, Any]) -> None:
    assert read(page) == page


def test_the_line_wins_even_with_the_default() -> None:
    page = {"data.stride": 2, "optim.betas": (0.5, 0.6), "data.flip": True, "run.out": "page"}
    assert read(page, "--data.stride", "4", "--optim.betas", "0.9", "0.95", "--data.no_flip", "--out=") == {}
    assert read(page, "--data.stride", "3") == page | {"data.stride": 3}


def test_a_page_with_a_false_an_empty_and_a_zero_value_is_heard() -> None:
    page = {"run.tensorboard": False, "optim.weight_decay": 0.0, "data.workers": 0, "data.frame_pattern": ""}
    assert read(page) == page


def test_what_the_environment_says_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_STRIDE", "9")
    monkeypatch.setattr("sys.argv", ["prog", "--data.stride", "9"])
    assert read({}) == {}


@pytest.mark.parametrize(
    ("value", "where", "message"),
    [
        (0, "", "data.stride: expected a whole number from 1 to 10000, got 0; try 4, the default"),
        (
            "2",
            "in a page",
            "data.stride in a page: expected a whole number from 1 to 10000, got '2'; write it without",
        ),
        ([1, 2], "", "got [1, 2]; give one value"),
    ],
)
def test_a_setting_refuses_in_one_sentence(value: object, where: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        KNOWN["data.stride"].take(value, where)
    assert message in str(caught.value)


def test_a_setting_without_default_points_to_help() -> None:
    with pytest.raises(UserError, match="expected a whole number, got 'many'; --help says more"):
        Setting("count", int, dataclasses.MISSING).take("many")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((0.9, 0.999), "0.9 0.999"),
        (1e-8, "1e-08"),
        (0.0, "0"),
        (True, "true"),
        (False, "false"),
        (None, "none"),
        ("", '""'),
        ("30ep", "30ep"),
        (12000, "12000"),
    ],
)
def test_values_are_written_as_one_types_them(value: object, text: str) -> None:
    assert spelled(value) == text


@pytest.mark.parametrize("cls", [PretrainSettings, FinetuneSettings, EvaluateSettings])
def test_cyclopts_knows_every_setting_by_its_dotted_key_and_no_other(cls: type) -> None:
    known = known_settings(cls)

    def command(*, settings: parameter(cls, known) = cls()) -> None: ...  # type: ignore[valid-type]  # noqa: B008

    app = App(default_command=command, help_flags=(), version_flags=())
    names = [name for each in app.assemble_argument_collection() if not each.children for name in each.names]
    assert sorted(names) == sorted(f"--{key}" for key in known)
