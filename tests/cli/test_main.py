"""The command line: help without heavy imports, pages and overrides, one-line errors and exit codes."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from videomae2.api import jobs
from videomae2.cli import main as cli
from videomae2.cli import runs as commands_train
from videomae2.config import from_toml, to_toml
from videomae2.errors import Stopped, UserError
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

SETTINGS = {"pretrain": PretrainSettings, "finetune": FinetuneSettings, "evaluate": EvaluateSettings}
COMMANDS = [*SETTINGS, "predict", "reconstruct", "cost", "sprites", "quickstart"]
GROUPS = {"weights": ["show", "convert"], "data": ["show", "check"]}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command line in this process: (exit code, stdout, stderr)."""

    def main(*tokens: str) -> tuple[int, str, str]:
        code = cli.main(tokens)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return main


def test_help_names_every_command(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for command in [*COMMANDS, *GROUPS]:
        assert command in out
    assert run() == (0, out, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"videomae2 {command}" in out


@pytest.mark.parametrize(
    ("group", "command"), [(group, command) for group, all_ in GROUPS.items() for command in all_]
)
def test_each_grouped_command_has_help(run: Run, group: str, command: str) -> None:
    code, out, _ = run(group, command, "--help")
    assert code == 0
    assert f"videomae2 {group} {command}" in out


@pytest.mark.parametrize("command", SETTINGS)
def test_help_of_a_training_command_lists_its_settings(run: Run, command: str) -> None:
    _, out, _ = run(command, "--help")
    assert "--data.sampling  [dense] (one of dense, segments)" in out
    assert "--print-config" in out
    assert ("--num_classes  [0]" in out) == (command == "finetune")
    assert ("--mask.encoder_ratio  [0.9]" in out) == (command == "pretrain")


@pytest.mark.parametrize(
    "tokens",
    [["--help"], ["pretrain", "--help"], ["predict", "--help"], ["finetune", "--print-config"], ["cost"]],
)
def test_help_and_print_config_import_nothing_heavy(tokens: list[str]) -> None:
    code = (
        "import sys; from videomae2.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'pyarrow', 'matplotlib', 'av', 'transformers'} & set(sys.modules);"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code, *tokens], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "0 []"


def test_version(run: Run) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("--version")[1])


@pytest.mark.parametrize("command", SETTINGS)
def test_print_config_prints_a_page_that_reads_back(run: Run, tmp_path: Path, command: str) -> None:
    code, out, _ = run(command, "--print-config", "--data.workers", "7", "--out", "runs/x")
    settings = from_toml(SETTINGS[command], out)
    assert code == 0
    assert settings.data.workers == 7
    assert (settings.out if command == "evaluate" else settings.run.out) == "runs/x"
    page = tmp_path / "page.toml"
    page.write_text(out)
    assert from_toml(SETTINGS[command], run(command, str(page), "--print-config")[1]) == settings


def test_print_config_says_what_follows_from_the_settings(run: Run) -> None:
    page = Path(__file__).parents[2] / "experiments" / "pretrain" / "g_paper.toml"
    _, out, _ = run("pretrain", str(page), "--print-config", "--optim.accumulate", "64")
    assert "# grid: 16x224x224 pixels in 2x14x14 cubes -> 8x16x16 = 2048 tokens\n" in out
    assert "# peak learning rate of one process: 0.0048 (base * 8192 / 256)\n" in out


def test_print_config_refuses_what_does_not_divide(run: Run) -> None:
    assert run("pretrain", "--print-config", "--model.size", "225") == (
        2,
        "",
        "error: height 225 is not a multiple of patch 16; try height 224 or 240\n",
    )


def test_page_and_overrides_reach_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    seen = []
    monkeypatch.setattr(jobs, "pretrain", seen.append)
    page = tmp_path / "page.toml"
    page.write_text("[optim]\nbase_lr = 1e-3\n")
    code, _, err = run(
        "pretrain",
        str(page),
        "--data.train",
        "clips.csv",
        "--optim.lr",
        "1e-4",
        "--out",
        "runs/x",
        "--seed",
        "-1",
    )
    assert (code, err) == (0, "report: runs/x/report.html\n")
    (settings,) = seen
    assert (settings.data.train, settings.optim.base_lr, settings.run.out, settings.run.seed) == (
        "clips.csv",
        1e-4,
        "runs/x",
        -1,
    )


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["pretain"], 'Unknown command "pretain". Did you mean "pretrain"?'),
        (["pretrain", "--optim.bse_lr", "3"], "unknown setting optim.bse_lr; did you mean optim.base_lr?"),
        (["pretrain", "nowhere.toml"], "the settings page nowhere.toml does not exist"),
        (["pretrain", "a.toml", "b.toml"], "a.toml does not exist"),
        (["predict", "clip.mp4"], "videomae2 predict needs --weights; videomae2 predict --help says more"),
        (["predict", "--weights", "w"], "predict needs at least one video file"),
        (["weights", "convert", "a", "b", "--layout", "theirs"], "theirs"),
        (["data", "show", "--bogus"], "Unknown option: --bogus"),
        (["sprites", "out", "--count", "many"], "many"),
        (["predict", "a.mp4", "--weights", "w", "--device", "gpu"], 'Choose from: "auto", "cpu", "cuda"'),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(run: Run, tokens: list[str], message: str) -> None:
    code, out, err = run(*tokens)
    assert (code, out) == (2, "")
    assert message in err
    assert re.fullmatch(r"error: [^\n]*\n", err)


