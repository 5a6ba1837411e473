"""Presets: pages in the package, found by name, below a page and the line, and below the weights' network."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from videomae2.architecture import decoder_config, token_grid
from videomae2.config import flatten, from_toml, load_settings, preset_names, resolve, to_toml
from videomae2.engine.schedule import make_plan
from videomae2.errors import UserError
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
KINDS = [PretrainSettings, FinetuneSettings, EvaluateSettings]
ALL = [(kind, name) for kind in KINDS for name in ("tiny", "small", "paper")]


def labelled(kind: type[Any], name: str) -> str:
    return f"{kind.__name__.removesuffix('Settings').lower()}-{name}"


@pytest.mark.parametrize(("kind", "name"), ALL, ids=[labelled(*each) for each in ALL])
def test_every_command_has_three_presets_that_can_be_trained(kind: type[Any], name: str) -> None:
    settings: Any = load_settings(kind, preset=name)
    assert preset_names(kind) == ["tiny", "small", "paper"]
    assert load_settings(kind, None, ["--preset", name]) == settings
    if kind is not EvaluateSettings:
        token_grid(settings.model)
        decoder_config(settings.model)
        plan = make_plan(settings.optim, settings.run, num_rows=150, views=settings.data.repeated_views)
        assert 0 < plan.warmup_steps < plan.steps


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        (PretrainSettings, "pretrain/g_paper.toml"),
        (FinetuneSettings, "finetune/g_k710_paper.toml"),
        (EvaluateSettings, "evaluate/kinetics_5x3.toml"),
    ],
)
def test_the_papers_preset_is_the_papers_page(kind: type[Any], page: str) -> None:
    ours, theirs = (
        flatten(load_settings(kind, preset="paper")),
        flatten(load_settings(kind, EXPERIMENTS / page)),
    )
    theirs.pop("num_classes", None), ours.pop("num_classes", None)
    assert ours == theirs


def test_tiny_commands_share_a_network_and_a_laptop_bears_it() -> None:
    first: Any = load_settings(PretrainSettings, preset="tiny")
    second: Any = load_settings(FinetuneSettings, preset="tiny")
    for name in ("name", "size", "tubelet", "patch", "positions", "native_size", "depth"):
        assert getattr(first.model, name) == getattr(second.model, name)
    assert isinstance(first.optim.length, int) and isinstance(second.optim.length, int)


def test_defaults_yield_to_the_preset_to_the_page_to_the_line(tmp_path: Path) -> None:
    page = tmp_path / "page.toml"
    page.write_text("[optim]\nlength = 7\nbatch_size = 5\n")
    line = ["--preset=tiny", "--optim.batch_size", "3", "--out", "runs/x"]
    settings, sources = resolve(PretrainSettings, page, line)
    assert (settings.model.depth, settings.optim.length, settings.optim.batch_size) == (6, 7, 3)
    assert settings.optim.weight_decay == PretrainSettings().optim.weight_decay
    assert sources["model.depth"] == "preset tiny"
    assert sources["optim.length"] == str(page)
    assert sources["optim.batch_size"] == sources["run.out"] == "line"
    assert "optim.weight_decay" not in sources


def test_a_printed_page_says_where_a_value_came_from_and_reads_back(tmp_path: Path) -> None:
    page = tmp_path / "page.toml"
    page.write_text("[optim]\nbetas = [0.8, 0.9]\n")
    settings, sources = resolve(
        FinetuneSettings, page, ["--preset", "tiny", "--data.no_flip", "--mixup", "0.5"]
    )
    text = to_toml(settings, sources)
    assert from_toml(FinetuneSettings, text) == settings
    assert "\nflip = false  # line\n" in text and "\nmixup = 0.5  # line\n" in text
    assert f"\nbetas = [  # {page}\n" in text
    assert "\ndepth = 6  # preset tiny\n" in text
    assert "\nstride = 4\n" in text
    assert tomllib.loads(to_toml(settings)) == tomllib.loads(text)


def test_weights_bring_their_network_and_the_preset_keeps_the_rest() -> None:
    settings: Any = load_settings(FinetuneSettings, None, ["--preset", "tiny", "--init", "runs/x"])
    assert (settings.model.name, settings.model.size, settings.model.patch) == ("vit_b16", 224, None)
    assert (settings.optim.length, settings.mixup) == (
        load_settings(FinetuneSettings, preset="tiny").optim.length,
        0,
    )
    settings = load_settings(
        FinetuneSettings, None, ["--preset", "tiny", "--init", "x", "--model.depth", "3"]
    )
    assert settings.model.depth == 3


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--preset", "tyny"], r"unknown preset 'tyny' of pretrain; choose from tiny, small, paper"),
        (["--preset", "../finetune/tiny"], r"unknown preset '../finetune/tiny' of pretrain; choose from"),
        (["--preset"], r"--preset needs a name: one of tiny, small, paper"),
        (["--preset", "--out", "x"], r"--preset needs a name"),
        (["--preset="], r"--preset needs a name"),
    ],
)
def test_a_preset_that_is_not_there_lists_those_that_are(tokens: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_settings(PretrainSettings, None, tokens)


def test_a_runs_folder_sets_everything_itself(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(to_toml(PretrainSettings()))
    with pytest.raises(UserError, match=r"a page or a preset, got the run .*, which sets everything"):
        load_settings(PretrainSettings, tmp_path, ["--preset", "tiny"])


def test_pages_name_only_what_differs_from_the_defaults() -> None:
    for kind, name in ALL:
        if name == "paper":
            continue
        default = flatten(kind())
        settings, sources = resolve(kind, None, ["--preset", name])
        values = flatten(settings)
        assert sources and not [key for key in sources if values[key] == default[key]], name
