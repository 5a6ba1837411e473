"""The commands that take settings: what they list, print and hand over."""

import dataclasses
import re
from pathlib import Path

import pytest

from videomae2.api import jobs
from videomae2.cli import runs
from videomae2.config import flatten, from_toml, to_toml
from videomae2.recipes.tasks import TASKS
from videomae2.settings import FinetuneSettings, PretrainSettings

from .conftest import Run

COMMANDS = runs.commands()
PAGE = Path(__file__).parents[2] / "experiments" / "pretrain" / "g_paper.toml"


def squeezed(text: str) -> str:
    """Help without the frames and line breaks that a terminal's width puts in."""
    return " ".join(text.replace("│", " ").split())


@pytest.fixture(autouse=True)
def of_100_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_setting_with_its_default_and_its_meaning(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: videomae2 {command} [PAGE.toml | RUN] [--preset NAME] [--SECTION.KEY VALUE ...]" in out
    assert max(map(len, out.splitlines())) <= 100
    text = squeezed(out)
    settings = flatten(COMMANDS[command].settings())
    for key in settings:
        assert f" --{key} " in text, key
    assert text.count("[default:") == len(settings)
    if command in ("pretrain", "finetune", "evaluate"):  # others take clips in their own way, or none
        assert (
            "--data.stride INT Frames between sampled frames, where a row does not say. [default: 4]" in text
        )
        assert "about its middle. [choices: dense, segments, key] [default: dense]" in text
    assert "--print-config Print the resolved settings" in text
    assert "--empty" not in text
    assert "--no" not in text


def test_a_row_in_the_table_of_tasks_is_a_command(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    row = dataclasses.replace(TASKS["finetune"], summary="Tell clips from reversed ones.")
    monkeypatch.setitem(TASKS, "reversed", row)
    seen: list[FinetuneSettings] = []
    monkeypatch.setattr(jobs, "train", seen.append)
    assert "Tell clips from reversed ones." in run("--help")[1]
    assert "--num_classes INT" in run("reversed", "--help")[1]
    assert run("reversed", "--num_classes", "2")[0] == 0
    assert [settings.num_classes for settings in seen] == [2]


def test_help_shows_the_commands_own_defaults(run: Run) -> None:
    pretrain, finetune = (squeezed(run(command, "--help")[1]) for command in ("pretrain", "finetune"))
    assert "(repeated augmentation). [default: 4]" in pretrain
    assert "(repeated augmentation). [default: 2]" in finetune
    assert "--optim.betas FLOAT FLOAT" in finetune
    assert "[default: 0.9 0.999]" in finetune
    assert "[default: 0.001]" in pretrain
    assert "Short: --out is --run.out" in pretrain


def test_sections_come_in_the_order_of_declaration(run: Run) -> None:
    _, out, _ = run("pretrain", "--help")
    titles = [line.split()[1] for line in out.splitlines() if line.startswith("╭─")]
    assert titles == ["Arguments", "Parameters", "model", "data", "mask", "target", "optim", "run"]


@pytest.mark.parametrize("command", COMMANDS)
def test_print_config_prints_a_page_that_reads_back(run: Run, tmp_path: Path, command: str) -> None:
    key = next(key for key in ("data.workers", "run.seed") if key in flatten(COMMANDS[command].settings()))
    code, out, _ = run(command, "--print-config", f"--{key}", "7", "--out", "runs/x")
    settings: object = from_toml(COMMANDS[command].settings, out)
    values = flatten(settings)
    assert code == 0
    assert values[key] == 7
    assert values.get("run.out", values.get("out")) == "runs/x"
    page = tmp_path / "page.toml"
    page.write_text(out)
    for tokens in ([str(page), "--print-config"], ["--print_config", str(page)]):
        assert from_toml(type(settings), run(command, *tokens)[1]) == settings


def test_print_config_says_what_follows_from_the_settings(run: Run) -> None:
    _, out, _ = run("pretrain", str(PAGE), "--print-config", "--optim.accumulate", "64")
    assert "# grid: 16x224x224 pixels in 2x14x14 cubes -> 8x16x16 = 2048 tokens\n" in out
    assert "# peak learning rate of one process: 0.0048 (base * 8192 / 256)\n" in out
    assert "# views of a video: 5 clips x 3 crops\n" in run("evaluate", "--print-config")[1]


def test_print_config_refuses_what_does_not_divide(run: Run) -> None:
    assert run("pretrain", "--print-config", "--model.size", "225") == (
        2,
        "",
        "error: height 225 is not a multiple of patch 16; try height 224 or 240\n",
    )


def test_page_and_options_reach_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    seen: list[PretrainSettings] = []

    def train(settings: PretrainSettings) -> Path:
        seen.append(settings)
        out = Path(settings.run.out)
        out.mkdir()
        (out / "report.html").touch()
        return out

    monkeypatch.setattr(jobs, "train", train)
    page = tmp_path / "page.toml"
    page.write_text("[optim]\nbase_lr = 1e-3\n")
    out = str(tmp_path / "x")
    options = ["--data.train", "clips.csv", "--optim.lr", "1e-4", "--out", out, "--seed", "-1"]
    code, _, err = run("pretrain", str(page), *options)
    assert (code, err) == (0, f"report: {out}/report.html\n")
    (settings,) = seen
    assert (settings.data.train, settings.optim.base_lr, settings.run.out, settings.run.seed) == (
        "clips.csv",
        1e-4,
        out,
        -1,
    )


def test_a_written_page_has_no_surprises() -> None:
    assert to_toml(PretrainSettings()).startswith('init = ""\n\n[model]\nname = "vit_b16"\n')


@pytest.mark.parametrize(
    ("command", "word", "message"),
    [
        ("evaluate", "RUN", "RUN, a run of finetune; for its weights, use videomae2 evaluate --weights RUN"),
        ("pretrain", "RUN", "RUN, a run of finetune; for its weights, use videomae2 pretrain --init RUN"),
        ("finetune", "w.pth", "got the weights w.pth; use videomae2 finetune --init w.pth"),
        ("evaluate", "RUN@best", "got the weights RUN@best; use videomae2 evaluate --weights RUN@best"),
        ("pretrain", "clips", "for the videos in it, use videomae2 pretrain --data.train clips"),
        (
            "finetune",
            "org/name",
            "does not exist; give a .toml file or a run's folder, or for the weights of that",
        ),
        ("evaluate", "list.csv", "use videomae2 evaluate --data.val list.csv"),
    ],
)
def test_a_first_word_that_is_no_page_leads_to_its_option(  # noqa: PLR0917
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, command: str, word: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "config.toml").write_text(f"# run of FinetuneSettings\n{to_toml(FinetuneSettings())}")
    code, out, err = run(command, word, "--out", "x")
    assert (code, out) == (2, "")
    assert message in err
    assert run("finetune", "RUN", "--print-config")[0] == 0


def test_short_names_are_those_of_all_commands(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    seen: list[FinetuneSettings] = []
    monkeypatch.setattr(jobs, "train", seen.append)
    words = ["--train", "a", "--val", "b", "--workers", "3", "--batch-size", "4", "--precision", "fp32"]
    words += ["--clips", "2", "--crops", "1"]
    assert run("finetune", *words)[0] == 0
    (found,) = seen
    data = (
        found.data.train,
        found.data.val,
        found.data.workers,
        found.data.test_clips,
        found.data.test_crops,
    )
    assert data == ("a", "b", 3, 2, 1)
    assert (found.optim.batch_size, found.run.precision) == (4, "fp32")


def test_a_preset_is_named_in_help_and_in_what_is_printed(run: Run) -> None:
    _, out, _ = run("finetune", "--preset", "tiny", "--print-config", "--init", "runs/x")
    assert re.search(r"\nlength = \d+  # preset tiny\n", out)
    assert "# where the network of runs/x differs from a default below, it is the network's" in out
    assert "here: tiny, small, paper." in squeezed(run("finetune", "--help")[1])