def raising(error: BaseException) -> Callable[..., None]:
    def command(*tokens: commands_train.Tokens) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("two\n  lines"), 2, "error: two lines\n"),
        (KeyError("gone"), 1, "error: KeyError: 'gone'; rerun with --debug for the traceback\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_what_a_command_raises_becomes_one_line(
    monkeypatch: pytest.MonkeyPatch, run: Run, error: BaseException, code: int, text: str
) -> None:
    monkeypatch.setattr(cli.commands_files, "quickstart", raising(error))
    monkeypatch.setattr(cli.commands_files.quickstart, "__name__", "quickstart")
    assert run("quickstart") == (code, "", text)
    debugged = run("quickstart", "--debug")
    assert debugged[0] == code
    assert "Traceback" in debugged[2]
    assert debugged[2].endswith(text)


def test_a_run_that_was_asked_to_stop_is_no_error(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(cli.commands_files, "quickstart", raising(Stopped("stopped after step 3, saved", 15)))
    monkeypatch.setattr(cli.commands_files.quickstart, "__name__", "quickstart")
    assert run("quickstart") == (143, "", "stopped after step 3, saved\n")


def test_an_exit_asked_for_by_the_engine_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.commands_files, "quickstart", raising(SystemExit(143)))
    monkeypatch.setattr(cli.commands_files.quickstart, "__name__", "quickstart")
    with pytest.raises(SystemExit) as caught:
        cli.main(["quickstart"])
    assert caught.value.code == 143


def test_the_installed_command_exits_with_the_code() -> None:
    found = subprocess.run(
        [Path(sys.executable).with_name("videomae2"), "pretrain", "--zzz", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr


def test_a_reader_that_has_had_enough_is_no_error(tmp_path: Path) -> None:
    """`videomae2 ... | head -1` closes the pipe while we write."""
    (tmp_path / "list.csv").write_text("path\n" + "clip.mp4\n" * 20000)
    command = [
        sys.executable,
        "-m",
        "videomae2.cli.main",
        "data",
        "show",
        str(tmp_path / "list.csv"),
        "--rows",
        "20000",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


def test_sprites_writes_a_manifest(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    code, out, err = run("sprites", str(tmp_path / "s"), "--count", "2", "--size", "32", "--frames", "4")
    assert (code, err) == (0, "")
    assert Path(out.strip()).is_file()
    assert run("sprites", str(tmp_path / "s"), "--count", "2")[0] == 2


def test_a_written_page_has_no_surprises() -> None:
    assert to_toml(PretrainSettings()).startswith('init = ""\n\n[model]\nname = "vit_b16"\n')
