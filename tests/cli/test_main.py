"""The command line: help without heavy imports, one-line errors and exit codes."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from videomae2.cli import main as cli
from videomae2.cli import tools
from videomae2.errors import Stopped, UserError

from .conftest import Run

SETTINGS = ["pretrain", "finetune", "evaluate"]
COMMANDS = [*SETTINGS, "predict", "reconstruct", "cost", "sprites", "quickstart"]
GROUPS = {"weights": ["show", "convert"], "data": ["show", "check"]}


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


@pytest.mark.parametrize(
    "tokens",
    [
        ["--help"],
        ["help", "pretrain"],
        ["predict", "--help"],
        ["finetune", "--print-config"],
        ["cost"],
        ["--version"],
    ],
)
def test_help_and_print_config_import_nothing_heavy(tokens: list[str]) -> None:
    code = (
        "import sys; from videomae2.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'pyarrow', 'matplotlib', 'av', 'transformers'} & set(sys.modules);"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code, *tokens], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "0 []"


def test_help_is_a_word_too(run: Run) -> None:
    for words in ([], ["finetune"], ["weights", "show"]):
        assert run("help", *words) == run(*words, "--help")
    assert run("help", "pretain")[0] == 2


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(run: Run, flag: str) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run(flag)[1])


def test_the_package_is_a_program() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "videomae2", "pretrain", "--epochs", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert found.stderr == "error: unknown setting epochs on the command line; did you mean optim.length?\n"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["pretain"], 'Unknown command "pretain". Did you mean "pretrain"?'),
        (["pretrain", "--optim.bse_lr", "3"], "did you mean optim.base_lr?"),
        (
            ["pretrain", "page.toml", "--print-config", "--lr", "3"],
            "the settings page page.toml does not exist",
        ),
        (
            ["pretrain", "--print-config=yes"],
            "unknown setting print_config on the command line; the sections are",
        ),
        (["evaluate", "--gpu", "0"], "unknown setting gpu on the command line; did you mean device?"),
        (["finetune", "--optim.batch_size", "2000000000"], "expected a whole number from 1 to 65536"),
        (["pretrain", "nowhere.toml"], "the settings page nowhere.toml does not exist"),
        (["pretrain", "a.toml", "b.toml"], "a.toml does not exist"),
        (["pretrain", "--seed", "3", "b.toml"], "expected a whole number from -9223372036854775808"),
        (["predict", "clip.mp4"], "videomae2 predict needs --weights; videomae2 predict --help says more"),
        (["predict", "--weights", "w"], "predict needs at least one video file"),
        (["cost", "--data", "clips", "--videos", "3"], "expected --data or --videos, got both"),
        (["cost", "--data", "nowhere"], "no manifest at nowhere"),
        (
            ["weights", "convert", "a", "b", "--layout", "theirs"],
            "expected one of released, transformers, ours, got 'theirs'; --help says more",
        ),
        (["data", "show", "--bogus"], "unknown option --bogus; --help lists them all"),
        (
            ["predict", "a.mp4", "--gpu", "0", "--weights", "w"],
            "unknown option --gpu; did you mean --device?",
        ),
        (["predict", "a.mp4", "--chekpoint=w"], "unknown option --chekpoint; "),
        (
            ["sprites", "out", "--count", "many"],
            "--count on the command line: expected a whole number from 1 to 10000000, got 'many'; try 400",
        ),
        (["sprites", "out", "--count", "1.5"], "got 1.5"),
        (["sprites", "out", "--size", "9999999999"], "from 16 to 4096, got 9999999999"),
        (
            ["predict", "a.mp4", "--weights", "w", "--top", "0"],
            "from 1 to 1000000, got 0; try 5, the default",
        ),
        (
            ["reconstruct", "a.mp4", "--weights", "w", "-o", "r.mp4", "--mask-ratio", "1"],
            "from 0 to below 1 or none, got 1",
        ),
        (
            ["cost", "--batch", "many"],
            "--batch on the command line: expected a whole number or none, got 'many'",
        ),
        (["x" * 5000], f'Unknown command "{"x" * 199}...'),
        (["pretrain", "x" * 5000], "cannot be read: File name too long"),
        (
            ["predict", "a.mp4", "--weights", "w", "--device", "gpu"],
            "expected one of auto, cpu, cuda, got 'gpu'; did you mean cuda?",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(run: Run, tokens: list[str], message: str) -> None:
    code, out, err = run(*tokens)
    assert (code, out) == (2, "")
    assert message in err
    assert re.fullmatch(r"error: [^\n]*\n", err)


def raising(error: BaseException) -> Callable[..., None]:
    def command() -> None:
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
    monkeypatch.setattr(tools, "quickstart", raising(error))
    monkeypatch.setattr(tools.quickstart, "__name__", "quickstart")
    assert run("quickstart") == (code, "", text)
    debugged = run("quickstart", "--debug")
    assert debugged[0] == code
    assert "Traceback" in debugged[2]
    assert debugged[2].endswith(text)


def test_a_run_that_was_asked_to_stop_is_no_error(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(tools, "quickstart", raising(Stopped("stopped after step 3, saved", 15)))
    monkeypatch.setattr(tools.quickstart, "__name__", "quickstart")
    assert run("quickstart") == (143, "", "stopped after step 3, saved\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "this needs more memory than there is"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
            "memory",
        ),
        (OSError(36, "File name too long", "n" * 300), "nnn: File name too long"),
        (PermissionError(13, "Permission denied", "a.mp4"), "refused the use of a.mp4: Permission denied"),
    ],
)
def test_what_the_machine_refuses_is_one_line_that_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setattr(tools, "quickstart", raising(error))
    monkeypatch.setattr(tools.quickstart, "__name__", "quickstart")
    code, _, said = run("quickstart")
    assert code == 2 and message in said and said.count("\n") == 1 and len(said) < 400


def test_a_warning_is_a_sentence_without_the_line_of_its_source(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn() -> None:
        warnings.warn("the first\nof two lines", stacklevel=1)

    monkeypatch.setattr(tools, "quickstart", warn)
    monkeypatch.setattr(tools.quickstart, "__name__", "quickstart")
    assert run("quickstart") == (0, "", "warning: the first of two lines\n")


def test_names_that_no_terminal_shows_are_escaped() -> None:
    code = "from videomae2.cli.main import main; main(['help']); print('caf\\udce9 \u2588')"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert found.returncode == 0 and found.stdout.endswith(b"caf\\udce9 \\u2588\n"), found.stderr


def test_an_exit_asked_for_by_the_engine_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "quickstart", raising(SystemExit(143)))
    monkeypatch.setattr(tools.quickstart, "__name__", "quickstart")
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
    code, out, err = run("sprites", str(tmp_path / "s"), "--count", "2", "--size", "32", "--frames", "4")
    assert (code, err) == (0, "")
    assert Path(out.strip()).is_file()
    assert run("sprites", str(tmp_path / "s"), "--count", "2")[0] == 2


def test_options_of_one_meaning_have_one_name(run: Run) -> None:
    told = run("cost", "--batch", "3", "--frames", "8", "--classes", "7", "--decoder-mask", "none")
    assert told[0] == 0
    assert (
        run("cost", "--batch_size=3", "--num_frames", "8", "--num-classes", "7", "--decoder_mask", "none")
        == told
    )


def test_videos_are_counted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\n" + "clip.mp4\n" * 70)
    code, out, _ = run("cost", "--data", str(tmp_path / "list.csv"), "--epochs", "2", "--batch", "10")
    assert code == 0
    assert "run: 70 videos x 4 views x 2 epochs, 1 processes x batch 10 = 14 steps, 560 clips" in out


def test_completion_is_written_for_the_shell(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    script = tmp_path / "completion.bash"
    assert run("--install-completion", "--shell", "bash", "--output", str(script))[0] == 0
    assert "finetune" in script.read_text()
    assert "--data.train" in script.read_text()
